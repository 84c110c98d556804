"""`--ray`: a cluster of this machine's cores gives the outcomes of one process."""

import re
import socket
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("ray", reason="--ray needs the extra [ray]")

#: a network whose process is killed in the middle of a cell, once, where it is a worker's
SOURCE = """
import os, signal
from pathlib import Path
import torch


class Frail(torch.nn.Sequential):
    driver, calls = os.getpid(), 0

    def forward(self, x):
        self.calls += 1
        mark = Path({mark!r})
        if os.getpid() != self.driver and self.calls == 8 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def build():
    torch.manual_seed(0)
    network = Frail(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    network.driver = os.getpid()
    return network
"""


def test_a_worker_that_is_killed_in_mid_cell_is_replaced(invoke, tmp_path):
    Path("frail.py").write_text(SOURCE.format(mark=str(tmp_path / "killed")))
    few = ["--attacks", "noise,fgsm", "--n-examples", "300,fgsm=10", "--batch-size", "20"]
    command = ["evaluate", "./frail.py:build", "--dataset", "digits", *few]
    code, _, err = invoke(*command, "--out", "alone")
    assert code == 0, err
    code, out, err = invoke(*command, "--out", "shared", "--ray")
    assert code == 0, err
    assert (tmp_path / "killed").exists()
    assert re.search(r"\d+ blocks by .*workers? of Ray: \d+ worker seconds in \d+ s", err)
    assert "digits" in out
    frames = [Path(folder, "outcomes.parquet").read_bytes() for folder in ("alone", "shared")]
    assert frames[0] == frames[1]
    rows = pd.read_parquet("shared/outcomes.parquet")["attack"].value_counts()
    assert rows.to_dict() == {"noise": 300, "fgsm": 10}
    assert list(Path("shared/outcomes").glob(".mark*")) == []


def test_an_address_at_which_nobody_listens_is_refused_at_once(refused):
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused("evaluate", "digits/oat-wrn-10-1", "--attacks", "fgsm", "--ray", address)
    assert f"no Ray cluster at {address}" in line
    assert "expected HOST:PORT, or no address to start one here" in line
