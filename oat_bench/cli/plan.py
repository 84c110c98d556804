"""`plan`."""

from typing import Any

import click

from oat_bench.cli.context import Planned
from oat_bench.cli.group import cli, command, command_line
from oat_bench.cli.options import count, option
from oat_bench.cli.values import Number
from oat_bench.errors import unknown

#: what computes, and can be planned
COMMANDS = (
    *("run", "train", "evaluate", "calibrate", "check"),
    *("integrity", "transfer", "corruptions"),
)


@command(
    "plan run --dataset svhn --attacks all --workers 8",
    context_settings={"ignore_unknown_options": True},
)
@count("--workers", "Machines, or GPUs, that share the work.")
@option(
    "--tflops",
    Number(min=0, min_open=True),
    "TFLOP/s that each of them reaches, a third of its peak, about. [default: as this machine]",
)
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def plan(workers: int | None, tflops: float | None, words: tuple[str, ...]) -> None:
    """Say what a command would compute, and what it takes: passes, time, memory, disk.

    COMMAND is another command with its options, that computes: run, train, evaluate, calibrate,
    check, integrity, transfer or corruptions. A few passes are timed; published data sets need not
    be there.
    """
    name, *rest = words
    if name not in COMMANDS:
        raise unknown("command that computes", name, COMMANDS)
    wanted: Any = cli.commands[name]
    planned = Planned(command_line(), workers or 1, tflops)
    here = click.get_current_context()
    with wanted.make_context(name, rest, parent=here, obj=planned) as context:
        wanted.invoke(context)
