"""Ways to run the command line: in a process of its own, in a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from click.testing import CliRunner

from oat_bench.cli import cli

FIGURES = ["frontier", "attacks", "lambda", "unseen", "bn-statistics", "saliency"]
OAT_BENCH = [sys.executable, "-m", "oat_bench"]
#: a checkout is found by `python -m` from any folder, one thread is enough for tests
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": ""}


def start(*arguments, cwd, **options):
    return subprocess.Popen(
        [*OAT_BENCH, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def call(*arguments, cwd, **options):
    return finish(start(*arguments, cwd=cwd, **options))


def run_here(*arguments, cwd):
    """Run in this process, in a folder: what it printed to stdout. Errors are raised."""
    arguments = list(map(str, arguments))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["oat-bench", *arguments])
        result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def untimed(table):
    """Leave out what is timed anew in another folder: the latency, and the seconds of attacks."""
    table = re.sub(r"[\d.]+ ms an image \(.*?\)", "", table)
    return re.sub(r"(passes each), [\d.,]+ s", r"\1", table)


def in_terminal(*arguments, cwd, columns):
    """Run in a pseudo-terminal: exit code, what it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execvpe(sys.executable, [*OAT_BENCH, *map(str, arguments)], ENVIRONMENT)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()
