"""What a count of right answers guarantees of an accuracy: exact binomial tests and bounds.

The held-out images are taken for independent draws of those that the classifier will meet. All
accuracies here are shares in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Generic, TypeVar

from scipy.stats import beta, binom

T = TypeVar("T")


@dataclass(frozen=True)
class Count:
    """Right answers among some examples.

    Attributes:
        right: how many are right.
        n: of how many.
    """

    right: int
    n: int

    @property
    def share(self) -> float:
        """The accuracy."""
        return self.right / self.n


@dataclass(frozen=True)
class Tested(Generic[T]):
    """A candidate, and the test of its accuracy being below the bar.

    Attributes:
        candidate: what was tested.
        count: right answers on the examples of the test.
        p_value: exact, one-sided.
        holds: whether the test is passed.
    """

    candidate: T
    count: Count
    p_value: float
    holds: bool


def p_value(count: Count, bar: float) -> float:
    """Return the exact one-sided p-value of the accuracy being below a bar in (0, 1)."""
    return float(binom.sf(count.right - 1, count.n, bar))


def needed(n: int, bar: float, confidence: float) -> int | None:
    """Return the fewest right answers of n that pass the test; None if n of n do not."""
    least = int(binom.isf(1 - confidence, n, bar)) + 1
    return least if least <= n else None


def fewest(bar: float, confidence: float) -> int:
    """Return the fewest examples with which a bar in (0, 1) can be passed: all of them right."""
    return ceil(log(1 - confidence) / log(bar) - 1e-9)


def lower_bound(count: Count, confidence: float) -> float:
    """Return the exact one-sided lower bound (Clopper and Pearson, Biometrika 26, 1934).

    It is at least the bar exactly where `p_value` is at most 1 - confidence.
    """
    if not count.right:
        return 0.0
    return float(beta.ppf(1 - confidence, count.right, count.n - count.right + 1))


def interval(count: Count, confidence: float, of: int = 1) -> tuple[float, float]:
    """Return the exact two-sided interval of one among several accuracies.

    Args:
        count: right answers.
        confidence: that all of the intervals hold at once (Bonferroni), so that it does not matter
            which one is looked at, nor why.
        of: how many intervals there are.
    """
    one_side = 1 - (1 - confidence) / (2 * of)
    wrong = Count(count.n - count.right, count.n)
    return lower_bound(count, one_side), 1 - lower_bound(wrong, one_side)


def fixed_sequence(
    candidates: Sequence[T],
    count: Callable[[T], Count],
    bar: float,
    confidence: float,
) -> list[Tested[T]]:
    """Test candidates one after the other, up to the first that fails.

    The chance that any candidate passes whose accuracy is below the bar is at most 1 - confidence,
    however many there are and however their outcomes depend on each other: for one to pass falsely,
    the first of the sequence that is below the bar has to, and that one is tested at this level.
    The sequence must not depend on the examples that are counted. (Fixed-sequence testing; Maurer,
    Hothorn and Lehmacher 1995; as Learn then Test, Angelopoulos et al., arXiv:2110.01052, sec. 2.)

    Args:
        candidates: in the order of the tests.
        count: counts right answers on the examples of the test; called only for what is tested.
        bar: in (0, 1).
        confidence: in (0, 1).
    """
    tested: list[Tested[T]] = []
    for candidate in candidates:
        found = count(candidate)
        p = p_value(found, bar)
        tested.append(Tested(candidate, found, p, p <= 1 - confidence))
        if not tested[-1].holds:
            break
    return tested
