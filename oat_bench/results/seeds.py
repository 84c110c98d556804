"""Runs that differ in the seed alone, summed up as mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from oat_bench.results.entries import Entry
from oat_bench.results.models import distinct
from oat_bench.results.points import PointResult
from oat_bench.statistics.accuracy import Spread


@dataclass(frozen=True)
class SeedRow:
    """SA and RA over seeds, at one operating point of a family of runs."""

    method: str
    lam: float
    width: float
    trained: bool
    clean: Spread
    robust: Spread


def over_seeds(entries: Sequence[Entry], attack: str) -> list[SeedRow]:
    """Sum up every family of runs at every operating point that two of its seeds have.

    Runs are of one family if method, architecture, data set, threat model and the trained lambda
    values that were evaluated are the same. A seed counts once, by its first run.
    """
    same = attrgetter("dataset", "threat_model", "eps", "method", "architecture")
    families: dict[tuple[object, ...], dict[int, Entry]] = {}
    for entry in entries:
        families.setdefault((*same(entry), _trained(entry)), {}).setdefault(entry.seed, entry)
    found = [list(seeds.values()) for seeds in families.values() if len(seeds) > 1]
    rows = []
    first = [runs[0] for runs in found]
    trained = [f", lambda {', '.join(f'{lam:g}' for lam in _trained(one))}" for one in first]
    for name, runs in zip(distinct(first, trained), found, strict=True):
        points: dict[tuple[float, float], list[PointResult]] = {}
        for run in runs:
            for point in run.operating_points:
                points.setdefault((-point.width, point.lam), []).append(point)
        several = {width for width, _ in points} != {-1.0}
        for (width, lam), here in sorted(points.items()):
            values = [point.robust[attack].value for point in here if attack in point.robust]
            if len(values) == len(here) > 1:
                label = f"{name}, width {-width:g}" if several else name
                clean = Spread.of([point.clean_acc for point in here])
                rows.append(SeedRow(label, lam, -width, here[0].trained, clean, Spread.of(values)))
    return rows


def _trained(entry: Entry) -> tuple[float, ...]:
    return tuple(sorted({point.lam for point in entry.operating_points if point.trained}))
