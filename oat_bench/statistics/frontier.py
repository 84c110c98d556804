"""Numbers that sum up a frontier: points [k, 2] of (SA, RA) in percent, one for each lambda."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from oat_bench.cards import Name
from oat_bench.statistics.accuracy import WORST, Accuracy, Estimate, Number
from oat_bench.statistics.phases import Design, Ends, Phases
from oat_bench.written import Written

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ORIGIN = (0.0, 0.0)  # (SA, RA) in percent that hypervolumes are measured from
RESAMPLES = 1000  # bootstrap resamples behind an interval


class Hole(Written):
    """What lies between lambda = 0 and the first lambda above it, in points."""

    lam: float = Field(description="the first lambda above 0 that was evaluated")
    sa: Number
    ra: Number
    distance: Number = Field(description="Euclidean")


class Summary(Written):
    """What the frontier of SA and RA comes down to; see `oat_bench.statistics.frontier`."""

    attack: Name | Literal["worst"] = Field(
        description="whose RA it is, or worst: the worst case over attacks"
    )
    width: float
    pareto: list[float] = Field(description="lambda values that no other beats in SA and RA")
    reference: tuple[float, float] = Field(description="SA, RA that the hypervolume begins at")
    hypervolume: Accuracy = Field(description="percent of the box from there to (100, 100)")
    hole: Hole | None


@dataclass(frozen=True)
class Distance:
    """How far a frontier is from the Pareto-optimal points of another, the reference."""

    gaps: tuple[float, ...]  # `robustness_at` each SA less its RA, in points; NaN: not reached
    #: additive epsilon indicator (Zitzler et al., IEEE TEC 7(2), 2003): the points that both
    #: accuracies lack to be as good as every point of the reference; at most 0: none
    epsilon: float

    @property
    def mean_gap(self) -> float:
        """Mean over the points that are reached; NaN if none is."""
        reached = [gap for gap in self.gaps if not np.isnan(gap)]
        return float(np.mean(reached)) if reached else float("nan")

    @property
    def unreached(self) -> int:
        """Number of points whose SA the frontier does not reach."""
        return int(np.isnan(self.gaps).sum())


@dataclass(frozen=True)
class Rightness:
    """Which of n examples are right at each of k lambda values, both ascending.

    Under an attack of one phase what it was run on is standing and sampled.
    """

    lams: list[float]
    examples: Ints
    labels: Ints
    clean: Bools  # shape [n, k], as all below
    attacked: Bools  # shape [n], at least one: in the first phase at every lambda
    standing: Bools  # of these, after the first phase
    sampled: Bools  # of these, for the second
    robust: Bools  # of these, right both clean and attacked

    def points(self) -> Floats:
        """Return (SA, RA) in percent at each lambda, shape [k, 2]."""
        return self._points(self._columns().sum(axis=0))

    def at(self, place: int) -> Phases:
        """Return what became of the attacked examples at one lambda."""
        seen = self.attacked
        found = (one[seen, place] for one in (self.standing, self.sampled, self.robust))
        return Phases(self.examples[seen], *found)

    def taken(self, index: Ints, attacked: Bools) -> "Rightness":
        """Return some examples, of which ``attacked`` stay in the first phase."""
        found = (one[index] for one in (self.standing, self.sampled, self.robust))
        return Rightness(
            self.lams,
            self.examples[index],
            self.labels[index],
            self.clean[index],
            attacked,
            *(one & attacked[:, None] for one in found),
        )

    def estimate(
        self, statistic: Callable[[Floats], Floats], other: "Rightness | None" = None
    ) -> Estimate:
        """Give a percentage made of `points`, or less that of the same examples, its interval.

        ``statistic`` takes points [..., k, 2] to [...]. See `resampled`.
        """
        return combined(statistic, [(1.0, self)] if other is None else [(1.0, self), (-1.0, other)])

    def _columns(self) -> Bools:
        return np.concatenate([self.clean, self.standing, self.sampled, self.robust], axis=1)

    def _points(self, sums: Floats, draw: np.random.Generator | None = None) -> Floats:
        """Turn sums of `_columns`, [..., 4 k], to points [..., k, 2].

        Where ``draw`` is given, a sample of some of those that stand gains about half an example
        that is right and half a broken one, as in Jeffreys' interval: it has a width where every
        sampled one is right.
        """
        clean, left, sampled, right = np.split(np.asarray(sums, dtype=np.float64), 4, axis=-1)
        if draw is not None:
            some = self.sampled.sum(axis=0) < self.standing.sum(axis=0)
            up, down = (some * draw.gamma(0.5, size=(len(sums), 1)) for _ in range(2))
            sampled, right = sampled + up + down, right + up
        share = np.divide(right, sampled, out=np.zeros_like(right), where=sampled > 0)
        robust = left / self.attacked.sum() * share
        return 100.0 * np.stack([clean / len(self.examples), robust], axis=-1)


def combined(
    statistic: Callable[[Floats], Floats], parts: Sequence[tuple[float, Rightness]]
) -> Estimate:
    """Add up a statistic of models on the same examples, each times a weight: see `estimate`."""
    columns = [side._columns() for _, side in parts]
    ends = np.cumsum([one.shape[1] for one in columns])[:-1]

    def value(sums: Floats, draw: np.random.Generator | None = None) -> Floats:
        split = np.split(sums, ends, axis=-1)
        found = [
            weight * statistic(side._points(own, draw))
            for (weight, side), own in zip(parts, split, strict=True)
        ]
        return np.asarray(np.sum(found, axis=0))

    rows, (_, first) = np.concatenate(columns, axis=1), parts[0]
    low = 0.0 if all(weight > 0 for weight, _ in parts) else -100.0
    drawn, whole = resampled(rows, first.attacked), value(rows.sum(axis=0))
    if drawn is None:
        return Estimate(value=float(whole), low=low, high=100.0)
    return _percentiles(whole, value(drawn, np.random.default_rng(1)))


def rightness(outcomes: pd.DataFrame, attack: str, design: Design, width: float = 1.0) -> Rightness:
    """Tell which examples are right under an attack or `WORST`; a ValueError if it was not run."""
    return rightness_of(Ends.of(outcomes[outcomes["width"] == width]), attack, design, width)


def rightness_of(ends: Ends, attack: str, design: Design, width: float = 1.0) -> Rightness:
    """Do as `rightness` does of outcomes that are sorted."""
    entered, *found = ends.under(attack, design)
    known: Bools = np.asarray(ends.predicted.all(axis=1))
    attacked: Bools = np.asarray(entered.all(axis=1))[known]
    if not attacked.any():
        raise ValueError(f"no outcomes of {attack} at width {width:g}")
    return Rightness(
        ends.lams,
        ends.examples[known],
        ends.labels[known],
        ends.clean[known],
        attacked,
        *(one[known] & attacked[:, None] for one in found),
    )


def summarize(outcomes: pd.DataFrame, design: Design) -> list[Summary]:
    """Sum up the frontier of every width under each attack on all points, the worst case last."""
    attacks = [*dict.fromkeys(outcomes["attack"]), *([WORST] if design.worst_over else [])]
    found = []
    for width in sorted(set(outcomes["width"]), reverse=True):
        ends = Ends.of(outcomes[outcomes["width"] == width])
        for attack in attacks:
            try:
                right = rightness_of(ends, attack, design, width)
            except ValueError:  # it was not run at every lambda
                continue
            points = right.points()
            found.append(
                Summary(
                    attack=attack,
                    width=width,
                    pareto=pareto_lambdas(right.lams, points),
                    reference=ORIGIN,
                    hypervolume=Accuracy(**dict(right.estimate(hypervolume))),
                    hole=hole(right.lams, points),
                )
            )
    return found


def pareto(points: ArrayLike) -> Bools:
    """Tell which of k points no other beats: as good in both accuracies, and better in one."""
    values = np.asarray(points, dtype=np.float64)
    as_good = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return ~np.asarray((as_good & better).any(axis=0), dtype=np.bool_)


def pareto_lambdas(lams: Sequence[float], points: ArrayLike) -> list[float]:
    """Return the lambda of each Pareto-optimal point."""
    return [lam for lam, best in zip(lams, pareto(points), strict=True) if best]


def hypervolume(points: ArrayLike, reference: tuple[float, float] = ORIGIN) -> Any:
    """Return the percentage of the box from reference to (100, 100) that frontiers dominate.

    Of points [..., k, 2], shape [...] (Zitzler and Thiele, IEEE TEC 3(4), 1999).
    """
    values = np.maximum(np.asarray(points, dtype=np.float64) - reference, 0.0)
    order = np.argsort(-values[..., 0], axis=-1, kind="stable")[..., None]
    sa, ra = np.moveaxis(np.take_along_axis(values, order, axis=-2), -1, 0)
    # from the most accurate on, each point adds a strip as high as its RA exceeds those before
    strips = np.diff(np.maximum.accumulate(ra, axis=-1), prepend=0.0, axis=-1)
    box = (100.0 - reference[0]) * (100.0 - reference[1])
    return 100.0 * np.sum(sa * strips, axis=-1) / box


def hole(lams: Sequence[float], points: ArrayLike) -> Hole | None:
    """Measure the hole between lambda = 0 and the first lambda above it; None if one is missing."""
    values = dict(zip(lams, np.asarray(points, dtype=np.float64), strict=True))
    above = [lam for lam in values if lam > 0]
    if 0 not in values or not above:
        return None
    first = min(above)
    sa, ra = values[0][0] - values[first][0], values[first][1] - values[0][1]
    return Hole(lam=first, sa=sa, ra=ra, distance=np.hypot(sa, ra))


def robustness_at(sa: ArrayLike, points: ArrayLike) -> Floats:
    """Return the RA that frontiers [..., k, 2] offer at each SA [m] at least, in percent: [..., m].

    Linear between neighbouring Pareto-optimal points, as drawing one of the two for each image is;
    below the least SA the highest RA; above the highest SA NaN.
    """
    values, wanted = np.asarray(points, dtype=np.float64), np.atleast_1d(sa)[:, None]
    x, y = values[..., None, :, 0], values[..., None, :, 1]
    reached = x >= wanted

    def most(what: Floats, among: Bools) -> Floats:
        found: Floats = np.where(among, what, -np.inf).max(axis=-1, keepdims=True)
        return found

    # the more accurate neighbour, then the one that is more robust
    ra = most(y, reached)
    right = most(x, reached & (y == ra))
    beyond = ~reached & (y > ra)
    left = most(x, beyond)
    top = most(y, beyond & (x == left))
    drawn = np.isfinite(left) & np.isfinite(right)
    share = np.divide(right - wanted, right - left, out=np.zeros_like(ra), where=drawn)
    found = ra + np.where(drawn, share * np.where(drawn, top - ra, 0.0), 0.0)
    return np.where(np.isfinite(ra), found, np.nan)[..., 0]


def distance(points: ArrayLike, reference: ArrayLike) -> Distance:
    """Measure a frontier against another, of which only the Pareto-optimal points count."""
    values, others = (np.asarray(p, dtype=np.float64) for p in (points, reference))
    others = np.unique(others[pareto(others)], axis=0)
    gaps = robustness_at(others[:, 0], values) - others[:, 1]
    # for each point of the reference the nearest of ours, by the accuracy that lacks most
    lacking = (others[:, None] - values[None]).max(axis=2).min(axis=1)
    return Distance(tuple(float(gap) for gap in gaps), float(lacking.max()))


def resampled(rows: NDArray[Any], strata: Bools | None = None) -> Floats | None:
    """Return the sums of the columns of rows [n, d] over bootstrap resamples, [`RESAMPLES`, d].

    Each stratum is resampled by itself, by how often each distinct row is drawn: as many as drawn
    one by one. None where a stratum has a single row, and nothing to resample.
    """
    groups = [rows] if strata is None else [rows[strata], rows[~strata]]
    draw, sums = np.random.default_rng(0), np.zeros((RESAMPLES, rows.shape[1]))
    for group in (one for one in groups if len(one)):
        if len(group) == 1:
            return None
        distinct, counts = _distinct(group)
        often = draw.multinomial(len(group), counts / len(group), size=RESAMPLES)
        sums += often.astype(np.float64) @ distinct.astype(np.float64)
    return sums


def _distinct(rows: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """Return the distinct rows in order, and how many there are of each."""
    if rows.dtype != np.bool_:
        return np.unique(rows, axis=0, return_counts=True)
    packed = np.packbits(rows, axis=1)  # in the same order, and compared at once
    keys = np.ascontiguousarray(packed).view(f"S{packed.shape[1]}")[:, 0]
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return rows[first], counts


def _percentiles(value: Any, drawn: Floats) -> Estimate:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value=float(value), low=float(low), high=float(high))


def mean_percent(shares: ArrayLike, bounds: tuple[float, float] = (0.0, 100.0)) -> Estimate:
    """Return the mean of a share an example, in percent, with its bootstrap interval."""
    percents = 100 * np.asarray(shares, dtype=np.float64)[:, None]
    drawn, value = resampled(percents), percents.mean()
    if drawn is None:
        return Estimate(value=value, low=bounds[0], high=bounds[1])
    return _percentiles(value, drawn[:, 0] / len(percents))


def mean_accuracy(shares: ArrayLike) -> Accuracy:
    """Return the mean of shares, how often each example is right; see `mean_percent`."""
    return Accuracy(**dict(mean_percent(shares)))
