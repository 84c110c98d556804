"""Progress bars on a terminal, silence elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

#: progress, notes and errors go to stderr; stdout carries results only
console = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Say something on stderr, in one line whatever the width."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


class Bar:
    """One line of progress: `advance` it, and tell it what to say at the end."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def advance(self, steps: float = 1) -> None:
        """Move on by some steps."""
        self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show some words behind the bar."""
        self._progress.update(self._task, note=text)


@contextmanager
def bar(description: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show a progress bar, ``done`` steps in; nothing where stderr is no terminal."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # what is left of the line; cut there and nowhere else
        TextColumn(
            "{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        expand=True,
        console=console,
        transient=True,
    )
    # rich before 14.3 ends even a disabled display with an empty line
    with progress if show and console.is_terminal else nullcontext():
        line = Bar(progress, description, total)
        line.advance(done)
        yield line
