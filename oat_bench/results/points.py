"""What was measured at each operating point, counted from outcomes, as it stands in entries."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import pandas as pd
from pydantic import Field

from oat_bench.attacks.selection import rank
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
    latency_spread: tuple[float, float] | None = Field(
        None, description="its quartiles, where all operating points were timed in turns"
    )
    machine: str = Field(description="where the passes were timed")

    @classmethod
    def typical(cls, costs: "Sequence[Cost]") -> "Cost | None":
        """Return what operating points of one width cost: medians of what was timed."""
        if not costs:
            return None
        spreads = [one.latency_spread for one in costs if one.latency_spread is not None]
        timed: dict[str, object] = {"latency_ms": median(one.latency_ms for one in costs)}
        if len(spreads) == len(costs):
            low, high = (median(ends) for ends in zip(*spreads, strict=True))
            timed["latency_spread"] = low, high
        return costs[0].model_copy(update=timed)

    def latency(self) -> str:
        """Say how long an image takes, with the spread if it was measured, and where."""
        spread = ""
        if self.latency_spread is not None:
            low, high = self.latency_spread
            spread = f" (quartiles {low:.3g}-{high:.3g})"
        return f"{self.latency_ms:.3g} ms an image{spread}"


class AttackCost(Written):
    """What it took to attack: by one attack, or by several that shared gradients."""

    attacks: list[Name] = Field(min_length=1)
    n: Count = Field(ge=0, description="images attacked; those wrong clean are not")
    forward: Count = Field(ge=0, description="passes of single images, classifying the result too")
    backward: Count = Field(ge=0, description="passes to the gradient of a single image")
    seconds: float = Field(ge=0)
    machine: str = Field(description="where it was computed")

    def __add__(self, other: "AttackCost") -> "AttackCost":
        numbers = ("n", "forward", "backward", "seconds")
        return self.model_copy(
            update={name: getattr(self, name) + getattr(other, name) for name in numbers}
        )

    @property
    def passes(self) -> float:
        """Passes of an attacked image, forward and backward, in the mean."""
        return (self.forward + self.backward) / max(1, self.n)


class PointResult(Written):
    """What was measured at one operating point."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    trained: bool = Field(description="whether training sampled this lambda")
    place: float | None = Field(
        default=None,
        description="the method's own parameter that lambda stands for; absent: lambda itself",
    )
    n: Count = Field(ge=1, description="number of examples")
    clean_acc: Percent = Field(description="SA")
    clean_acc_interval: Accuracy
    autoattack_acc: Percent | None = Field(description="RA under AutoAttack, if it was run")
    robust_acc: dict[Name, Accuracy] = Field(description="RA per attack")
    worst_case_acc: Accuracy | None = Field(description="right under every attack of the threat")
    cost: Cost | None = None
    attack_costs: list[AttackCost] | None = Field(
        default=None, description="of the stored outcomes; absent: not recorded"
    )

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


def total_costs(points: Iterable[PointResult]) -> list[AttackCost]:
    """Sum up what attacks took at several operating points, by attacks and machine."""
    found: dict[tuple[str, ...], AttackCost] = {}
    for cost in (cost for point in points for cost in point.attack_costs or ()):
        key = (*cost.attacks, cost.machine)
        found[key] = found[key] + cost if key in found else cost
    return list(found.values())


def summarize(
    outcomes: pd.DataFrame,
    design: Design,
    trained: Callable[[float], bool] = lambda _lam: True,
) -> list[PointResult]:
    """Sum up outcomes per operating point; the worst case is of examples that all attacks saw."""
    names = dict.fromkeys([*map(str, outcomes["attack"].unique()), *design.after])
    names = dict.fromkeys(sorted(names, key=rank))  # weakest first, whatever was run last
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
