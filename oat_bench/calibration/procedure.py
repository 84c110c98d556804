"""The calibration of a trained model: search on one part of the examples, test on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from pydantic import Field

from oat_bench.calibration import guarantee
from oat_bench.calibration.guarantee import BarTest, Count, interval
from oat_bench.calibration.search import Candidate, Goal, Probe, search, sequence
from oat_bench.errors import UserError
from oat_bench.statistics.accuracy import Estimate
from oat_bench.statistics.frontier import Ints
from oat_bench.written import Written

SEARCHED = 1 / 4  # share of the held-out examples that the search sees
_CHUNK = 64  # examples attacked at a time in a test, which ends where it can no longer be passed


class ChosenPoint(Written):
    """The operating point that was chosen; intervals hold for all of the sequence at once."""

    lam: float
    width: float
    sa: Estimate
    ra: Estimate = Field(description="under `attack`")
    weighted: Estimate | None = Field(description="of a goal without a bar: W SA + (1 - W) RA")


@dataclass(frozen=True)
class Outcome:
    """What a calibration found."""

    found: list[Candidate]  # all that the search looked at
    sequence: list[Candidate]  # to test, in order
    tested: list[BarTest]  # up to the first that failed; none of a goal without a bar
    choice: ChosenPoint | None  # None: no point passed
    n_search: int
    n_test: int  # others than those of the search
    needed: int | None  # right answers that a test takes; None without a bar


def split(n: int, goal: Goal, confidence: float) -> tuple[int, int]:
    """Return how many examples the search sees, and how many the tests; too few are refused."""
    n_search = max(1, round(SEARCHED * n))
    n_test = n - n_search
    if goal.barred is not None:
        least = guarantee.fewest(goal.value, confidence)
        if n_test < least:
            images = next(m for m in count(least) if m - max(1, round(SEARCHED * m)) >= least)
            raise UserError(
                f"{n} held-out images are too few: {n_test} of them test the bar, and to hold "
                f"{100 * goal.value:g}% with confidence {100 * confidence:g}% takes {least}, all "
                f"of them right; take {images} images or more, or lower the bar"
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
    tester: Probe,
    said: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Search what a probe answers for; ``tester`` answers the tests and measures the choice."""
    n_search, n_test = split(len(examples), goal, confidence)
    seen, unseen = examples[:n_search], examples[n_search:]
    least = guarantee.needed(n_test, goal.value, confidence) if goal.barred is not None else None
    wanted = 0.0 if least is None else least / n_test
    found = search(probe, goal, lambdas, widths, seen, wanted, continuous=continuous, said=said)
    planned = sequence(found, goal, wanted)

    def right_of(one: Candidate) -> Count:
        said(f"testing lambda {one.point.lam:g}")
        if goal.barred == "SA":
            return Count.among(tester.clean(one.point, unseen))
        right = np.zeros(0, np.bool_)
        for start in range(0, n_test, _CHUNK):
            right = np.append(right, tester.robust(one.point, unseen[start : start + _CHUNK]))
            if least is not None and right.sum() + n_test - len(right) < least:
                break  # it fails, whatever the others are
        return Count.among(right)

    tests, held, choice = [], 1, None
    if goal.barred is not None:
        tests = guarantee.fixed_sequence(planned, right_of, goal.value, confidence)
        held = sum(test.holds for test in tests)
    if held:
        point, of = planned[held - 1].point, len(planned)
        said(f"measuring lambda {point.lam:g}")
        sa, ra = map(Count.among, (tester.clean(point, unseen), tester.robust(point, unseen)))
        weighted = None
        if goal.barred is None:  # both intervals at once, so that theirs is one too
            a, b, w = interval(sa, confidence, 2), interval(ra, confidence, 2), goal.value
            ends = [w * x + (1 - w) * y for (_, x), (_, y) in zip(a, b, strict=True)]
            weighted = Estimate(value=ends[0], low=ends[1], high=ends[2])
        choice = ChosenPoint(
            lam=point.lam,
            width=point.width,
            sa=interval(sa, confidence, of),
            ra=interval(ra, confidence, of),
            weighted=weighted,
        )
    return Outcome(found, planned, tests, choice, n_search, n_test, least)
