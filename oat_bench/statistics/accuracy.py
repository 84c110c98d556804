"""Numbers with their intervals, and what outcomes say is right."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field
from scipy.stats import binomtest
from scipy.stats import t as student

from oat_bench.written import Written

WORST = "worst"  # the column of the per-example worst case over attacks
DECIMALS = 4  # of what is written: enough that tables of one decimal are not rounded twice

_ROUNDED = AfterValidator(lambda value: round(value, DECIMALS))
Number = Annotated[float, _ROUNDED]
Percent = Annotated[float, Field(ge=0, le=100), _ROUNDED]
Count = Annotated[int, Field(lt=2**63)]  # as files of other programs hold it too


class Estimate(Written):
    """A number with its 95% interval, in percent or in points; rounded to `DECIMALS`."""

    value: Number
    low: Number
    high: Number

    def __format__(self, spec: str) -> str:
        """Write it as ``93.4 [91.0, 95.5]``; ``spec`` is of each number."""
        spec = spec or ".1f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class Accuracy(Estimate):
    """An accuracy in percent with its 95% interval (Wilson, JASA 22, 1927)."""

    value: Percent
    low: Percent
    high: Percent
    n: Count | None = Field(
        default=None, ge=1, description="examples, where fewer than the point's n"
    )
    left: Count | None = Field(
        default=None, ge=0, description="of two phases: examples that the first leaves standing"
    )
    sampled: Count | None = Field(
        default=None, ge=0, description="of two phases: how many of these the second attacked"
    )

    @classmethod
    def of(cls, right: pd.Series, usual_n: int | None = None) -> Self:
        """Count right answers; say how many examples where that is not the usual number."""
        n = len(right)
        found = cls.counted(int(right.sum()), n)
        return found if usual_n in (None, n) else found.model_copy(update={"n": n})

    @classmethod
    def counted(cls, hits: int, n: int) -> Self:
        """Give a count its interval."""
        ends = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        return cls(value=100 * hits / n, low=100 * ends.low, high=100 * ends.high)

    @classmethod
    def two_phase(cls, n: int, left: int, sampled: int, hits: int) -> Self:
        """Estimate what is right in the end; see `oat_bench.statistics.phases`.

        The interval is made of the two phases' own (MOVER: Zou and Donner, Stat. Med. 27, 2008).
        """
        if sampled == left:
            return cls.counted(hits, n)
        if not sampled:
            raise ValueError(f"none of {left} examples is sampled; expected at least one")
        first, second = (
            binomtest(*of).proportion_ci(0.95, "wilson") for of in ((left, n), (hits, sampled))
        )
        p, q = left / n, hits / sampled
        low = p * q - np.hypot(q * (p - first.low), p * (q - second.low))
        high = p * q + np.hypot(q * (first.high - p), p * (second.high - q))
        return cls(
            value=100 * p * q,
            low=100 * max(float(low), 0.0),
            high=100 * min(float(high), 1.0),
            left=left,
            sampled=sampled,
        )


class Spread(Estimate):
    """The mean of a number over seeds with its 95% t-interval; see `of`."""

    std: Number = Field(description="of the seeds, n - 1 in the denominator")
    n: int = Field(description="number of seeds")

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up a number a seed, of at least two (Student, Biometrika 6, 1908)."""
        # of the mean over all seeds that could be drawn: the interval may leave 0 to 100
        n = len(values)
        if n < 2:
            raise ValueError(f"{n} seeds; expected at least 2")
        mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
        half = float(student.ppf(0.975, n - 1)) * std / n**0.5
        return cls(value=mean, low=mean - half, high=mean + half, std=std, n=n)


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
