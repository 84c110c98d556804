"""Comparing runs: every method at every lambda, against one of them, on the same examples.

Of a single run the lambda values are compared with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from oat_bench.errors import UserError
from oat_bench.results.entries import threat_of
from oat_bench.results.models import Model, attack_name, choose_attack, common, models_of
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.results.seeds import SeedRow, over_seeds
from oat_bench.statistics import frontier, pairs
from oat_bench.statistics.accuracy import Accuracy, Estimate
from oat_bench.statistics.frontier import Distance, Hole, Rightness
from oat_bench.statistics.pairs import Paired

#: what one accuracy is above another, in points: tested, where both are of the same examples
Difference = Paired | float


@dataclass(frozen=True)
class Row:
    """One method at one lambda.

    The differences are to the reference at `reference_lam`: the same lambda, or of a single run
    another one of its own. All three are None where there is none to compare with.
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

    Of the reference itself, whose hypervolume the difference and whose frontier the distance is to,
    these are None.
    """

    method: str
    pareto: list[float]
    hypervolume: Estimate | float
    hole: Hole | None
    difference: Estimate | float | None
    distance: Distance | None


@dataclass(frozen=True)
class Comparison:
    """The whole of it.

    Attributes:
        title: data set, threat model and attack.
        attack: whose RA.
        reference: label of what the others are compared to.
        rows: by method and lambda.
        totals: by method.
        shared: the number of examples behind the paired comparisons; 0 if there is none.
        attacked: how many of these were attacked.
        over_seeds: mean and spread of runs that differ in the seed alone.
        alone: whether it is of a single run.
        reference_lam: as `compare` takes it.
        tests: how many tests p-values are corrected for, by Holm's method; 0 if they are not.
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
    """Compare runs of one data set and threat model, or the lambda values of one run.

    The tests of a single run are corrected for their number by Holm's method, over all widths and
    lambda values, SA and RA.

    Args:
        records: from `oat_bench.results.records.read_all`.
        attack: whose RA; by default the worst case, or the last attack that all have.
        reference: place of the run that the others are compared to.
        reference_lam: what the lambda values of a single run are compared to; None: each to the one
            before.

    Raises:
        UserError: if not every run has the attack, or two runs give one example two labels, or a
            single run does not have ``reference_lam``.
    """
    entries = [record.entry for record in records]
    attack = choose_attack(entries, attack)
    models = models_of(records, attack)
    bases = {model.curve.width: model for model in models if model.curve.entry == reference}
    rows: list[Row] = []
    totals: list[Total] = []
    shared, attacked, alone = 0, 0, len(records) == 1
    if reference_lam is not None and not alone:
        raise UserError("--reference-lambda is for one run alone; several compare by --reference")
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
    tests = 0
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
    """Say what each lambda of a model is compared to: the one before, or always the same."""
    if reference is None:
        return [None, *lams[:-1]]
    if reference not in lams:
        have = ", ".join(f"{lam:g}" for lam in lams)
        raise UserError(f"the run has no lambda {reference:g}; it has {have}")
    return [None if lam == reference else reference for lam in lams]


def _corrected(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Correct the p-values of all rows by Holm's method; say how many there are."""
    both = [one for row in rows for one in (row.clean_difference, row.robust_difference)]
    tests = [one.p_value for one in both if isinstance(one, Paired)]
    p_values = iter(pairs.holm(tests))

    def corrected(one: Difference | None) -> Difference | None:
        if not isinstance(one, Paired):
            return one
        return one.model_copy(update={"p_value": next(p_values)})

    changed = [
        replace(
            row,
            clean_difference=corrected(row.clean_difference),
            robust_difference=corrected(row.robust_difference),
        )
        for row in rows
    ]
    return changed, len(tests)


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
        clean, other = base.curve.clean()[there], base.curve.robust(attack)[there]
        differences: tuple[Difference, Difference] = (
            point.clean_acc - clean.value,
            robust.value - other.value,
        )
        if pair is not None:
            ours, theirs = pair
            seen = ours.attacked  # in both
            differences = (
                pairs.paired(ours.clean[:, place], theirs.clean[:, there]),
                pairs.paired(ours.robust[seen, place], theirs.robust[seen, there]),
            )
        rows.append(Row(model.curve.label, point, robust, reference, *differences))
    return rows


def _total(
    model: Model, base: Model | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> Total:
    points, right = model.points(attack), model.right
    volume: Estimate | float = frontier.hypervolume(points)
    if right is not None:
        volume = right.estimate(frontier.hypervolume)
    difference: Estimate | float | None = None
    distance = None
    if base is not None:
        others = base.points(attack)
        distance = frontier.distance(points, others)
        difference = frontier.hypervolume(points) - frontier.hypervolume(others)
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
