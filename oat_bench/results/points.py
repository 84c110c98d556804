"""What was measured at each operating point, counted from outcomes, as it stands in entries."""

from collections.abc import Callable

import pandas as pd
from pydantic import Field

from oat_bench.cards import Name
from oat_bench.statistics.accuracy import WORST, Accuracy, Count, Percent, clean_right
from oat_bench.statistics.phases import Design, phases
from oat_bench.written import Written


class Cost(Written):
    """What the plain network of an operating point costs."""

    parameters: Count = Field(ge=0)
    flops: Count = Field(
        ge=0, description="of one image, by torch's counter: a multiply-add is two"
    )
    latency_ms: float = Field(ge=0, description="of one image alone, float32: the median of passes")
    machine: str = Field(description="where the passes were timed")


class PointResult(Written):
    """What was measured at one operating point."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    trained: bool = Field(description="whether training sampled this lambda")
    n: Count = Field(ge=1, description="number of examples")
    clean_acc: Percent = Field(description="SA")
    clean_acc_interval: Accuracy
    autoattack_acc: Percent | None = Field(description="RA under AutoAttack, if it was run")
    robust_acc: dict[Name, Accuracy] = Field(description="RA per attack")
    worst_case_acc: Accuracy | None = Field(description="right under every attack of the threat")
    cost: Cost | None = None

    @property
    def robust(self) -> dict[str, Accuracy]:
        """RA under each attack that was run here, that of the worst case last, as `WORST`."""
        worst = {} if self.worst_case_acc is None else {WORST: self.worst_case_acc}
        return {**self.robust_acc, **worst}

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """``SA``, then what `robust` holds."""
        return {"SA": self.clean_acc_interval, **self.robust}

    def __str__(self) -> str:
        return f"lambda {self.lam:g}" + (f", width {self.width:g}" if self.width != 1 else "")


def summarize(
    outcomes: pd.DataFrame,
    design: Design,
    trained: Callable[[float], bool] = lambda _lam: True,
) -> list[PointResult]:
    """Sum up outcomes per operating point; the worst case is of examples that all attacks saw."""
    names = dict.fromkeys([*map(str, outcomes["attack"].unique()), *design.after])
    results = []
    for _, rows in outcomes.groupby(["width", "lam"]):
        lam, width = float(rows["lam"].iloc[0]), float(rows["width"].iloc[0])
        clean = clean_right(rows.drop_duplicates("example"))
        n, accuracy = len(clean), Accuracy.of(clean)
        found = {name: phases(rows, name, design) for name in (*names, WORST)}
        robust = {name: one.accuracy(n) for name, one in found.items() if one is not None}
        worst = robust.pop(WORST, None)
        results.append(
            PointResult(
                lam=lam,
                width=width,
                trained=trained(lam),
                n=n,
                clean_acc=accuracy.value,
                clean_acc_interval=accuracy,
                autoattack_acc=robust["autoattack"].value if "autoattack" in robust else None,
                robust_acc=robust,
                worst_case_acc=worst,
            )
        )
    return results
