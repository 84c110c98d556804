"""Runs that differ in the seed alone, summed up as mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass

from oat_bench.results.entries import Entry
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

    Args:
        entries: evaluated under the attack.
        attack: whose RA.
    """
    families: dict[tuple[object, ...], dict[int, Entry]] = {}
    for entry in entries:
        families.setdefault(_family(entry), {}).setdefault(entry.seed, entry)
    found = [list(seeds.values()) for seeds in families.values() if len(seeds) > 1]
    rows = []
    for name, runs in zip(_labels([runs[0] for runs in found]), found, strict=True):
        points: dict[tuple[float, float], list[PointResult]] = {}
        for run in runs:
            for point in run.operating_points:
                points.setdefault((-point.width, point.lam), []).append(point)
        several = {width for width, _ in points} != {-1.0}
        for (width, lam), same in sorted(points.items()):
            values = [point.robust[attack].value for point in same if attack in point.robust]
            if len(values) == len(same) > 1:
                label = f"{name}, width {-width:g}" if several else name
                clean = Spread.of([point.clean_acc for point in same])
                rows.append(SeedRow(label, lam, -width, same[0].trained, clean, Spread.of(values)))
    return rows


def _family(entry: Entry) -> tuple[object, ...]:
    threat = (entry.dataset, entry.threat_model, entry.eps)
    return (*threat, entry.method, entry.architecture, _trained(entry))


def _trained(entry: Entry) -> tuple[float, ...]:
    return tuple(sorted({point.lam for point in entry.operating_points if point.trained}))


def _labels(entries: Sequence[Entry]) -> list[str]:
    """Name families by their method, and by as much more as tells them apart."""
    names = [entry.method.upper() for entry in entries]
    architectures = [f" {entry.architecture}" for entry in entries]
    lambdas = [f", lambda {', '.join(f'{lam:g}' for lam in _trained(e))}" for e in entries]
    for details in (architectures, lambdas):
        if len(set(names)) < len(names):
            names = [name + detail for name, detail in zip(names, details, strict=True)]
    return names
