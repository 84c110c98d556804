"""What commands print to a terminal, and how they write down what they were asked."""

import shlex
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from oat_bench.reports.table import Page


def command_line(*options: str) -> str:
    """Return this command as a shell takes it, with further options, in valid UTF-8."""
    # options go before arguments, of which ``--`` may be one
    written = shlex.join(["oat-bench", *sys.argv[1:2], *options, *sys.argv[2:]])
    return written.encode(errors="backslashreplace").decode()


def plain_console() -> "Console":
    """Return a console that takes text for text: no markup, no colours of its own."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def show(page: "Page", where: str = "") -> None:
    """Draw a report in a terminal, and say where its files are; in a pipe write it as Markdown."""
    console = plain_console()
    if not console.is_terminal:
        click.echo(page.markdown(), nl=False)
        return
    page.draw(console)
    if where:
        console.print(where, soft_wrap=True)
