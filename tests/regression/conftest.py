"""A baseline as users keep it, and the command line in this process."""

import os
import signal
import sys

import pytest
from making import measure, publish

from oat_bench import cli
from oat_bench.classifier import load


@pytest.fixture(scope="session")
def honest(trained_folder):
    """A classifier that is right and robust more often than not; not to be changed."""
    return load(trained_folder)


@pytest.fixture(scope="session")
def measured(honest, digits):
    return measure(honest, digits)


@pytest.fixture
def baseline(tmp_path, honest, digits, measured):
    return publish(tmp_path / "digits.json", honest, digits, *measured)


@pytest.fixture
def invoke(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["oat-bench", *map(str, arguments)])
        capsys.readouterr()
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(SystemExit) as stop:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, handler)
        return stop.value.code or 0, *capsys.readouterr()

    return invoke
