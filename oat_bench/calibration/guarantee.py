"""What a count of right answers, of independent draws, guarantees of an accuracy: exact bounds.

Bars and confidences are shares in (0, 1).
"""

import itertools
from collections.abc import Callable, Sequence
from math import floor, log
from typing import Self, TypeVar

from pydantic import Field
from scipy.special import bdtrc
from scipy.stats import beta, binom

from oat_bench.statistics.accuracy import Estimate
from oat_bench.statistics.frontier import Bools
from oat_bench.written import Written

T = TypeVar("T")


class Count(Written):
    """Right answers among some examples."""

    value: float = Field(description="percent")
    right: int
    n: int

    @classmethod
    def of(cls, right: int, n: int) -> Self:
        """Count, of at least one example."""
        return cls(value=round(100 * right / n, 2), right=right, n=n)

    @classmethod
    def among(cls, right: Bools) -> Self:
        """Count what is right."""
        return cls.of(int(right.sum()), len(right))

    @property
    def share(self) -> float:
        """The accuracy, not rounded."""
        return self.right / self.n


class BarTest(Written):
    """The test of an operating point against the bar."""

    place: int = Field(description="in the sequence, from 1")
    counted: Count = Field(description="the accuracy that has the bar; cut short where it failed")
    p_value: float = Field(description="exact, one-sided, of the accuracy being below the bar")
    bound: float = Field(description="exact one-sided lower bound of this point alone, percent")
    holds: bool


def p_value(count: Count, bar: float) -> float:
    """Return the exact one-sided p-value of the accuracy being below a bar."""
    return float(bdtrc(count.right - 1, count.n, bar)) if count.right else 1.0


def passes(right: int, n: int, bar: float, confidence: float) -> bool:
    """Return whether so many right answers of n show an accuracy of at least the bar."""
    return p_value(Count.of(right, n), bar) <= 1 - confidence


def needed(n: int, bar: float, confidence: float) -> int | None:
    """Return the fewest right answers of n that pass the test; None if n of n do not."""
    near = max(int(binom.isf(1 - confidence, n, bar)) - 1, 0)  # rounding may decide
    return next((k for k in range(near, n + 1) if passes(k, n, bar, confidence)), None)


def fewest(bar: float, confidence: float) -> int:
    """Return the fewest examples with which a bar can be passed: all of them right."""
    near = max(floor(log(1 - confidence) / log(bar)) - 1, 1)  # rounding may decide
    return next(n for n in itertools.count(near) if passes(n, n, bar, confidence))


def lower_bound(right: int, n: int, confidence: float) -> float:
    """Return the one-sided lower bound, a share (Clopper and Pearson, Biometrika 26, 1934)."""
    return float(beta.ppf(1 - confidence, right, n - right + 1)) if right else 0.0


def interval(count: Count, confidence: float, of: int = 1) -> Estimate:
    """Return an accuracy in percent with its exact interval; ``of`` such hold at once."""
    one_side, n = 1 - (1 - confidence) / (2 * of), count.n  # Bonferroni
    low = lower_bound(count.right, n, one_side)
    high = 1 - lower_bound(n - count.right, n, one_side)
    return Estimate(value=100 * count.share, low=100 * low, high=100 * high)


def fixed_sequence(
    candidates: Sequence[T], count: Callable[[T], Count], bar: float, confidence: float
) -> list[BarTest]:
    """Test candidates in order against the bar, up to the first that fails.

    The chance that one below the bar passes is at most 1 - confidence, however many there are: the
    first of them has to. The sequence must not depend on the examples that are counted. (Maurer,
    Hothorn and Lehmacher 1995; Learn then Test, Angelopoulos et al., arXiv:2110.01052, sec. 2.)
    """
    tests: list[BarTest] = []
    for place, candidate in enumerate(candidates, 1):
        counted = count(candidate)
        p = p_value(counted, bar)
        bound = round(100 * lower_bound(counted.right, counted.n, confidence), 2)
        holds = p <= 1 - confidence
        tests.append(BarTest(place=place, counted=counted, p_value=p, bound=bound, holds=holds))
        if not holds:
            break
    return tests
