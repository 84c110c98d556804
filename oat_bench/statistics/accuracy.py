"""From outcomes to accuracies with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from scipy.stats import t as student

from oat_bench.evaluation.cost import Cost

#: the column of the per-example worst case over attacks
WORST = "worst"


@dataclass(frozen=True)
class Accuracy:
    """An accuracy in percent with its 95% Wilson interval.

    Attributes:
        value: share of right answers.
        low: lower end of the interval.
        high: upper end.
        n: number of examples.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: pd.Series) -> "Accuracy":
        """Count right answers."""
        return cls.counted(int(right.sum()), len(right))

    @classmethod
    def counted(cls, hits: int, n: int) -> "Accuracy":
        """Give a count its interval (Wilson, JASA 22, 1927; scipy's implementation)."""
        interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        return cls(100 * hits / n, 100 * float(interval.low), 100 * float(interval.high), n)


@dataclass(frozen=True)
class Spread:
    """What several seeds make of one number.

    Attributes:
        mean: over seeds.
        std: standard deviation of the seeds, n - 1 in the denominator.
        low: lower end of the mean's 95% t-interval.
        high: upper end.
        n: number of seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up a number a seed (Student, Biometrika 6, 1908; scipy's quantile).

        The interval is of the mean over all seeds that could be drawn, and not of the examples: it
        may reach beyond 0 or 100.

        Raises:
            ValueError: of fewer than two values, which have no spread.
        """
        n = len(values)
        if n < 2:
            raise ValueError(f"{n} seeds; expected at least 2")
        mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
        half = float(student.ppf(0.975, n - 1)) * std / n**0.5
        return cls(mean, std, mean - half, mean + half, n)


@dataclass(frozen=True)
class PointResult:
    """What was measured at one operating point.

    Attributes:
        lam: robustness weight.
        width: share of the channels.
        clean: standard accuracy (SA).
        robust: robust accuracy (RA) per attack, in the order of the columns; `WORST` last.
        cost: what a pass takes there; None where it was not measured.
    """

    lam: float
    width: float
    clean: Accuracy
    robust: dict[str, Accuracy]
    cost: Cost | None = None


def clean_right(outcomes: pd.DataFrame) -> "pd.Series[bool]":
    """Say of each row whether the clean image is classified right."""
    return outcomes["clean_prediction"] == outcomes["label"]


def robust_right(outcomes: pd.DataFrame) -> "pd.Series[bool]":
    """Say of each row whether the image is classified right both clean and attacked."""
    return clean_right(outcomes) & (outcomes["attacked_prediction"] == outcomes["label"])


def in_common(outcomes: pd.DataFrame, attacks: Sequence[str]) -> pd.DataFrame:
    """Return the outcomes under some attacks, of the examples that each of them saw."""
    rows = outcomes[outcomes["attack"].isin(attacks)]
    seen = rows.groupby("example")["attack"].nunique()
    return rows[rows["example"].isin(seen.index[seen == rows["attack"].nunique()])]


def summarize(outcomes: pd.DataFrame, worst_over: Sequence[str]) -> list[PointResult]:
    """Sum up outcomes per operating point.

    RA counts an example as right if it is right both clean and attacked. The worst case counts it
    as right if no attack broke it; it is of the examples that every attack saw.

    Args:
        outcomes: as returned by `oat_bench.evaluation.grid.evaluate`.
        worst_over: the attacks of the worst case: those of the benchmark's own threat model.

    Returns:
        One result per operating point, by width and lambda.
    """
    frame = outcomes.assign(clean=clean_right(outcomes), robust=robust_right(outcomes))
    results = []
    for _, rows in frame.groupby(["width", "lam"]):
        width, lam = rows["width"].iloc[0], rows["lam"].iloc[0]
        once = rows.drop_duplicates("example")
        robust = {
            str(name): Accuracy.of(part["robust"])
            for name, part in rows.groupby("attack", sort=False)
        }
        counted = in_common(rows, worst_over)
        if len(counted):
            robust[WORST] = Accuracy.of(counted.groupby("example")["robust"].all())
        results.append(PointResult(float(lam), float(width), Accuracy.of(once["clean"]), robust))
    return results
