"""The command line: parses, calls, prints. Heavy imports wait until a command runs."""

import errno
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

# they add themselves to cli
from oat_bench.cli import (  # noqa: F401
    calibrate,
    check,
    examine,
    export,
    leaderboard,
    plan,
    reading,
    run,
)
from oat_bench.cli.group import cli
from oat_bench.errors import UserError, one_line
from oat_bench.launch import first_to_speak, launch

#: what a full disk looks like, by quota or by limit too
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: how gloo and NCCL say that another process has gone
_LOST = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "ncclRemoteError",
)
_KEPT = "what was finished is kept, the same command goes on from there"
#: how torch says that there is no memory left, on a GPU and on a CPU
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def _fail(message: str, code: int = 2) -> NoReturn:
    with suppress(OSError):  # nobody reads, or the disk behind stdout is full
        if first_to_speak():
            click.echo(f"oat-bench: {one_line(message, limit=None)}", err=True)
        sys.stdout.flush()
    # a hard exit: threads of a library that is still loading must not add a traceback
    os._exit(code)


def _explain(error: Exception) -> str | None:
    """Say in one line what the user can mend; None of a bug."""
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "oat-bench"
        return f"{error.format_message()} (see {command} --help)"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in _DISK_FULL:
            return f"the disk is full ({error.strerror}); make room, the same command goes on"
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if launch().size > 1 and any(words in str(error) for words in _LOST):
        return f"a rank was lost; {_KEPT}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return (
            "out of memory; attack fewer images at a time with --batch-size, lower batch_size in "
            "the benchmark card, or take a smaller network"
        )
    return None


def main() -> None:
    """Run the command line; turn every error of the user's into one line and exit code 2."""
    # a library that is loading may turn a Ctrl-C into another error
    interrupts: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    if launch().size > 1:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(cli(prog_name="oat-bench", standalone_mode=False))
    except Exception as error:
        if launch().size > 1:  # it ends, whatever torchrun asks for meanwhile
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if interrupts or isinstance(error, click.Abort):
            lost = ", as torchrun does where a rank is lost" if signal.SIGTERM in interrupts else ""
            _fail(f"stopped{lost}; {_KEPT}", 130)
        message = _explain(error)
        if message is None:
            raise
        _fail(message)
