"""The calibration of a trained model: search on one part of the examples, test on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from oat_bench.calibration.guarantee import Count, Tested, fewest, fixed_sequence, interval, needed
from oat_bench.calibration.search import (
    Candidate,
    Goal,
    Ints,
    Probe,
    search,
    sequence,
)
from oat_bench.errors import UserError

#: share of the held-out examples that the search sees
SEARCHED = 1 / 4
#: examples attacked at a time in a test, which ends where it can no longer be passed
_CHUNK = 64


@dataclass(frozen=True)
class Estimate:
    """An accuracy on the examples of the tests.

    Attributes:
        value: a share in [0, 1].
        low: lower end of its interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: Count, confidence: float, of: int) -> "Estimate":
        """Take the exact interval of one of several accuracies; see `guarantee.interval`."""
        return cls(count.share, *interval(count, confidence, of))


@dataclass(frozen=True)
class Choice:
    """The operating point that was chosen, on the examples of the tests.

    Its intervals hold for all points of the sequence at once: it does not matter that this one was
    chosen by these examples.

    Attributes:
        candidate: the point, and what the search saw of it.
        sa: standard accuracy.
        ra: robust accuracy.
        weighted: of a goal without a bar, what it weighs.
    """

    candidate: Candidate
    sa: Estimate
    ra: Estimate
    weighted: Estimate | None


@dataclass(frozen=True)
class Outcome:
    """What a calibration found.

    Attributes:
        found: all points that the search looked at.
        sequence: the points to test, in order.
        tested: the tests, up to the first that failed; none of a goal without a bar.
        choice: None where no point passed.
        nearest: the point that is the safest, or the one chosen.
        n_search: examples that the search saw.
        n_test: examples that the tests saw.
        needed: right answers that a test takes; None without a bar.
    """

    found: list[Candidate]
    sequence: list[Candidate]
    tested: list[Tested[Candidate]]
    choice: Choice | None
    nearest: Candidate
    n_search: int
    n_test: int
    needed: int | None


def split(n: int, goal: Goal, confidence: float) -> tuple[int, int]:
    """Return how many examples the search sees, and how many the tests.

    Raises:
        UserError: if so few could not pass the bar if all were right.
    """
    n_search = max(1, round(SEARCHED * n))
    n_test = n - n_search
    if goal.barred is not None:
        least = fewest(goal.value, confidence)
        if n_test < least:
            raise UserError(
                f"{n} held-out images are too few: {n_test} of them test the bar, and to hold "
                f"{100 * goal.value:g}% with confidence {100 * confidence:g}% takes {least}, all "
                f"of them right; take {_images(least)} images or more, or lower the bar"
            )
    if not n_test:
        raise UserError(f"{n} held-out image is too few; expected at least 2")
    return n_search, n_test


def run(
    probe: Probe,
    goal: Goal,
    lambdas: Sequence[float],
    widths: Sequence[float],
    examples: Ints,
    *,
    confidence: float,
    continuous: bool,
    tester: Probe | None = None,
    said: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Calibrate what a probe answers for; see `oat_bench.calibration.calibrate`.

    Args:
        probe: answers the search.
        goal: what is looked for.
        lambdas: that the search begins with, ascending.
        widths: shares of the channels.
        examples: ids, every share of them from the first stratified.
        confidence: of the guarantee and of the intervals, in (0, 1).
        continuous: whether there are points between those of ``lambdas``.
        tester: answers the tests, on which alone the guarantee rests; ``probe`` if None.
        said: is told what is going on.

    Raises:
        UserError: if the examples are too few.
    """
    tester = tester or probe
    n_search, n_test = split(len(examples), goal, confidence)
    seen, unseen = examples[:n_search], examples[n_search:]
    least = needed(n_test, goal.value, confidence) if goal.barred is not None else None
    wanted = 0.0 if least is None else least / n_test
    found = search(probe, goal, lambdas, widths, seen, wanted, continuous=continuous, said=said)
    planned = sequence(found, goal, wanted)

    def count(one: Candidate) -> Count:
        said(f"testing lambda {one.point.lam:g}")
        if goal.barred == "sa":
            return _count(tester.clean(one.point, unseen))
        right = np.zeros(0, np.bool_)
        for start in range(0, n_test, _CHUNK):
            right = np.append(right, tester.robust(one.point, unseen[start : start + _CHUNK]))
            if least is not None and right.sum() + n_test - len(right) < least:
                break  # it fails, whatever the others are
        return _count(right)

    tested: list[Tested[Candidate]] = []
    chosen: Candidate | None = planned[0]
    if goal.barred is not None:
        tested = fixed_sequence(planned, count, goal.value, confidence)
        chosen = next((test.candidate for test in reversed(tested) if test.holds), None)
    choice = None
    if chosen is not None:
        said(f"measuring lambda {chosen.point.lam:g}")
        choice = _measure(tester, goal, chosen, unseen, confidence, len(planned))
    return Outcome(found, planned, tested, choice, chosen or planned[0], n_search, n_test, least)


def _measure(
    probe: Probe, goal: Goal, one: Candidate, examples: Ints, confidence: float, of: int
) -> Choice:
    sa, ra = _count(probe.clean(one.point, examples)), _count(probe.robust(one.point, examples))
    weighted = None
    if goal.barred is None:
        # both intervals at once, so that theirs is one too
        a, b = Estimate.of(sa, confidence, 2), Estimate.of(ra, confidence, 2)
        w = goal.value
        ends = ((a.value, b.value), (a.low, b.low), (a.high, b.high))
        weighted = Estimate(*(w * x + (1 - w) * y for x, y in ends))
    return Choice(one, Estimate.of(sa, confidence, of), Estimate.of(ra, confidence, of), weighted)


def _count(right: np.ndarray) -> Count:
    return Count(int(right.sum()), len(right))


def _images(least: int) -> int:
    """Return the fewest held-out examples of which so many test the bar."""
    n = least
    while n - max(1, round(SEARCHED * n)) < least:
        n += 1
    return n
