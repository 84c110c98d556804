"""Two classifiers on the same examples: the score test and interval of a difference.

Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17, 1998. At a difference of zero the statistic is
McNemar's.
"""

import math

from scipy.optimize import brentq
from scipy.stats import norm


def score(gained: int, lost: int, n: int, difference: float) -> float:
    """Return Tango's score statistic, about standard normal where ``difference`` is the truth.

    Args:
        gained: examples that only the second classifier has right.
        lost: examples that only the first has right.
        n: all examples.
        difference: share right of the second less that of the first, in (-1, 1).

    Raises:
        ValueError: if the counts do not fit n, or the difference is not inside (-1, 1).
    """
    if not (gained >= 0 and lost >= 0 and gained + lost <= n and n):
        raise ValueError(f"{gained} gained and {lost} lost of {n} examples")
    if not -1 < difference < 1:
        raise ValueError(f"difference is {difference}; expected one in (-1, 1)")
    a, c = 2.0 * n, -lost * difference * (1 - difference)
    b = -gained - lost + (2 * n - gained + lost) * difference
    # the share lost, by maximum likelihood under this difference
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * share + difference * (1 - difference))
    surplus = gained - lost - n * difference
    if variance <= 1e-12:
        return 0.0 if abs(surplus) < 1e-9 else math.copysign(math.inf, surplus)
    return surplus / math.sqrt(variance)


def drop_p_value(gained: int, lost: int, n: int, tolerance: float) -> float:
    """Return the one-sided p-value of the drop being no larger than ``tolerance``.

    Args:
        gained: examples that only the second classifier has right.
        lost: examples that only the first has right.
        n: all examples.
        tolerance: share in [0, 1).
    """
    return float(norm.cdf(score(gained, lost, n, -tolerance)))


def interval(gained: int, lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Tango's two-sided interval of the second's share less the first's."""
    z, end = float(norm.ppf(0.5 + confidence / 2)), 1 - 1e-9
    middle = (gained - lost) / n

    def bound(target: float, outer: float) -> float:
        if (score(gained, lost, n, outer) - target) * (score(gained, lost, n, middle) - target) > 0:
            return math.copysign(1.0, outer)
        return float(brentq(lambda d: score(gained, lost, n, d) - target, middle, outer))

    middle = min(max(middle, -end + 1e-9), end - 1e-9)
    return bound(z, -end), bound(-z, end)
