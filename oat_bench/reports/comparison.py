"""Comparing runs: every method at every lambda, against one of them, on the same examples.

Of a single run its lambda are compared with each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from oat_bench.errors import UserError
from oat_bench.reports import seeds
from oat_bench.reports.seeds import SeedRow
from oat_bench.results.entries import threat_of
from oat_bench.results.models import Model, attack_name, choose_attack, common, models_of
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.statistics import frontier, pairs
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Distance, Hole, Rightness
from oat_bench.statistics.pairs import Paired


@dataclass(frozen=True)
class Difference:
    """What one accuracy is above another, in points.

    Attributes:
        value: the difference.
        paired: with interval and test, where outcomes of the same examples are there.
    """

    value: float
    paired: Paired | None


@dataclass(frozen=True)
class Row:
    """One method at one lambda.

    Attributes:
        method: its label.
        point: what was measured.
        robust: RA under the attack of the comparison.
        reference_lam: lambda that the differences are to: of the reference the same one, of a
            single run another of its own; None where there is none.
        clean_difference: SA less that of the reference there; None where it has none, and in the
            reference's own rows.
        robust_difference: the same of RA.
    """

    method: str
    point: PointResult
    robust: Accuracy
    reference_lam: float | None
    clean_difference: Difference | None
    robust_difference: Difference | None


@dataclass(frozen=True)
class Total:
    """One method's frontier.

    Attributes:
        method: its label.
        pareto: the lambda that no other beats.
        hypervolume: in percent of the box from (0, 0) to (100, 100).
        interval: its 95% bootstrap interval, if outcomes are there.
        hole: between lambda = 0 and the first above.
        difference: hypervolume less that of the reference; None for the reference itself.
        difference_interval: its 95% paired bootstrap interval, where examples are the same.
        distance: to the reference's frontier.
    """

    method: str
    pareto: list[float]
    hypervolume: float
    interval: tuple[float, float] | None
    hole: Hole | None
    difference: float | None
    difference_interval: tuple[float, float] | None
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
        reference_lam: what the lambda of a single run are compared to; None: each to the one
            before.
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
    """Compare runs of one data set and threat model, or the lambda of one run.

    The tests of a single run are corrected for their number by Holm's method, over all widths and
    lambda, SA and RA.

    Args:
        records: from `oat_bench.results.records.read_all`.
        attack: whose RA; by default the worst case, or the last attack that all have.
        reference: place of the run that the others are compared to.
        reference_lam: what the lambda of a single run are compared to; None: each to the one
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
        seeds.over_seeds(entries, attack),
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
    both = [difference for row in rows for difference in _differences(row)]
    tests = [difference.paired for difference in both if difference and difference.paired]
    p_values = iter(pairs.holm([test.p_value for test in tests]))

    def corrected(difference: Difference | None) -> Difference | None:
        if difference is None or difference.paired is None:
            return difference
        return replace(
            difference, paired=difference.paired.model_copy(update={"p_value": next(p_values)})
        )

    changed = [
        replace(row, clean_difference=corrected(clean), robust_difference=corrected(robust))
        for row in rows
        for clean, robust in [_differences(row)]
    ]
    return changed, len(tests)


def _differences(row: Row) -> tuple[Difference | None, Difference | None]:
    return row.clean_difference, row.robust_difference


def _rows(
    model: Model,
    base: Model | None,
    references: Sequence[float | None],
    pair: tuple[Rightness, Rightness] | None,
    attack: str,
) -> list[Row]:
    """Return a row for each lambda, with the differences to its reference lambda of the base."""
    others: dict[float, tuple[Accuracy, Accuracy, int]] = {}
    if base is not None:
        values = zip(base.curve.clean(), base.curve.robust(attack), strict=True)
        for place, (lam, (clean, robust)) in enumerate(
            zip(base.curve.lambdas(), values, strict=True)
        ):
            others[lam] = (clean, robust, place)
    rows = []
    for place, (point, robust) in enumerate(
        zip(model.curve.points, model.curve.robust(attack), strict=True)
    ):
        differences: tuple[Difference | None, Difference | None] = (None, None)
        reference = references[place] if references[place] in others else None
        if reference is not None:
            clean, other, there = others[reference]
            tests: tuple[Paired | None, Paired | None] = (None, None)
            if pair is not None:
                ours, theirs = pair
                seen = ours.attacked  # in both
                tests = (
                    pairs.paired(ours.clean[:, place], theirs.clean[:, there]),
                    pairs.paired(ours.robust[seen, place], theirs.robust[seen, there]),
                )
            differences = (
                _difference(point.clean_acc_interval, clean, tests[0]),
                _difference(robust, other, tests[1]),
            )
        rows.append(Row(model.curve.label, point, robust, reference, *differences))
    return rows


def _difference(ours: Accuracy, theirs: Accuracy, paired: Paired | None) -> Difference:
    return Difference(paired.value if paired else ours.value - theirs.value, paired)


def _total(
    model: Model, base: Model | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> Total:
    points = model.points(attack)
    best = frontier.pareto(points)
    interval = difference = difference_interval = distance = None
    if model.right is not None:
        right = model.right
        volume = right.estimate(frontier.hypervolume)
        interval = (volume.low, volume.high)
    if base is not None:
        others = base.points(attack)
        distance = frontier.distance(points, others)
        difference = frontier.hypervolume(points) - frontier.hypervolume(others)
    if pair is not None:
        gained = pair[0].above(pair[1], frontier.hypervolume)
        difference, difference_interval = gained.value, (gained.low, gained.high)
    return Total(
        model.curve.label,
        [lam for lam, optimal in zip(model.curve.lambdas(), best, strict=True) if optimal],
        frontier.hypervolume(points),
        interval,
        frontier.hole(model.curve.lambdas(), points),
        difference,
        difference_interval,
        distance,
    )


# --- as text


def notes(comparison: Comparison) -> list[str]:
    """Return the paragraphs below the tables."""
    paragraphs = [
        "Accuracies in percent with 95% Wilson intervals. SA: clean images. RA: "
        f"{_robust_name(comparison)}. * lambda was not trained."
    ]
    if comparison.alone:
        if len(comparison.rows) > len(comparison.totals):  # more than one lambda
            paragraphs.append(_between_lambda(comparison))
        return paragraphs
    tests = ""
    if comparison.shared:
        tests = (
            f" On the same examples (up to {_shared(comparison)}): 95% intervals of Agresti and "
            "Min, p of McNemar's exact test, not corrected for the number of tests; hypervolume: "
            "paired bootstrap."
        )
    paragraphs.append(
        f"Differences are to {comparison.reference}, in points, at the same lambda.{tests}"
    )
    paragraphs.append(
        "Hypervolume: percent of the box from (0, 0)% to (100, 100)% that the frontier dominates. "
        f"RA at equal SA: mean over the Pareto-optimal points of {comparison.reference} of RA at "
        "their SA, interpolated, less theirs; in brackets how many have an SA that is not reached. "
        "Epsilon: points that the frontier lacks, in SA or RA, to be as good everywhere (at most "
        "0: it is)."
    )
    if comparison.over_seeds:
        paragraphs.append(seeds.NOTE)
    return paragraphs


def _between_lambda(comparison: Comparison) -> str:
    reference = comparison.reference_lam
    to = "the lambda before" if reference is None else f"lambda {reference:g}"
    tests = ""
    if comparison.shared:
        tests = (
            f" On the same examples ({_shared(comparison)}): 95% intervals of Agresti and Min, "
            "each alone; p of McNemar's exact test, corrected by Holm for all "
            f"{comparison.tests} tests."
        )
    return f"Differences are to {to}, in points.{tests}"


def _shared(comparison: Comparison) -> str:
    fewer = comparison.attacked < comparison.shared
    return f"{comparison.shared}" + (f"; for RA {comparison.attacked}" if fewer else "")


def _robust_name(comparison: Comparison) -> str:
    if comparison.attack == WORST:
        return "right under every attack"
    return f"under {comparison.attack}"


def written(interval: Accuracy) -> str:
    """Write an accuracy with its interval."""
    return f"{interval}"


def _elsewhere(row: Row) -> bool:
    return row.reference_lam not in (None, row.point.lam)


def _written(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.paired is None:
        return f"{difference.value:+.1f}"
    test = difference.paired
    p = "p < 0.001" if test.p_value < 0.001 else f"p {test.p_value:.3f}"
    return f"{test.value:+.1f} [{test.low:+.1f}, {test.high:+.1f}], {p}"


def _bracketed(value: float, interval: tuple[float, float] | None, sign: str = "") -> str:
    ends = "" if interval is None else f" [{interval[0]:{sign}.1f}, {interval[1]:{sign}.1f}]"
    return f"{value:{sign}.1f}{ends}"


def points_table(comparison: Comparison) -> pd.DataFrame:
    """Return the table of points, as text: a row for each method and lambda."""
    rows = [
        {
            "method": row.method,
            "lambda": f"{row.point.lam:g}" + ("" if row.point.trained else " *"),
            "n": str(row.point.n),
            "SA": written(row.point.clean_acc_interval),
            "RA": written(row.robust),
            "n of RA": "" if row.robust.n in (None, row.point.n) else str(row.robust.n),
            "to lambda": f"{row.reference_lam:g}" if _elsewhere(row) else "",
            "SA difference": _written(row.clean_difference),
            "RA difference": _written(row.robust_difference),
        }
        for row in comparison.rows
    ]
    return _without_empty(pd.DataFrame(rows))


def totals_table(comparison: Comparison) -> pd.DataFrame:
    """Return the table of frontiers, as text: a row for each method."""
    rows = []
    for total in comparison.totals:
        gap = epsilon = hole = difference = ""
        if total.distance is not None:
            unreached = f" ({total.distance.unreached})" if total.distance.unreached else ""
            mean = total.distance.mean_gap
            gap = ("none" if np.isnan(mean) else f"{mean:+.1f}") + unreached
            epsilon = f"{total.distance.epsilon:.1f}"
        if total.hole is not None:
            hole = f"{total.hole.distance:.1f} (to lambda {total.hole.lam:g})"
        if total.difference is not None:
            difference = _bracketed(total.difference, total.difference_interval, "+")
        rows.append(
            {
                "method": total.method,
                "hypervolume": _bracketed(total.hypervolume, total.interval),
                "difference": difference,
                "RA at equal SA": gap,
                "epsilon": epsilon,
                "hole": hole,
                "Pareto-optimal lambda": ", ".join(f"{lam:g}" for lam in total.pareto),
            }
        )
    return _without_empty(pd.DataFrame(rows))


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the columns that say nothing."""
    return frame.loc[:, (frame != "").any(axis=0)]


def tables(comparison: Comparison) -> list[pd.DataFrame]:
    """Return the tables, as text: points, frontiers and, where there are several, seeds."""
    found = [points_table(comparison), totals_table(comparison)]
    return [*found, seeds.table(comparison.over_seeds)] if comparison.over_seeds else found


def markdown(comparison: Comparison) -> str:
    """Write the comparison as Markdown: title, tables, notes."""
    render: Callable[[pd.DataFrame], str] = lambda frame: frame.to_markdown(  # noqa: E731
        index=False,
        disable_numparse=True,
        colalign=["left", *["right"] * (len(frame.columns) - 1)],
    )
    drawn = [render(frame) for frame in tables(comparison)]
    return "\n\n".join([f"**{comparison.title}**", *drawn, *notes(comparison)]) + "\n"


def csv(comparison: Comparison) -> str:
    """Write the points as CSV, every number in a column of its own."""
    rows = []
    for row in comparison.rows:
        values: dict[str, object] = {
            "method": row.method,
            "lambda": row.point.lam,
            "width": row.point.width,
            "trained": row.point.trained,
            "n": row.point.n,
            "to lambda": row.reference_lam,
        }
        for name, interval, difference in (
            ("SA", row.point.clean_acc_interval, row.clean_difference),
            ("RA", row.robust, row.robust_difference),
        ):
            paired = difference.paired if difference else None
            values |= {
                name: interval.value,
                f"{name} low": interval.low,
                f"{name} high": interval.high,
                f"{name} difference": round(difference.value, 2) if difference else None,
                f"{name} difference low": round(paired.low, 2) if paired else None,
                f"{name} difference high": round(paired.high, 2) if paired else None,
                f"{name} p": paired.p_value if paired else None,
            }
        rows.append(values)
    return pd.DataFrame(rows).to_csv(index=False)


def terminal(frame: pd.DataFrame) -> Table:
    """Draw one of `tables` for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for place, name in enumerate(frame.columns):
        table.add_column(str(name), justify="right" if place else "left")
    for cells in frame.itertuples(index=False):
        table.add_row(*[str(cell) for cell in cells])
    return table
