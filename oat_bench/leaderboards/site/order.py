"""The order of a board."""

from collections.abc import Sequence
from dataclasses import dataclass

from oat_bench.evaluation import frontier
from oat_bench.evaluation.statistics import WORST
from oat_bench.leaderboards.curves import curves, robust_at
from oat_bench.leaderboards.entries import Entry, EntryCost
from oat_bench.leaderboards.records import Record


@dataclass(frozen=True)
class Score:
    """A number in percent with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One model at one width."""

    label: str
    record: Record
    width: float
    n: int
    hypervolume: Score | None
    robust: Score | None
    lams: tuple[float, ...]
    cost: EntryCost | None
    doubts: tuple[str, ...]
    remark: str
    rank: int | None


def attacks_of(records: Sequence[Record]) -> list[str]:
    """Return the attacks that an entry has at every operating point, the worst case last."""
    names = [*(a.name for record in records for a in record.entry.attacks), WORST]
    return [
        name
        for name in dict.fromkeys(names)
        if any(_has(record.entry, name) for record in records)
    ]


def rank(records: Sequence[Record], attack: str) -> list[Row]:
    """Rank by hypervolume, a row for each entry and width, the unreliable last."""
    rows = []
    for curve in curves([record.entry for record in records]):
        record = records[curve.entry]
        volume = None
        if _has(record.entry, attack):
            accuracies = zip(curve.clean(), curve.robust(attack), strict=True)
            value = frontier.hypervolume([(sa.value, ra.value) for sa, ra in accuracies])
            volume = Score(value, value, value)
            for stated in record.entry.frontiers or ():
                if (stated.attack, stated.width) == (attack, curve.width):
                    known = stated.hypervolume
                    volume = Score(known.value, known.low, known.high)
        rows.append(
            Row(
                label=f"{record.entry.name}, width {curve.width:g}",
                record=record,
                width=curve.width,
                n=min((i.n or p.n) for p in curve.points if (i := robust_at(p, attack)))
                if volume
                else curve.points[0].n,
                hypervolume=volume,
                robust=None,
                lams=(),
                cost=curve.points[0].cost,
                doubts=("its entry says so",) if record.entry.unreliable else (),
                remark="" if volume else f"{attack} was not run",
                rank=None,
            )
        )
    return sorted(
        rows, key=lambda r: (bool(r.doubts), -(r.hypervolume.value if r.hypervolume else -1))
    )


def _has(entry: Entry, attack: str) -> bool:
    return all(robust_at(point, attack) for point in entry.operating_points)
