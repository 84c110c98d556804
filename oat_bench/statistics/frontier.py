"""Numbers that sum up a frontier: points [k, 2] of (SA, RA) in percent, one for each lambda."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.stats import bootstrap

from oat_bench.cards import Name
from oat_bench.statistics.accuracy import (
    WORST,
    Accuracy,
    Estimate,
    Number,
    clean_right,
    in_common,
    robust_right,
)
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
    """Which of n examples are right at each of k lambda values, both ascending."""

    lams: list[float]
    examples: Ints
    labels: Ints
    attacked: Bools  # shape [n], at least one
    clean: Bools  # shape [n, k]
    robust: Bools  # right both clean and attacked, shape [n, k]; False where not attacked

    def points(self, index: Any = slice(None)) -> Floats:
        """Return (SA, RA) in percent at each lambda, over the examples at ``index``."""
        robust = self.robust[index].sum(axis=0) / self.attacked[index].sum()
        return 100.0 * np.stack([self.clean[index].mean(axis=0), robust], axis=1)

    def estimate(
        self, statistic: Callable[[Floats], float], other: "Rightness | None" = None
    ) -> Estimate:
        """Give a percentage made of `points`, or less another's, its interval."""
        strata = [np.flatnonzero(self.attacked), np.flatnonzero(~self.attacked)]

        def value(index: Ints) -> float:
            own = statistic(self.points(index))
            return own if other is None else own - statistic(other.points(index))

        bounds = (0.0 if other is None else -100.0, 100.0)
        return bootstrapped(value, [part for part in strata if len(part)], bounds)


def rightness(
    outcomes: pd.DataFrame, attack: str, worst_over: Sequence[str], width: float = 1.0
) -> Rightness:
    """Tell which examples are right under an attack or `WORST`; a ValueError if it was not run."""
    attacks = list(worst_over) if attack == WORST else [attack]
    rows = outcomes[outcomes["width"] == width]
    counted = in_common(rows, attacks)
    if counted.empty:
        raise ValueError(f"no outcomes of {attack} at width {width:g}")
    clean = _by_lambda(rows, clean_right(rows)).dropna()  # predicted at every lambda
    robust = _by_lambda(counted, robust_right(counted)).dropna().reindex(clean.index)
    labels = rows.groupby("example")["label"].first().reindex(clean.index)
    return Rightness(
        [float(lam) for lam in clean.columns],
        clean.index.to_numpy(dtype=np.int64),
        labels.to_numpy(dtype=np.int64),
        robust.notna().all(axis=1).to_numpy(dtype=np.bool_),
        clean.to_numpy(dtype=np.bool_),
        robust.eq(1.0).to_numpy(dtype=np.bool_),
    )


def _by_lambda(rows: pd.DataFrame, right: "pd.Series[bool]") -> pd.DataFrame:
    # 1.0 where an example is right in all its rows
    return right.astype(float).groupby([rows["example"], rows["lam"]]).min().unstack("lam")


def summarize(outcomes: pd.DataFrame, worst_over: Sequence[str]) -> list[Summary]:
    """Sum up the frontier of every width under every attack, the worst case last."""
    attacks = [*dict.fromkeys(outcomes["attack"]), *([WORST] if worst_over else [])]
    found = []
    for width in sorted(set(outcomes["width"]), reverse=True):
        for attack in attacks:
            right = rightness(outcomes, attack, worst_over, width)
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


def hypervolume(points: ArrayLike, reference: tuple[float, float] = ORIGIN) -> float:
    """Return the percentage of the box from reference to (100, 100) that a frontier dominates."""
    # Zitzler and Thiele, IEEE TEC 3(4), 1999
    values = np.asarray(points, dtype=np.float64) - reference
    values = values[(values > 0).all(axis=1)]
    values = values[np.argsort(-values[:, 0], kind="stable")]
    # from the most accurate on, each point adds a strip as high as its RA exceeds those before
    heights = np.maximum.accumulate(values[:, 1])
    strips = np.diff(heights, prepend=0.0)
    box = (100.0 - reference[0]) * (100.0 - reference[1])
    return 100.0 * float(np.sum(values[:, 0] * strips)) / box


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
    """Return the RA, shape [m], that a frontier offers at an SA of at least ``sa``, in percent.

    Linear between neighbouring Pareto-optimal points, as drawing one of the two for each image is;
    below the least SA the highest RA; above the highest SA NaN.
    """
    best = np.asarray(points, dtype=np.float64)[pareto(points)]
    values = np.unique(best, axis=0)  # ascending SA, falling RA
    wanted = np.atleast_1d(np.asarray(sa, dtype=np.float64))
    return np.interp(wanted, values[:, 0], values[:, 1], right=np.nan)


def distance(points: ArrayLike, reference: ArrayLike) -> Distance:
    """Measure a frontier against another, of which only the Pareto-optimal points count."""
    values, others = (np.asarray(p, dtype=np.float64) for p in (points, reference))
    others = np.unique(others[pareto(others)], axis=0)
    gaps = robustness_at(others[:, 0], values) - others[:, 1]
    # for each point of the reference the nearest of ours, by the accuracy that lacks most
    lacking = (others[:, None] - values[None]).max(axis=2).min(axis=1)
    return Distance(tuple(float(gap) for gap in gaps), float(lacking.max()))


def bootstrapped(
    statistic: Callable[[Ints], float],
    strata: Sequence[Ints],
    bounds: tuple[float, float] = (0.0, 100.0),
) -> Estimate:
    """Return a statistic of the places of examples with its 95% interval, by resampling strata."""
    low, high = bounds  # where there is nothing to resample
    if min(map(len, strata)) > 1:
        low, high = bootstrap(
            tuple(strata),
            lambda *drawn: statistic(np.concatenate(drawn)),
            n_resamples=RESAMPLES,
            vectorized=False,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(value=statistic(np.concatenate(strata)), low=low, high=high)


def mean_accuracy(shares: ArrayLike) -> Accuracy:
    """Return the mean of shares, how often each example is right; see `bootstrapped`."""
    percents = 100 * np.asarray(shares, dtype=np.float64)
    places = [np.arange(len(percents))]
    return Accuracy(**dict(bootstrapped(lambda index: float(percents[index].mean()), places)))
