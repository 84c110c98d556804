"""Comparing runs with one of them at every lambda, or the lambda values of a single run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from oat_bench.errors import UserError
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import (
    Curve,
    attack_name,
    choose_attack,
    common,
    distinct,
    models_of,
    started,
)
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.statistics import frontier, pairs, phases
from oat_bench.statistics.accuracy import Accuracy, Estimate, Spread
from oat_bench.statistics.frontier import Distance, Hole, Rightness
from oat_bench.statistics.pairs import Paired

Difference = Paired | float  # in points: tested, where both are of the same examples


@dataclass(frozen=True)
class Row:
    """One method at one lambda; differences are to the reference's at `reference_lam`."""

    method: str
    point: PointResult
    robust: Accuracy
    reference_lam: float | None = None  # None: there is none to compare with
    clean_difference: Difference | None = None
    robust_difference: Difference | None = None


@dataclass(frozen=True)
class Total:
    """One method's frontier; numbers have bootstrap intervals where there are outcomes."""

    method: str
    pareto: list[float]
    hypervolume: Estimate | float
    hole: Hole | None
    difference: Estimate | float | None  # to the reference, whose own is None
    distance: Distance | None  # from it


@dataclass(frozen=True)
class SeedRow:
    """SA and RA over seeds, at one operating point of a family of runs."""

    method: str
    lam: float
    width: float
    trained: bool
    clean: Spread
    robust: Spread


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they are compared to."""

    title: str
    attack: str
    reference: str
    rows: list[Row]
    totals: list[Total]
    shared: int  # examples behind the paired comparisons
    attacked: int  # of these
    over_seeds: list[SeedRow]
    alone: bool = False
    reference_lam: float | None = None
    tests: int = 0  # that p-values are corrected for, by Holm's method


def compare(
    records: Sequence[Record],
    *,
    attack: str | None = None,
    reference: int = 0,
    reference_lam: float | None = None,
) -> Comparison:
    """Compare runs with the one in place ``reference``, or a single one's lambda values."""
    alone = len(records) == 1
    if reference_lam is not None and not alone:
        raise UserError("--reference-lambda is for one run alone; several compare by --reference")
    entries = [record.entry for record in records]
    attack = choose_attack(entries, attack)
    models = models_of(records, attack)
    bases = {model.width: model for model in models if model.entry == reference}
    rows: list[Row] = []
    totals: list[Total] = []
    shared = attacked = tests = 0
    for model in models:
        base = bases.get(model.width) if model.entry != reference else None
        other = model if alone else base
        pair = common(model, other) if other is not None else None
        if pair is not None:
            shared = max(shared, len(pair[0].examples))
            attacked = max(attacked, int(pair[0].attacked.sum()))
        lams = model.lambdas()
        references: Sequence[float | None] = _references(lams, reference_lam) if alone else lams
        rows += _rows(model, other, references, pair, attack)
        totals.append(_total(model, base, None if alone else pair, attack))
    if alone:
        rows, tests = _corrected(rows)
    return Comparison(
        f"{threat_of(entries[0])}: {attack_name(attack)}",
        attack,
        ", ".join(model.label for model in bases.values()),
        rows,
        totals,
        shared,
        attacked,
        over_seeds(entries, attack),
        alone,
        reference_lam,
        tests,
    )


def _references(lams: list[float], reference: float | None) -> list[float | None]:
    if reference is None:
        return [None, *lams[:-1]]
    if reference not in lams:
        have = ", ".join(f"{lam:g}" for lam in lams)
        raise UserError(f"the run has no lambda {reference:g}; it has {have}")
    return [None if lam == reference else reference for lam in lams]


def _corrected(rows: Sequence[Row]) -> tuple[list[Row], int]:
    tested = [
        (place, key)
        for place, row in enumerate(rows)
        for key in ("clean_difference", "robust_difference")
        if isinstance(getattr(row, key), Paired)
    ]
    changed = list(rows)
    p_values = pairs.holm([getattr(rows[place], key).p_value for place, key in tested])
    for (place, key), p_value in zip(tested, p_values, strict=True):
        paired = getattr(rows[place], key).model_copy(update={"p_value": p_value})
        changed[place] = replace(changed[place], **{key: paired})
    return changed, len(tested)


def _rows(
    model: Curve,
    base: Curve | None,
    references: Sequence[float | None],
    pair: tuple[Rightness, Rightness] | None,
    attack: str,
) -> list[Row]:
    known = [] if base is None else base.lambdas()
    rows = [
        Row(model.label, *both) for both in zip(model.points, model.robust(attack), strict=True)
    ]
    for place, (row, lam) in enumerate(zip(rows, references, strict=True)):
        if base is None or lam not in known:
            continue
        there = known.index(lam)
        clean: Difference = row.point.clean_acc - base.points[there].clean_acc
        robust: Difference = row.robust.value - base.robust(attack)[there].value
        if pair is not None:
            ours, theirs = pair
            clean = pairs.paired(ours.clean[:, place], theirs.clean[:, there])
            robust = phases.paired(ours.at(place), theirs.at(there))
        rows[place] = Row(row.method, row.point, row.robust, lam, clean, robust)
    return rows


def _total(
    model: Curve, base: Curve | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> Total:
    lams, points = model.lambdas(), model.accuracies(attack)
    volume = frontier.hypervolume(points)
    difference: Estimate | float | None = None
    distance = None
    if base is not None:
        others = base.accuracies(attack)
        distance = frontier.distance(points, others)
        difference = volume - frontier.hypervolume(others)
    if pair is not None:
        difference = pair[0].estimate(frontier.hypervolume, pair[1])
    return Total(
        model.label,
        frontier.pareto_lambdas(lams, points),
        volume if model.right is None else model.right.estimate(frontier.hypervolume),
        frontier.hole(lams, points),
        difference,
        distance,
    )


def over_seeds(entries: Sequence[Entry], attack: str) -> list[SeedRow]:
    """Sum up runs that differ in the seed alone, at every operating point that two of them have."""
    same = attrgetter("dataset", "threat_model", "eps", "method", "architecture")
    families: dict[tuple[object, ...], dict[int, Entry]] = {}
    for entry in entries:  # a seed counts once, by its first run
        recipes = tuple(one.recipe for one in entry.ancestors)
        family = families.setdefault((*same(entry), _trained(entry), _last(entry), recipes), {})
        family.setdefault(entry.seed, entry)
    found = [list(seeds.values()) for seeds in families.values() if len(seeds) > 1]
    first = [runs[0] for runs in found]
    trained = [f", lambda {', '.join(f'{lam:g}' for lam in _trained(one))}" for one in first]
    rows = []
    for name, runs in zip(distinct(first, started(first), trained), found, strict=True):
        points: dict[tuple[float, float], list[PointResult]] = {}
        for point in (point for run in runs for point in run.operating_points):
            points.setdefault((-point.width, point.lam), []).append(point)
        several = {width for width, _ in points} != {-1.0}
        for (width, lam), here in sorted(points.items()):
            values = [point.robust[attack].value for point in here if attack in point.robust]
            if len(values) == len(here) > 1:
                label = f"{name}, width {-width:g}" if several else name
                clean = Spread.of([point.clean_acc for point in here])
                rows.append(SeedRow(label, lam, -width, here[0].trained, clean, Spread.of(values)))
    return rows


def _last(entry: Entry) -> tuple[str, ...]:
    """Return which epochs were the last, of weights that are not the best in validation."""
    return tuple(re.findall(r"\blast\b[^:;]*: epoch \d+", entry.selection))


def _trained(entry: Entry) -> tuple[float, ...]:
    return tuple(sorted({point.lam for point in entry.operating_points if point.trained}))
