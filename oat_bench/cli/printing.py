"""What commands print to a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: the width of a table where nothing needs to be folded, as in a pipe
UNFOLDED = 10_000


def print_whole(console: "Console", table: "Table") -> None:
    """Print a table whose numbers are never cut: one wider than the terminal runs over."""
    from rich.console import Console

    whole = console.measure(table, options=console.options.update(width=UNFOLDED)).maximum
    Console(width=max(whole, console.width)).print(table)
