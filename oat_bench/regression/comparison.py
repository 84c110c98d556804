"""Baseline and model on the same examples: changes, intervals, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import pandas as pd

from oat_bench.statistics import pairs
from oat_bench.statistics.accuracy import WORST
from oat_bench.statistics.phases import Design, Ends, Phases, added_by

#: ok: no drop beyond the tolerance is supported; worse: one is; better: a gain is; not excluded: a
#: drop is likely and may exceed the tolerance, or, where the check is strict, one may
Verdict = Literal["ok", "worse", "not excluded", "better"]
_IN_ORDER: tuple[Verdict, ...] = ("worse", "not excluded", "better")
CLEAN = "SA"  # the measure of clean images
#: share of the outcomes that is taken to change between two trainings: 17 to 22% under PGD-20 of
#: the two published models of the digits, at width 1 and lambda > 0; on CIFAR-10 and SVHN 5 to 11%
RETRAINED = 0.2


@dataclass(frozen=True)
class _Pair:
    """What is right before and now under a measure, by example, in the mean over some points."""

    lam: float | None  # None, as is the width: the mean over all operating points
    width: float | None
    measure: str
    before: pairs.Floats  # in [0, 1] where exact, else `Phases.shares`; shape [n]
    now: pairs.Floats
    exact: bool  # the end of every example is known
    added: float  # see `added_by`

    @classmethod
    def of(
        cls, lam: float | None, width: float | None, measure: str, *sides: Sequence[Phases]
    ) -> "_Pair":
        before, now = (np.mean([one.shares() for one in side], axis=0) for side in sides)
        exact = all(one.whole for side in sides for one in side)
        return cls(lam, width, measure, before, now, exact, added_by(*sides))

    def p_value(self, sign: int, tolerance: float) -> float:
        drops = sign * (self.before - self.now)
        if not self.exact:
            return pairs.share_drop_p_value(drops, self.added, tolerance)
        if self.lam is None:
            return pairs.mean_drop_p_value(drops, tolerance)
        lost, gained = int((drops > 0).sum()), int((drops < 0).sum())
        return pairs.drop_p_value(lost, gained, len(drops), tolerance)

    def interval(self, confidence: float) -> tuple[float, float]:
        if self.exact and self.lam is None:
            return pairs.mean_interval(self.now - self.before, confidence)
        return pairs.interval(self.now - self.before, confidence, added=self.added)

    def detectable(self, tolerance: float, level: float) -> float:
        drops = self.before - self.now
        if not self.exact:
            return pairs.detectable_share_drop(drops, self.added, tolerance, level)
        return pairs.detectable_drop(drops, tolerance, level, mean=self.lam is None)

    def needed(self, tolerance: float, level: float) -> int | None:
        if not self.exact or not 0 < tolerance < 0.5:
            return None
        mean, drops = self.lam is None, self.before - self.now
        return pairs.examples_needed(drops, 2 * tolerance, tolerance, level, mean=mean)


@dataclass(frozen=True)
class Row:
    """One accuracy in percent, its change in points; p-values are adjusted for all rows.

    ``detectable``: the smallest true drop, in points, found with a chance of 80% at Bonferroni's
    level if as many examples change as here; ``needed``: examples that find twice the tolerance so,
    None at tolerance 0 and of two phases.
    """

    lam: float | None  # None, as is the width: the mean over all operating points
    width: float | None
    measure: str  # `CLEAN`, the name of an attack, or `WORST`
    n: int
    sampled: tuple[int, int] | None  # of two phases: how many the second saw, before and now
    baseline: float
    now: float
    #: share of the examples whose outcome changed; of a mean, whose mean did; None of two phases
    changed: float | None
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
    strict: bool = False  # whether every drop must be shown to be within the tolerance

    @property
    def verdict(self) -> Verdict:
        """The first of ``worse``, ``not excluded`` and ``better`` that a row has, else ``ok``."""
        return next((one for one in _IN_ORDER if self.of(one)), "ok")

    @property
    def failed(self) -> bool:
        """Whether the model is refused."""
        return self.verdict == "worse" or (self.strict and self.verdict == "not excluded")

    @property
    def failures(self) -> list[Row]:
        """Return the rows that refuse the model."""
        return [*self.of("worse"), *(self.of("not excluded") if self.strict else [])]

    @property
    def too_fine(self) -> bool:
        """Whether not one row finds a drop of twice the tolerance, and more examples would."""
        smallest = min(row.detectable for row in self.rows if row.sampled is None)
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
    design: Design,
    *,
    max_drop: float = 1.0,
    confidence: float = 0.95,
    strict: bool = False,
) -> Comparison:
    """Compare outcomes of the same examples, attacks and operating points.

    A drop counts if it exceeds ``max_drop``, in points, by `pairs.drop_p_value` (of means
    `pairs.mean_drop_p_value`; where a side is of two phases `pairs.share_drop_p_value`), a gain
    with no tolerance, at a confidence that holds of all rows together (Holm). An interval is of its
    row alone: `pairs.interval`, of means `pairs.mean_interval`. ``strict``: each interval must lie
    within the tolerance.
    """
    found = _pairs(before, now, design)
    tolerance, level = max_drop / 100, (1 - confidence) / len(found)
    worse = pairs.holm([pair.p_value(1, tolerance) for pair, _ in found])
    better = pairs.holm([pair.p_value(-1, 0.0) for pair, _ in found])
    rows = []
    for (pair, sampled), p_worse, p_better in zip(found, worse, better, strict=True):
        low, high = (100 * end for end in pair.interval(confidence))
        verdict: Verdict = "better" if p_better <= 1 - confidence else "ok"
        if -low > max_drop and (strict or high < 0):
            verdict = "not excluded"
        moved = np.abs(pair.before - pair.now) > 1e-9
        rows.append(
            Row(
                pair.lam,
                pair.width,
                pair.measure,
                n=len(pair.now),
                sampled=None if pair.exact else sampled,
                baseline=100 * float(pair.before.mean()),
                now=100 * float(pair.now.mean()),
                changed=100 * float(moved.mean()) if pair.exact else None,
                low=low,
                high=high,
                p_worse=p_worse,
                p_better=p_better,
                verdict="worse" if p_worse <= 1 - confidence else verdict,
                detectable=100 * pair.detectable(tolerance, level),
                needed=pair.needed(tolerance, level),
            )
        )
    return Comparison(rows, max_drop, confidence, strict)


def _pairs(
    before: pd.DataFrame, now: pd.DataFrame, design: Design
) -> list[tuple[_Pair, tuple[int, int]]]:
    """Pair what is right, by operating point, then in the mean over them; with the samples."""
    first, second = _right(before, design), _right(now, design)
    if first.keys() != second.keys():
        raise ValueError("outcomes of different attacks or operating points")
    places: list[tuple[float | None, float | None, str, list[Phases], list[Phases]]] = []
    for (width, lam, measure), right in first.items():
        other = second[width, lam, measure]
        if not np.array_equal(right.examples, other.examples):
            raise ValueError("outcomes of different examples")
        places.append((lam, width, measure, [right], [other]))
    if len({key[:2] for key in first}) > 1:
        for measure in dict.fromkeys(measure for _, _, measure in first):
            sides = [
                [one for k, one in side.items() if k[2] == measure] for side in (first, second)
            ]
            # of the examples of every operating point
            both = reduce(np.intersect1d, [one.examples for one in sides[0]])
            ours, theirs = ([one.among(both) for one in side] for side in sides)
            places.append((None, None, measure, ours, theirs))
    return [
        (_Pair.of(*place), (_most_sampled(place[3]), _most_sampled(place[4]))) for place in places
    ]


def _most_sampled(side: Sequence[Phases]) -> int:
    return max(int(one.sampled.sum()) for one in side)


def _right(outcomes: pd.DataFrame, design: Design) -> dict[tuple[float, float, str], Phases]:
    """Return what became of the examples, by width, lambda and measure."""
    attacks = list(dict.fromkeys([*outcomes["attack"], *design.after]))
    found: dict[tuple[float, float, str], Phases] = {}
    for width in sorted(set(outcomes["width"]), reverse=True):
        ends = Ends.of(outcomes[outcomes["width"] == width])
        several = sum(name in ends.seen or name in design.after for name in design.worst_over) > 1
        measures = [*attacks, *([WORST] if several else [])]  # of one attack it is the same
        under = {name: ends.phases(name, design) for name in measures}
        for place, lam in enumerate(ends.lams):
            known = ends.predicted[:, place]
            all_of = known[known]
            clean = Phases(ends.examples[known], all_of, all_of, ends.clean[known, place])
            found[width, lam, CLEAN] = clean
            for name in measures:
                if (one := under[name][place]) is not None:
                    found[width, lam, name] = one
    return found
