"""Runs that are killed, and runs that meet: nothing is lost, nothing doubled, the same numbers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from oat_bench.evaluation.outcomes import OutcomeStore

pytestmark = pytest.mark.slow

#: `python -m` finds the package from any folder
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
#: how often a run is killed after some time, and how often after some files of outcomes
TIMED, COUNTED = 3, 3


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "oat_bench", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def cells(folder):
    """Return the rows of every cell of a store, by example."""
    found = {}
    for cell in sorted(path.name for path in folder.glob("*") if path.is_dir()):
        rows = OutcomeStore(folder).read(cell)
        if len(rows):
            found[cell] = rows.set_index("example").sort_index()
    return found


def assert_kept(before, after):
    """Check that what was finished is there, unchanged."""
    for cell, rows in before.items():
        pd.testing.assert_frame_equal(after[cell].loc[rows.index], rows)


def untimed(folder):
    """Return what a run reports, but for what its passes took."""
    entry = json.loads((folder / "entry.json").read_text())
    for point in entry["operating_points"]:
        point["cost"].pop("latency_ms")
    table = pd.read_csv(folder / "table.csv", dtype=str)
    text = (folder / "table.md").read_text().splitlines()
    return {
        "entry.json": json.dumps(entry),
        "table.csv": table.drop(columns=[c for c in table if "latency" in c]).to_csv(),
        "table.md": [line for line in text if " ms an image" not in line],
        **{
            name: (folder / name).read_bytes()
            for name in ("outcomes.parquet", "checkpoint.safetensors", "splits.json")
            if (folder / name).exists()
        },
    }


def test_a_run_killed_at_random_moments_ends_as_an_unbroken_one(tmp_path, brief_toml):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        # small batches: much that can be finished, or not
        (folder / "brief.toml").write_text(brief_toml + "batch_size = 5\n")
    command = ["run", "--benchmark", "brief.toml", "--out", "out"]
    command += ["--attacks", "fgsm,pgd-20", "--n-examples", "200"]

    process = start(*command, cwd=whole)
    process.stderr.readline()  # the imports are over, the work begins
    started = time.monotonic()
    while not (whole / "out" / "checkpoint.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    training = time.monotonic() - started
    finish(process)

    draw, kept, kills, sizes = random.Random(0), {}, 0, []
    outcomes = broken / "out" / "outcomes"
    for number in range(TIMED + COUNTED):
        process = start(*command, cwd=broken)
        process.stderr.readline()
        if number < TIMED:
            time.sleep(draw.uniform(0, training / 2))
        else:
            more = len(list(outcomes.rglob("*.parquet"))) + draw.randint(1, 40)
            while process.poll() is None and len(list(outcomes.rglob("*.parquet"))) < more:
                time.sleep(draw.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        now = cells(outcomes)
        assert_kept(kept, now)
        kept = now
        sizes.append(sum(map(len, kept.values())))
    assert kills >= COUNTED
    # some were killed in the midst of the grid: 200 examples, three lambda, two attacks
    assert any(0 < rows < 1200 for rows in sizes)
    finish(start(*command, cwd=broken))
    after = cells(broken / "out" / "outcomes")
    assert_kept(kept, after)
    expected = cells(whole / "out" / "outcomes")
    assert after.keys() == expected.keys()
    assert_kept(expected, after)
    got, unbroken = untimed(broken / "out"), untimed(whole / "out")
    assert got.keys() == unbroken.keys()
    for name, content in unbroken.items():
        assert got[name] == content, name


def test_two_evaluations_of_one_store_at_once_find_what_each_finds_alone(
    tmp_path, brief_toml, trained_folder
):
    shutil.copytree(trained_folder, tmp_path / "model")
    (tmp_path / "brief.toml").write_text(brief_toml + "batch_size = 5\n")
    common = ["evaluate", "--model", "model", "--benchmark", "brief.toml"]
    choices = [
        ["--lambda", "0,0.2", "--attacks", "fgsm,pgd-7"],
        ["--lambda", "0.2,1", "--attacks", "pgd-7,mi-fgsm"],
    ]
    alone = []
    for number, choice in enumerate(choices):
        finish(start(*common, *choice, "--out", f"alone-{number}", cwd=tmp_path))
        alone.append(untimed(tmp_path / f"alone-{number}"))
    processes = [start(*common, *choice, "--out", "both", cwd=tmp_path) for choice in choices]
    printed = [finish(process) for process in processes]
    both = tmp_path / "both"
    for out, single in zip(printed, alone, strict=True):
        lines = [line for line in out.splitlines() if " ms an image" not in line]
        assert lines == single["table.md"]
    # every cell of either, once, every example in it, once and as each alone found it
    singles = [cells(tmp_path / f"alone-{number}" / "outcomes") for number in range(2)]
    together = cells(both / "outcomes")
    assert together.keys() == singles[0].keys() | singles[1].keys()
    assert singles[0].keys() & singles[1].keys()
    for single in singles:
        for cell, rows in single.items():
            pd.testing.assert_frame_equal(together[cell], rows)
    for path in both.glob("outcomes/*/*"):
        assert path.suffix == ".parquet"
    # what the two wrote twice is the same
    for cell in together:
        parts = [pd.read_parquet(p) for p in Path(both / "outcomes" / cell).glob("*.parquet")]
        assert len(pd.concat(parts).drop_duplicates()) == len(together[cell])
    # the report on disk is that of one of them, whole
    left = untimed(both)
    named = [line for line in left["table.md"] if line.startswith("|")]
    assert named in [[x for x in s["table.md"] if x.startswith("|")] for s in alone]
