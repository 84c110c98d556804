"""Runs that are killed at any moment, and runs that share a folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from oat_bench.results.outcomes import OutcomeStore

#: trained in seconds, attacked in many small batches
CARD = """
dataset = "digits"
[network]
architecture = "wrn-10-1"
encoding_dim = 8
[threat]
eps = 0.2
step_size = 0.05
[training]
epochs = 2
batch_size = 128
lr = 0.1
attack_steps = 1
lambdas = [0, 1]
[evaluation]
lambdas = [0, 0.2, 1]
attacks = "fgsm,pgd-7,pgd-20"
n_examples = 100
batch_size = 20
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "oat_bench", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


def cells(folder):
    """Every outcome on disk, by cell."""
    store = OutcomeStore(folder / "outcomes")
    names = [path.name for path in (folder / "outcomes").glob("*/")]
    return {name: store.read(name).sort_values("example", ignore_index=True) for name in names}


def report(folder):
    """All that a run writes of its numbers, but for what is timed."""
    entry = json.loads((folder / "entry.json").read_text())
    for point in entry["operating_points"]:
        point["cost"].pop("latency_ms")
        point["cost"].pop("latency_spread")
        point.pop("attack_costs")  # what was killed is computed in other groups
    table = pd.read_csv(folder / "table.csv").drop(columns="latency, ms")
    return entry, table


def same(folder, other):
    ours, theirs = cells(folder), cells(other)
    assert ours.keys() == theirs.keys()
    for name, rows in ours.items():
        pd.testing.assert_frame_equal(rows, theirs[name])
    assert (folder / "outcomes.parquet").read_bytes() == (other / "outcomes.parquet").read_bytes()
    (entry, table), (entry_there, table_there) = report(folder), report(other)
    assert entry == entry_there
    pd.testing.assert_frame_equal(table, table_there)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "card.toml").write_text(CARD)
    started = time.monotonic()
    finish(start(folder, "run", "--benchmark", "card.toml", "--out", "run"))
    (folder / "seconds").write_text(str(time.monotonic() - started))
    return folder


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(unbroken, tmp_path):
    (tmp_path / "card.toml").write_text(CARD)
    draw, folder, kills = random.Random(0), tmp_path / "run", 0
    whole = float((unbroken / "seconds").read_text())
    command = ("run", "--benchmark", "card.toml", "--out", "run")
    for _ in range(10):
        kept = cells(folder) if (folder / "outcomes").exists() else {}
        if kills > 2 and kept:
            break
        process = start(tmp_path, *command)
        # from before the first step to the middle of the attacks; a run goes on where the last was
        time.sleep(whole * draw.uniform(0.3, 0.55))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if kept:
            now = cells(folder)
            for name, rows in kept.items():
                merged = now[name][now[name]["example"].isin(rows["example"])]
                pd.testing.assert_frame_equal(merged.reset_index(drop=True), rows)
    finish(start(tmp_path, *command))
    assert kills >= 2
    same(folder, unbroken / "run")


@pytest.mark.slow
def test_two_evaluations_at_once_neither_lose_nor_double_a_cell(unbroken, tmp_path):
    (tmp_path / "card.toml").write_text(CARD)
    checkpoint = str(unbroken / "run" / "checkpoint.safetensors")
    common = ("--model", checkpoint, "--benchmark", "card.toml", "--out", "shared")
    first = start(tmp_path, "evaluate", *common)
    second = start(tmp_path, "evaluate", *common)
    finish(first)
    finish(second)
    ours, theirs = cells(tmp_path / "shared"), cells(unbroken / "run")
    assert ours.keys() == theirs.keys()
    for name, rows in ours.items():
        pd.testing.assert_frame_equal(rows, theirs[name])
        assert rows["example"].is_unique
    outcomes = [folder / "outcomes.parquet" for folder in (tmp_path / "shared", unbroken / "run")]
    assert outcomes[0].read_bytes() == outcomes[1].read_bytes()
