"""What commands print to a terminal, and how they write down what they were asked."""

import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: the width of a table where nothing needs to be folded, as in a pipe
UNFOLDED = 10_000


def command_line(*options: str) -> str:
    """Return this command as a shell takes it, with further options, in valid UTF-8."""
    # options go before arguments, of which ``--`` may be one
    written = shlex.join(["oat-bench", *sys.argv[1:2], *options, *sys.argv[2:]])
    return written.encode(errors="backslashreplace").decode()


def plain_console() -> "Console":
    """Return a console that takes text for text: no markup, no colours of its own."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def print_whole(console: "Console", table: "Table") -> None:
    """Print a table whose numbers are never cut: one wider than the terminal runs over."""
    from rich.console import Console

    whole = console.measure(table, options=console.options.update(width=UNFOLDED)).maximum
    Console(width=max(whole, console.width)).print(table)
