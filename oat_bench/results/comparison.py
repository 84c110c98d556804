"""Comparing runs: every method at every lambda, against one of them, on the same examples.

Of a single run the lambda values are compared with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from oat_bench.errors import UserError
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import Model, attack_name, choose_attack, common, distinct, models_of
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.statistics import frontier, pairs
from oat_bench.statistics.accuracy import Accuracy, Estimate, Spread
from oat_bench.statistics.frontier import Distance, Hole, Rightness
from oat_bench.statistics.pairs import Paired

#: what one accuracy is above another, in points: tested, where both are of the same examples
Difference = Paired | float


@dataclass(frozen=True)
class Row:
    """One method at one lambda.

    The differences are to the reference at `reference_lam`, of a single run another lambda of its
    own; all three are None where there is none to compare with.
    """

    method: str
    point: PointResult
    robust: Accuracy
    reference_lam: float | None
    clean_difference: Difference | None
    robust_difference: Difference | None


@dataclass(frozen=True)
class Total:
    """One method's frontier; numbers have bootstrap intervals where there are outcomes.

    ``difference`` and ``distance`` are to the reference, whose own are None.
    """

    method: str
    pareto: list[float]
    hypervolume: Estimate | float
    hole: Hole | None
    difference: Estimate | float | None
    distance: Distance | None


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
    """All rows, and what they are compared to.

    ``shared`` and ``attacked`` count the examples behind the paired comparisons and those of them
    that were attacked; ``tests`` those that p-values are corrected for by Holm's method, 0: none.
    """

    title: str
    attack: str
    reference: str
    rows: list[Row]
    totals: list[Total]
    shared: int
    attacked: int
    over_seeds: list[SeedRow]
    alone: bool = False
    reference_lam: float | None = None
    tests: int = 0


def compare(
    records: Sequence[Record],
    *,
    attack: str | None = None,
    reference: int = 0,
    reference_lam: float | None = None,
) -> Comparison:
    """Compare runs with the one in place ``reference``, or the lambda values of a single run.

    Those are compared with ``reference_lam``, or each with the one before, and the tests corrected
    for their number by Holm's method, over all widths and lambda values, SA and RA.
    """
    alone = len(records) == 1
    if reference_lam is not None and not alone:
        raise UserError("--reference-lambda is for one run alone; several compare by --reference")
    entries = [record.entry for record in records]
    attack = choose_attack(entries, attack)
    models = models_of(records, attack)
    bases = {model.curve.width: model for model in models if model.curve.entry == reference}
    rows: list[Row] = []
    totals: list[Total] = []
    shared = attacked = tests = 0
    for model in models:
        base = bases.get(model.curve.width) if model.curve.entry != reference else None
        other = model if alone else base
        pair = common(model, other) if other is not None else None
        if pair is not None:
            shared = max(shared, len(pair[0].examples))
            attacked = max(attacked, int(pair[0].attacked.sum()))
        lams = model.curve.lambdas()
        references: Sequence[float | None] = _references(lams, reference_lam) if alone else lams
        rows += _rows(model, other, references, pair, attack)
        totals.append(_total(model, base, None if alone else pair, attack))
    if alone:
        rows, tests = _corrected(rows)
    return Comparison(
        f"{threat_of(entries[0])}: {attack_name(attack)}",
        attack,
        ", ".join(model.curve.label for model in bases.values()),
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
    """Correct the p-values of all rows by Holm's method; say how many there are."""
    tested = [
        (place, key, one)
        for place, row in enumerate(rows)
        for key in ("clean_difference", "robust_difference")
        if isinstance(one := getattr(row, key), Paired)
    ]
    changed = list(rows)
    p_values = pairs.holm([one.p_value for _, _, one in tested])
    for (place, key, one), p_value in zip(tested, p_values, strict=True):
        corrected: dict[str, Any] = {key: one.model_copy(update={"p_value": p_value})}
        changed[place] = replace(changed[place], **corrected)
    return changed, len(tested)


def _rows(
    model: Model,
    base: Model | None,
    references: Sequence[float | None],
    pair: tuple[Rightness, Rightness] | None,
    attack: str,
) -> list[Row]:
    """Return a row for each lambda, with the differences to its reference lambda of the base."""
    known = [] if base is None else base.curve.lambdas()
    rows = []
    for place, (point, robust, reference) in enumerate(
        zip(model.curve.points, model.curve.robust(attack), references, strict=True)
    ):
        if base is None or reference not in known:
            rows.append(Row(model.curve.label, point, robust, None, None, None))
            continue
        there = known.index(reference)
        clean_difference: Difference = point.clean_acc - base.curve.points[there].clean_acc
        robust_difference: Difference = robust.value - base.curve.robust(attack)[there].value
        if pair is not None:
            ours, theirs = pair
            seen = ours.attacked  # in both
            clean_difference = pairs.paired(ours.clean[:, place], theirs.clean[:, there])
            robust_difference = pairs.paired(ours.robust[seen, place], theirs.robust[seen, there])
        label = model.curve.label
        rows.append(Row(label, point, robust, reference, clean_difference, robust_difference))
    return rows


def _total(
    model: Model, base: Model | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> Total:
    points, right = model.points(attack), model.right
    own = frontier.hypervolume(points)
    volume = own if right is None else right.estimate(frontier.hypervolume)
    difference: Estimate | float | None = None
    distance = None
    if base is not None:
        others = base.points(attack)
        distance = frontier.distance(points, others)
        difference = own - frontier.hypervolume(others)
    if pair is not None:
        difference = pair[0].estimate(frontier.hypervolume, pair[1])
    lams = model.curve.lambdas()
    return Total(
        model.curve.label,
        frontier.pareto_lambdas(lams, points),
        volume,
        frontier.hole(lams, points),
        difference,
        distance,
    )


# --- runs that differ in the seed alone


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
