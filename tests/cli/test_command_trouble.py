"""Trouble in mid-run: a full disk, Ctrl-C, a reader that leaves."""

import errno
import io
import os
import resource
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from commands import call, files, finish, start, untimed

import oat_bench
from oat_bench import run
from oat_bench.benchmark import benchmark_card
from oat_bench.evaluation import grid


def test_an_attack_that_fails_at_work_is_one_line(invoke, finished, card, tmp_path):
    attack = tmp_path / "tifgsm.toml"
    attack.write_text("engine = 'torchattacks'\nclass = 'TIFGSM'\n")
    code, out, err = invoke(
        *["run", "--benchmark", card, "--out", finished, "--n-examples", 5],
        *["--attacks", f"fgsm,{attack}", "--lambda", 0],
    )
    assert (code, out) == (2, "")
    assert "'tifgsm': torchattacks class TIFGSM fails: " in err.splitlines()[1]
    assert len(err.splitlines()) == 2
    # what was finished is kept
    kept = {path.parent.name for path in (finished / "outcomes").glob("fgsm-*/*.parquet")}
    assert kept


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), "some/file"),
        (OSError(errno.EIO, "Input/output error", "some/file"), "some/file: Input/output error"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
    ],
)
def test_trouble_with_the_machine_is_one_line(invoke, finished, card, monkeypatch, error, words):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(grid, "evaluate", fail)
    code, out, err = invoke("run", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("oat-bench: ")
    assert words in lines[1]


def test_a_bug_is_not_hidden(invoke, finished, card, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(grid, "evaluate", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        invoke("run", "--benchmark", card, "--out", finished)


def limited(kilobytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2)

    return limit


@pytest.mark.slow
def test_a_disk_that_fills_in_training(card, tmp_path):
    arguments = ["train", "--benchmark", card, "--out", "out"]
    code, out, err = call(*arguments, cwd=tmp_path, preexec_fn=limited(500))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("oat-bench: the disk is full")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["card.toml"]
    code, out, err = call(*arguments, cwd=tmp_path)
    assert (code, out) == (0, "")
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_disk_that_fills_in_an_evaluation(card, finished, tmp_path):
    import matplotlib.font_manager  # noqa: F401 - its cache is written once, here

    arguments = ["run", "--benchmark", card, "--out", finished]
    code, out, err = call(*arguments, cwd=tmp_path, preexec_fn=limited(20))
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [
        "oat-bench: the disk is full (File too large); make room, the same command goes on"
    ]
    kept = files(finished / "outcomes")
    cells = {path.parent.name.split("-lambda")[0] for path in kept}
    assert {"fgsm", "pgd-7", "network"} <= cells  # all cells: only a figure was too large
    assert not [path for path in finished.rglob("*") if path.suffix == ".tmp"]
    code, out, _ = call(*arguments, cwd=tmp_path)
    assert code == 0
    assert out.startswith((finished / "table.md").read_text())
    assert files(finished / "outcomes") == kept


def test_a_full_disk_behind_stdout(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("w") as full:
        process = start("list", "attacks", cwd=tmp_path, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("oat-bench: the disk is full")
    assert err.count("\n") == 1


def test_a_reader_that_leaves(tmp_path):
    read, write = os.pipe()
    os.close(read)
    for arguments in (["list", "attacks"], ["--help"]):
        process = start(*arguments, cwd=tmp_path, stdout=write)
        _, err = process.communicate(timeout=60)
        assert err == ""
    os.close(write)


def interrupt(process, ready):
    """Send SIGINT as soon as something is ready; return exit code, stdout, stderr."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return finish(process)


STOPPED = "oat-bench: stopped; what was finished is kept, the same command goes on from there"


@pytest.mark.slow
def test_ctrl_c_in_training(card, digits, tmp_path):
    card.write_text(card.read_text().replace("epochs = 4", "epochs = 12"))
    arguments = ["train", "--benchmark", card, "--out", "out"]
    out = tmp_path / "out"
    code, printed, err = interrupt(
        start(*arguments, cwd=tmp_path), lambda: (out / "log.csv").exists()
    )
    assert (code, printed) == (130, "")
    assert err.splitlines()[1:] == [STOPPED]
    assert {path.name for path in out.iterdir()} == {"card.toml", "training.safetensors", "log.csv"}
    done = len(pd.read_csv(out / "log.csv"))
    assert 1 <= done < 12
    rows = (out / "log.csv").read_text().splitlines()
    code, printed, err = call(*arguments, cwd=tmp_path)
    assert (code, printed) == (0, "")
    # it went on from there, to the weights of an unbroken run
    assert (out / "log.csv").read_text().splitlines()[: len(rows)] == rows
    assert pd.read_csv(out / "log.csv")["epoch"].to_list() == list(range(1, 13))
    whole = tmp_path / "whole"
    run.train(benchmark_card(str(card)), digits, whole, seed=0, device=torch.device("cpu"))
    assert oat_bench.load(whole).fingerprint() == oat_bench.load(out).fingerprint()


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation(card, finished, tmp_path):
    card.write_text(card.read_text() + "batch_size = 5\n")
    arguments = ["run", "--benchmark", card, "--attacks", "pgd-20", "--n-examples", 100]
    outcomes = finished / "outcomes"
    process = start(*arguments, "--out", finished, cwd=tmp_path)
    code, printed, err = interrupt(process, lambda: len(list(outcomes.rglob("*.parquet"))) > 2)
    assert (code, printed) == (130, "")
    assert err.splitlines()[1:] == [STOPPED]
    kept = files(outcomes)
    assert len(kept) >= 3
    assert not [path for path in finished.rglob("*") if path.suffix == ".tmp"]
    code, printed, err = call(*arguments, "--out", finished, cwd=tmp_path)
    assert code == 0
    assert len(err.splitlines()) == 2  # trained already; where results are
    after = files(outcomes)
    assert len(after) > len(kept)
    assert {path: after[path] for path in kept} == kept
    # the same numbers as without an interruption
    code, unbroken, _ = call(
        *["evaluate", "--model", finished, *arguments[1:], "--out", "unbroken"], cwd=tmp_path
    )
    assert code == 0
    assert untimed(unbroken) == untimed(printed)
    whole = files(tmp_path / "unbroken" / "outcomes")
    names = [{path.parent.name + path.name for path in found} for found in (after, whole)]
    assert names[0] == names[1]


def test_ctrl_c_is_one_line(invoke, finished, card, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    for module, name in ((grid, "evaluate"), (run, "prepare_attacks")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            code, out, err = invoke("run", "--benchmark", card, "--out", finished)
        assert (code, out) == (130, "")
        assert err.splitlines()[-1] == STOPPED
        assert "\n\n" not in err


def test_ctrl_c_that_a_loading_library_turns_into_another_error(invoke, card, monkeypatch):
    def load(*_args, **_kwargs):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(run, "prepare_attacks", load)
    code, out, err = invoke("run", "--benchmark", card)
    assert (code, out, err) == (130, "", STOPPED + "\n")


def test_the_table_of_a_pipe_can_be_parsed(invoke, finished, card):
    code, out, _ = invoke("run", "--benchmark", card, "--out", finished)
    assert code == 0
    frame = pd.read_csv(io.StringIO((finished / "table.csv").read_text()))
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line[:1] == "|"][2:]
    for row, expected in zip(rows, frame.to_dict("records"), strict=True):
        assert float(row[2].split()[0]) == pytest.approx(expected["SA"], abs=0.051)
