"""Two classifiers on the same examples: what only the first has right is lost, else gained."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.optimize import brentq
from scipy.stats import beta, binom, binomtest, norm

from oat_bench.statistics.accuracy import Estimate

Floats = NDArray[np.float64]

POWER = 0.8  # chance to find the drops that are called detectable
_MISSED = 1e-6  # chance that a nuisance parameter's interval misses it; added to every exact p
_GRID = 64  # values of the nuisance parameter that p is the largest over, then near the best
_NEGLIGIBLE = 1e-12  # what of a distribution's tail is left out of an exact p
#: where a Laplace transform is summed, by the inverse hyperbolic sine of the height over its scale
_ALONG = np.arange(0.0, 20.0, 0.05)


class Paired(Estimate):
    """What accuracy is above another's, in points; the interval is that of `interval`."""

    p_value: float = Field(description="of McNemar's exact test; see `mcnemar`")
    n: int = Field(description="number of examples")
    exact: bool = Field(
        default=True, description="false: of two-phase estimates; see `oat_bench.statistics.phases`"
    )


def paired(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare which of the same examples two classifiers have right, each bool of shape [n]."""
    a, b = np.asarray(first, dtype=np.bool_), np.asarray(second, dtype=np.bool_)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"shapes {a.shape} and {b.shape}; expected the same [n], n >= 1")
    only_a, only_b, n = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    low, high = (100 * end for end in interval(a.astype(np.float64) - b))
    value, p_value = 100 * (only_a - only_b) / n, mcnemar(only_a, only_b)
    return Paired(value=value, low=low, high=high, p_value=p_value, n=n)


def mcnemar(
    only_first: int, only_second: int, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """Return the p-value of McNemar's exact test (Psychometrika 12, 1947)."""
    n = only_first + only_second
    return float(binomtest(only_first, n, alternative=alternative).pvalue) if n else 1.0


def interval(
    differences: ArrayLike, confidence: float = 0.95, *, added: float = 1.0
) -> tuple[float, float]:
    """Return the interval of a mean difference, in [-1, 1] (Agresti and Min, Stat. Med. 24, 2005).

    Wald's with two more examples; one changes: it has a width where nothing changed. ``added`` is
    the square of that change, more than 1 where an example stands for others too.
    """
    mean, error = _wald(differences, added)
    margin = float(norm.ppf((1 + confidence) / 2)) * error
    return max(mean - margin, -1.0), min(mean + margin, 1.0)


def share_drop_p_value(differences: ArrayLike, added: float, tolerance: float = 0.0) -> float:
    """Test, by `interval`, the hypothesis that a mean drops by at most ``tolerance``."""
    mean, error = _wald(differences, added)
    return float(norm.sf((mean - tolerance) / error))


def _wald(differences: ArrayLike, added: float) -> tuple[float, float]:
    # the mean of the differences and of two more examples, and its standard error
    d = np.asarray(differences, dtype=np.float64)
    n = len(d) + 2
    mean = float(d.sum()) / n
    return mean, float(np.sqrt(((float((d**2).sum()) + added) / n - mean**2) / n))


def score(lost: ArrayLike, gained: ArrayLike, n: int, tolerance: float) -> Floats:
    """Return the score (Tango, Stat. Med. 17, 1998) of a drop by ``tolerance``, in [0, 1).

    (Lost - gained)/n less the tolerance, over its standard error if that is the drop; broadcasts.
    """
    b, c = np.asarray(lost, dtype=np.float64), np.asarray(gained, dtype=np.float64)
    # the likeliest share of gained examples, if the shares differ by the tolerance
    first = (2 * n - b + c) * tolerance - b - c
    last = -c * tolerance * (1 - tolerance)
    share = (np.sqrt(first**2 - 8 * n * last) - first) / (4 * n)
    error = np.sqrt(n * (2 * share + tolerance * (1 - tolerance)))
    above = b - c - n * tolerance
    return np.divide(above, error, out=np.zeros_like(above), where=error > 0)


def drop_p_value(lost: int, gained: int, n: int, tolerance: float = 0.0) -> float:
    """Test the hypothesis that accuracy drops by at most ``tolerance``, a share in [0, 1).

    Exact: the largest probability of such a score over the shares of gained examples that the data
    do not rule out (Sidik, Statistics in Medicine 22, 2003; Berger and Boos, JASA 89, 1994).
    """
    observed = float(score(lost, gained, n, tolerance))
    if observed <= 0:
        return 1.0
    tail, most = _MISSED / 2, (1 - tolerance) / 2
    low = min(float(beta.ppf(tail, gained, n - gained + 1)), most) if gained else 0.0
    high = min(float(beta.isf(tail, gained + 1, n - gained)), most) if gained < n else most
    cells = np.arange(binom.ppf(_NEGLIGIBLE, n, low), binom.isf(_NEGLIGIBLE, n, high) + 1)
    needed = _least_lost(cells, n, tolerance, observed)

    def chances(shares: Floats) -> Floats:
        q = shares[:, None]
        rest = np.clip((q + tolerance) / (1 - q), 0.0, 1.0)
        tables = np.asarray(binom.pmf(cells, n, q) * binom.sf(needed - 1, n - cells, rest))
        return np.asarray(tables.sum(axis=1))

    shares = np.linspace(low, high, _GRID)
    found = chances(shares)
    best = int(found.argmax())
    near = np.linspace(shares[max(best - 1, 0)], shares[min(best + 1, _GRID - 1)], _GRID)
    return min(1.0, float(max(found.max(), chances(near).max())) + _MISSED + 2 * _NEGLIGIBLE)


def _least_lost(gained: Floats, n: int, tolerance: float, threshold: float) -> Floats:
    """Return how many lost examples make the score, which grows with them, reach a threshold."""
    low, high = np.zeros_like(gained), n - gained + 1
    while (low < high).any():
        middle = np.floor((low + high) / 2)
        reached = score(middle, gained, n, tolerance) >= threshold - 1e-9
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return high


def mean_drop_p_value(differences: ArrayLike, tolerance: float = 0.0) -> float:
    """Test the hypothesis that a mean over several operating points drops by at most ``tolerance``.

    Gaffke's test (Mathematical Methods of Statistics 14, 2005; its level: arXiv:2607.08415) of each
    example's mean drop d, in [-1, 1]: the probability that sum_i (d_i - tolerance) E_i <=
    (1 + tolerance) E_0, E independent standard exponentials; E_0 is one more example, all gained.
    """
    return _gaffke(*_distinct(np.asarray(differences, dtype=np.float64)), tolerance)


def mean_interval(differences: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the means that `mean_drop_p_value` does not reject, half of the error at each end."""
    d = np.asarray(differences, dtype=np.float64)

    def low(values: Floats, counts: Floats) -> float:
        most, level = values.max(initial=-1.0), (1 - confidence) / 2
        if most <= -1:
            return -1.0
        return float(brentq(lambda mean: _gaffke(values, counts, mean) - level, -1 + 1e-9, most))

    return low(*_distinct(d)), -low(*_distinct(-d))


def _distinct(d: Floats) -> tuple[Floats, Floats]:
    values, counts = np.unique(d.round(12), return_counts=True)  # 5/6 - 4/6 is not 1/6
    return values, counts.astype(np.float64)


def _gaffke(values: Floats, counts: Floats, mean: float) -> float:
    # of a sum of gamma variables: its Laplace transform, inverted on the line through the saddle
    # point, is precise however small (Daniels, Annals of Mathematical Statistics 25, 1954)
    if values.max(initial=-1.0) <= mean:
        return 1.0
    a, k = np.append(values - mean, -1 - mean), np.append(counts, 1.0)
    if likely := bool(a @ k < 0):  # the other tail has a saddle point
        a = -a
    left = 1 / a.min()
    at = brentq(lambda s: (k * a / (1 - a * s)).sum() - 1 / s, left * (1 - 1e-12), left * 1e-12)
    scale = ((k * (a / (1 - a * at)) ** 2).sum() + at**-2) ** -0.5
    s = at + 1j * scale * np.sinh(_ALONG)
    density = np.exp(-(np.log(1 - np.outer(s, a)) @ k)) / -s * scale * np.cosh(_ALONG)
    total = density.real.sum() - density.real[0] / 2
    tail = min(1.0, float(total) * _ALONG[1] / np.pi)
    return float(1 - tail if likely else tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for several tests, however dependent (Holm, Scand. J. Statistics 6, 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def detectable_share_drop(
    differences: ArrayLike, added: float, tolerance: float, level: float
) -> float:
    """Do as `detectable_drop` does, of `share_drop_p_value`."""
    _, error = _wald(differences, added)
    return tolerance + float(norm.isf(level) + norm.ppf(POWER)) * error


def detectable_drop(
    differences: ArrayLike, tolerance: float, level: float, *, mean: bool = False
) -> float:
    """Return about the smallest true drop, a share, found with probability `POWER`; or infinity.

    As many examples are assumed to change as did in ``differences``, and what drops beyond their
    net change comes on top. The level is one-sided; ``mean``: of `mean_drop_p_value`.
    """
    d = np.asarray(differences, dtype=np.float64)

    def lacking(drop: float) -> float:
        lost_one = (1 + tolerance) / len(d) if mean else 0.0  # the example that Gaffke's test adds
        apart = (drop - tolerance - lost_one) * float(np.sqrt(len(d)))
        return apart - _spread(d, drop, tolerance, level, mean)

    smallest, most = tolerance + 1e-6, 1 - max(float(np.abs(d).mean() - abs(d.mean())), 0.0)
    if smallest >= most or lacking(most) < 0:
        return float("inf")
    return smallest if lacking(smallest) >= 0 else float(brentq(lacking, smallest, most))


def examples_needed(
    differences: ArrayLike, drop: float, tolerance: float, level: float, *, mean: bool = False
) -> int:
    """Return about how many examples find a true drop, a share; see `detectable_drop`."""
    d, apart = np.asarray(differences, dtype=np.float64), drop - tolerance
    spread = _spread(d, drop, tolerance, level, mean)
    if not mean:
        return int(np.ceil((spread / apart) ** 2))
    # apart n - spread sqrt(n) = what the added example costs
    root = (spread + np.sqrt(spread**2 + 4 * apart * (1 + tolerance))) / (2 * apart)
    return int(np.ceil(root**2))


def _spread(d: Floats, drop: float, tolerance: float, level: float, mean: bool) -> float:
    """Return how far drop and tolerance must lie apart, times the root of n, to be told apart."""
    moved, square = float(np.abs(d).mean()), float((d**2).mean())
    size = square / moved if moved else 1.0  # of a change; 1 for right and wrong
    square += size * max(drop - abs(float(d.mean())), 0.0)
    actual = assumed = float(np.sqrt(max(square - drop**2, 0.0)))
    if not mean:  # what the test takes for the error: see `score`
        n = len(d)
        expected = score(n * (square + drop) / 2, n * (square - drop) / 2, n, tolerance)
        assumed = (drop - tolerance) * np.sqrt(n) / float(expected)
    return float(norm.isf(level) * assumed + norm.ppf(POWER) * actual)
