"""Commands on a model of one's own: `./mine.py:build`."""

import json
import shutil
from pathlib import Path

import pytest

from oat_bench.results.entries import Entry

MINE = """
import torch
from torch import nn
from pathlib import Path


class Dial:
    def __init__(self, net):
        self.net = net

    def at(self, lam):
        return nn.Sequential(self.net, Scale(1 + lam)).eval()


class Scale(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


def build(seed="0"):
    torch.manual_seed(int(seed))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def dial():
    return Dial(build())


def broken():
    raise OSError("no weights here")
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return "./mine.py:"


def test_a_function_is_evaluated_and_checked_against_its_own_baseline(invoke, mine):
    options = ["--dataset", "digits", "--attacks", "fgsm", "--n-examples", "20"]
    code, out, err = invoke("evaluate", f"{mine}build", *options, "--out", "there")
    assert (code, err) == (0, "table, entry, outcomes and figures in there\n")
    assert out.startswith("**digits, mine.build, ")
    entry = Entry.model_validate_json(Path("there/entry.json").read_text())
    assert len(entry.operating_points) == 1  # it has no dial
    for old, new in (("entry.json", "base.json"), ("outcomes.parquet", "base.parquet")):
        shutil.copy(Path("there") / old, new)
    check = ["--baseline", "base.json", "--dataset", "digits", "--format", "json"]
    code, out, err = invoke("check", f"{mine}build", *check)
    assert (code, err.startswith("outcomes in runs/")) == (0, True)
    assert json.loads(out)["verdict"] == "ok"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("integrity", ["--attacks", "fgsm", "--lambda", "1"]),
        ("transfer", ["--attack", "fgsm", "--lambda", "0.2,1"]),
        ("corruptions", ["--lambda", "1"]),
        ("calibrate", ["--sa-weight", "0.5", "--split", "test", "--attack", "fgsm"]),
    ],
)
def test_a_dial_goes_through_the_other_commands(invoke, mine, command, options):
    common = ["--dataset", "digits", "--n-examples", "20", "--out", "there"]
    code, out, err = invoke(command, f"{mine}dial", *options, *common)
    assert code == (1 if "attack integrity: fail" in out else 0), err
    assert "Dial" in out


def test_what_cannot_be_built_is_one_line(refused, mine):
    for arguments, words in (
        (["evaluate", f"{mine}build"], "name what it classifies with --dataset"),
        (["integrity", f"{mine}build"], "name what it classifies with --dataset"),
        (["evaluate", f"{mine}bild", "--dataset", "digits"], "has no function 'bild'"),
        (["evaluate", f"{mine}broken", "--dataset", "digits"], "raises OSError: no weights here"),
        (["check", "./no.py:f", "--dataset", "digits", "--baseline", "x"], "no entry at x"),
        (["transfer", "./no.py:f", "--dataset", "digits"], "no file at no.py"),
    ):
        assert words in refused(*arguments)
