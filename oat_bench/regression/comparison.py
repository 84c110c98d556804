"""Baseline and model on the same examples: changes, intervals, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from oat_bench.statistics import pairs
from oat_bench.statistics.accuracy import WORST, clean_right, in_common, robust_right

#: ok: no drop beyond the tolerance is supported; worse: one is; better: a gain is
Verdict = Literal["ok", "worse", "better"]
CLEAN = "SA"  # the measure of clean images
#: share of the outcomes that is taken to change between two trainings: 17 to 22% under PGD-20 of
#: the two published models of the digits, at width 1 and lambda > 0; on CIFAR-10 and SVHN 5 to 11%
RETRAINED = 0.2
#: lambda, width (None: mean) and measure; right before and now, in [0, 1], each of shape [n]
_Pair = tuple[float | None, float | None, str, pairs.Floats, pairs.Floats]


@dataclass(frozen=True)
class Row:
    """One accuracy in percent, its change in points; p-values are adjusted for all rows.

    ``detectable``: the smallest true drop, in points, found with a chance of 80% at Bonferroni's
    level if as many examples change as here; ``needed``: examples that find twice the tolerance so,
    None at tolerance 0.
    """

    lam: float | None  # None, as is the width: the mean over all operating points
    width: float | None
    measure: str  # `CLEAN`, the name of an attack, or `WORST`
    n: int
    baseline: float
    now: float
    changed: float  # share of the examples whose outcome changed; of a mean, whose mean did
    low: float
    high: float
    p_worse: float  # of the hypothesis that it dropped by no more than the tolerance
    p_better: float  # of the hypothesis that it did not rise
    verdict: Verdict
    detectable: float
    needed: int | None

    @property
    def change(self) -> float:
        """Now less before, in points."""
        return self.now - self.baseline

    @property
    def accuracy(self) -> str:
        """What it is called: SA, or RA under an attack."""
        return self.measure if self.measure == CLEAN else f"RA {self.measure}"


@dataclass(frozen=True)
class Comparison:
    """All rows, by operating point, the means last."""

    rows: list[Row]
    max_drop: float  # the tolerance, in points
    confidence: float  # that no verdict `worse` is wrong; of the intervals, each alone

    @property
    def verdict(self) -> Verdict:
        """``worse`` if a row is; else ``better`` if a row is."""
        verdicts = {row.verdict for row in self.rows}
        return "worse" if "worse" in verdicts else "better" if "better" in verdicts else "ok"

    @property
    def too_fine(self) -> bool:
        """Whether not one row finds a drop of twice the tolerance, and more examples would."""
        smallest = min(row.detectable for row in self.rows)
        return 0 < self.max_drop < min(smallest, 100.0) / 2

    def between_trainings(self) -> list[float]:
        """Return `Row.detectable` of operating points if `RETRAINED` of the outcomes change."""
        level, found = (1 - self.confidence) / len(self.rows), []
        for n in sorted({row.n for row in self.rows if row.lam is not None}):
            each_way = np.arange(n) < RETRAINED * n / 2
            drops = each_way.astype(np.float64) - each_way[::-1]
            found.append(100 * pairs.detectable_drop(drops, self.max_drop / 100, level))
        return found

    def of(self, verdict: Verdict) -> list[Row]:
        """Return the rows of a verdict."""
        return [row for row in self.rows if row.verdict == verdict]


def compare(
    before: pd.DataFrame,
    now: pd.DataFrame,
    worst_over: Sequence[str],
    *,
    max_drop: float = 1.0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare outcomes of the same examples, attacks and operating points.

    A drop counts if it exceeds ``max_drop``, in points, by `pairs.drop_p_value` (of means
    `pairs.mean_drop_p_value`), a gain with no tolerance, at a confidence that holds of all rows
    together (Holm); neither test exceeds its level at any n. An interval is of its row alone:
    `pairs.interval`, of means `pairs.mean_interval`.
    """
    found = _pairs(before, now, worst_over)
    tolerance, level = max_drop / 100, (1 - confidence) / len(found)
    worse = pairs.holm([_p_value(pair, 1, tolerance) for pair in found])
    better = pairs.holm([_p_value(pair, -1, 0.0) for pair in found])
    rows = []
    for pair, p_worse, p_better in zip(found, worse, better, strict=True):
        lam, width, measure, first, second = pair
        d, mean = first - second, lam is None
        low, high = (pairs.mean_interval if mean else pairs.interval)(-d, confidence)
        needed = None
        if 0 < tolerance < 0.5:
            needed = pairs.examples_needed(d, 2 * tolerance, tolerance, level, mean=mean)
        verdict: Verdict = "better" if p_better <= 1 - confidence else "ok"
        rows.append(
            Row(
                lam,
                width,
                measure,
                n=len(d),
                baseline=100 * float(first.mean()),
                now=100 * float(second.mean()),
                changed=100 * float((np.abs(d) > 1e-9).mean()),
                low=100 * low,
                high=100 * high,
                p_worse=p_worse,
                p_better=p_better,
                verdict="worse" if p_worse <= 1 - confidence else verdict,
                detectable=100 * pairs.detectable_drop(d, tolerance, level, mean=mean),
                needed=needed,
            )
        )
    return Comparison(rows, max_drop, confidence)


def _p_value(pair: _Pair, sign: int, tolerance: float) -> float:
    lam, _, _, before, now = pair
    drops = sign * (before - now)
    if lam is None:
        return pairs.mean_drop_p_value(drops, tolerance)
    lost, gained = int((drops > 0).sum()), int((drops < 0).sum())
    return pairs.drop_p_value(lost, gained, len(drops), tolerance)


def _pairs(before: pd.DataFrame, now: pd.DataFrame, worst_over: Sequence[str]) -> list[_Pair]:
    """Pair what is right, by operating point, then in the mean over them."""
    first, second = _right(before, worst_over), _right(now, worst_over)
    if first.keys() != second.keys():
        raise ValueError("outcomes of different attacks or operating points")
    found: list[_Pair] = []
    for (width, lam, measure), right in first.items():
        other = second[width, lam, measure]
        if not right.index.equals(other.index):
            raise ValueError("outcomes of different examples")
        found.append((lam, width, measure, right.to_numpy(float), other.to_numpy(float)))
    if len({key[:2] for key in first}) == 1:
        return found
    for measure in dict.fromkeys(measure for _, _, measure in first):
        means = []
        for side in (first, second):
            parts = [part for key, part in side.items() if key[2] == measure]
            # of the examples of every operating point
            both = pd.concat(parts, axis=1).dropna().astype("float64")
            means.append(both.mean(axis=1).to_numpy())
        found.append((None, None, measure, means[0], means[1]))
    return found


def _right(
    outcomes: pd.DataFrame, worst_over: Sequence[str]
) -> dict[tuple[float, float, str], pd.Series]:
    """Return which examples are right, by width, lambda and measure, sorted by example."""
    frame = outcomes.assign(clean=clean_right(outcomes), robust=robust_right(outcomes))
    frame = frame.sort_values("example", kind="stable")
    attacks = list(dict.fromkeys(outcomes["attack"]))
    found: dict[tuple[float, float, str], pd.Series] = {}
    for _, rows in frame.groupby([-frame["width"], "lam"]):  # the widest first
        width, lam = float(rows["width"].iloc[0]), float(rows["lam"].iloc[0])
        found[width, lam, CLEAN] = rows.groupby("example")["clean"].first()
        for attack in attacks:
            right = rows[rows["attack"] == attack].set_index("example")["robust"]
            if len(right):
                found[width, lam, attack] = right
        counted = in_common(rows, worst_over)
        if counted["attack"].nunique() > 1:  # of one attack it is the same
            found[width, lam, WORST] = counted.groupby("example")["robust"].all()
    return found
