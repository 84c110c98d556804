"""Progress and the time left: a bar on a terminal, elsewhere a line now and then."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

#: progress, notes and errors go to stderr; stdout carries results only
console = Console(stderr=True, highlight=False)

EVERY = 30.0  #: seconds from one line to the next, where stderr is no terminal
_REDRAWN = 0.2  # seconds from one state of a bar to the next
_TRUSTED = 2.0  # stages of a kind that an expectation counts for, beside those that were seen
_NEVER = 1e8  # seconds that say no more than that nothing is known
_MEMORY = 600.0  # seconds after which a measured speed counts for a third


def note(text: str) -> None:
    """Say something on stderr, in one line whatever the width."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


class Bar:
    """What is done of an amount of work, steps or passes of an image, and when it will be all.

    Work comes in stages of several kinds; ``expected`` is what all stages of each kind are thought
    to take. What the stages so far really took corrects what is expected of those to come.
    """

    def __init__(
        self,
        description: str,
        expected: Mapping[str, float],
        told: Callable[["Bar"], object] = lambda _bar: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.text, self.done = description, "", 0.0
        self._told, self._clock = told, clock
        self._expected = defaultdict(float, expected)
        self._begun, self._taken = defaultdict[str, float](float), defaultdict[str, float](float)
        self._stages = defaultdict[str, int](int)
        # of the present stage: what was expected of it, assumed by now, and done before it
        self._kind, self._given, self._assumed, self._from = "", 0.0, 0.0, 0.0
        self._each, self._stage = 1.0, 0.0  # of an image, and what is left of the stage
        self._fast = (0.0, 0.0)  # work and seconds of late, which fade
        self._last = clock()

    def begin(self, kind: str, expected: float, text: str, each: float = 1.0) -> None:
        """End a stage and begin the next, thought to take so much; ``each`` is of an image."""
        self._correct(self.done - self._from)
        if self.done == self._from:  # it was stored, which says nothing of others
            self._begun[self._kind] -= self._given
            self.drop(self._kind, self._given)
        self._stage = expected * self._ratio(kind)
        self._kind, self._given, self._assumed = kind, expected, expected
        self._from, self._each, self.text = self.done, each, text
        self._begun[kind] += expected
        self._taken[kind] += expected
        self._stages[kind] += 1
        self.advance(0)

    def needs(self, images: int) -> None:
        """Say on how many images the present stage works, once that is known."""
        self._stage = images * self._each
        self._correct(self._stage)

    def drop(self, kind: str, expected: float) -> None:
        """Take back some of what is expected of a kind."""
        self._expected[kind] -= expected

    def _correct(self, work: float) -> None:
        self._taken[self._kind] += work - self._assumed
        self._assumed = work

    def advance(self, work: float = 1) -> None:
        """Move on by some work."""
        now = self._clock()
        kept = math.exp((self._last - now) / _MEMORY)
        self._fast = (kept * self._fast[0] + work, kept * self._fast[1] + now - self._last)
        self._last = now
        self.done += work
        self._stage = max(0.0, self._stage - work)
        self._told(self)

    def note(self, text: str) -> None:
        """Say what is being done, or how it goes."""
        self.text = text
        self._told(self)

    def _ratio(self, kind: str) -> float:
        trusted = _TRUSTED * self._begun[kind] / max(1, self._stages[kind])
        whole = trusted + self._begun[kind]
        return (trusted + self._taken[kind]) / whole if whole else 1.0

    @property
    def left(self) -> float:
        """The work that is left, as far as is known."""
        known = list(self._expected.items())
        coming = (max(0.0, e - self._begun[k]) * self._ratio(k) for k, e in known)
        return self._stage + sum(coming)

    @property
    def share(self) -> float:
        """The share that is done, in [0, 1]."""
        whole = self.done + self.left
        return self.done / whole if whole else 1.0

    @property
    def seconds_left(self) -> float | None:
        """The time that is left; None before there is any telling."""
        work, seconds = self._fast
        return self.left * seconds / work if work and seconds else None

    def __str__(self) -> str:
        about = f"{self.description}: {100 * self.share:.0f}%, {_left(self)} left"
        return f"{about}; {self.text}" if self.text else about


def _left(bar: Bar) -> str:
    seconds = bar.seconds_left
    if seconds is None or seconds > _NEVER:
        return "-:--:--"
    return str(timedelta(seconds=round(seconds)))


def _lines() -> Callable[[Bar], None]:
    last = time.monotonic()

    def tell(bar: Bar) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            note(str(bar))

    return tell


def _drawn(progress: Progress, description: str) -> Callable[[Bar], None]:
    task, last = progress.add_task(description, total=1.0, left="-:--:--", text=""), 0.0

    def tell(bar: Bar) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REDRAWN or bar.text != progress.tasks[task].fields["text"]:
            last = now
            progress.update(task, completed=bar.share, left=_left(bar), text=bar.text)

    return tell


_counting: Bar | None = None  # what passes of images move on


def passed(images: int) -> None:
    """Tell that images passed through a network, or back to their gradient."""
    if _counting is not None:
        _counting.advance(images)


@contextmanager
def stages(description: str, expected: Mapping[str, float], *, show: bool = True) -> Iterator[Bar]:
    """Show how far stages are, see `Bar`."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=6),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[left]}"),
        # what is left of the line; cut there and nowhere else
        TextColumn(
            "{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        expand=True,
        console=console,
        transient=True,
    )
    drawn = show and console.is_terminal
    # rich before 14.3 ends even a disabled display with an empty line
    with progress if drawn else nullcontext():
        told = _drawn(progress, description) if drawn else _lines() if show else lambda _bar: None
        yield Bar(description, expected, told)


@contextmanager
def passes(description: str, expected: Mapping[str, float], *, show: bool = True) -> Iterator[Bar]:
    """Show how far stages of passes are: whatever passes through a network moves them on."""
    global _counting
    with stages(description, expected, show=show) as line:
        before = _counting
        if show:  # else what passes moves on the bar around it
            _counting = line
        try:
            yield line
        finally:
            _counting = before


@contextmanager
def bar(description: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show how far a number of steps is, ``done`` of them before."""
    with stages(description, {}, show=show) as line:
        line.begin("", total - done, "")
        line.done += done
        yield line
