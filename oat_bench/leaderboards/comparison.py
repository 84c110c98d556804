"""Comparing runs: every method at every lambda, against one of them, on the same examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from oat_bench.evaluation import frontier, pairs
from oat_bench.evaluation.frontier import Distance, Hole, Rightness
from oat_bench.evaluation.pairs import Paired
from oat_bench.evaluation.statistics import WORST
from oat_bench.leaderboards.curves import attack_name, choose_attack, threat_of
from oat_bench.leaderboards.entries import EntryPoint, Interval
from oat_bench.leaderboards.models import Model, common, models_of
from oat_bench.leaderboards.records import Record


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
        clean_difference: SA less that of the reference at the same lambda; None where it has none,
            and in its own rows.
        robust_difference: the same of RA.
    """

    method: str
    point: EntryPoint
    robust: Interval
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
    """

    title: str
    attack: str
    reference: str
    rows: list[Row]
    totals: list[Total]
    shared: int


def compare(
    records: Sequence[Record], *, attack: str | None = None, reference: int = 0
) -> Comparison:
    """Compare runs of one data set and threat model.

    Args:
        records: from `oat_bench.leaderboards.records.read_all`.
        attack: whose RA; by default the worst case, or the last attack that all have.
        reference: place of the run that the others are compared to.

    Raises:
        UserError: if not every run has the attack, or two runs give one example two labels.
    """
    entries = [record.entry for record in records]
    attack = choose_attack(entries, attack)
    models = models_of(records, attack)
    bases = {model.curve.width: model for model in models if model.curve.entry == reference}
    rows: list[Row] = []
    totals: list[Total] = []
    shared = 0
    for model in models:
        base = bases.get(model.curve.width) if model.curve.entry != reference else None
        pair = common(model, base) if base is not None else None
        shared = max(shared, len(pair[0].examples) if pair else 0)
        rows += _rows(model, base, pair, attack)
        totals.append(_total(model, base, pair, attack))
    return Comparison(
        f"{threat_of(entries[0])}: {attack_name(attack)}",
        attack,
        ", ".join(model.curve.label for model in bases.values()),
        rows,
        totals,
        shared,
    )


def _rows(
    model: Model, base: Model | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> list[Row]:
    others: dict[float, tuple[Interval, Interval, int]] = {}
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
        if point.lam in others:
            clean, other, there = others[point.lam]
            tests: tuple[Paired | None, Paired | None] = (None, None)
            if pair is not None:
                ours, theirs = pair
                tests = (
                    pairs.paired(ours.clean[:, place], theirs.clean[:, there]),
                    pairs.paired(ours.robust[:, place], theirs.robust[:, there]),
                )
            differences = (
                _difference(point.clean_acc_interval, clean, tests[0]),
                _difference(robust, other, tests[1]),
            )
        rows.append(Row(model.curve.label, point, robust, *differences))
    return rows


def _difference(ours: Interval, theirs: Interval, paired: Paired | None) -> Difference:
    return Difference(paired.difference if paired else ours.value - theirs.value, paired)


def _total(
    model: Model, base: Model | None, pair: tuple[Rightness, Rightness] | None, attack: str
) -> Total:
    points = model.points(attack)
    best = frontier.pareto(points)
    interval = difference = difference_interval = distance = None
    if model.right is not None:
        right = model.right
        interval = frontier.bootstrap_interval(
            lambda index: frontier.hypervolume(right.points(index)),
            len(right.examples),
            (0.0, 100.0),
        )
    if base is not None:
        others = base.points(attack)
        distance = frontier.distance(points, others)
        difference = frontier.hypervolume(points) - frontier.hypervolume(others)
    if pair is not None:
        ours, theirs = pair

        def gain(index: np.ndarray | slice) -> float:
            return frontier.hypervolume(ours.points(index)) - frontier.hypervolume(
                theirs.points(index)
            )

        difference = gain(slice(None))
        difference_interval = frontier.bootstrap_interval(gain, len(ours.examples), (-100.0, 100.0))
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
    if len(comparison.totals) == 1:
        return paragraphs
    tests = ""
    if comparison.shared:
        tests = (
            f" On the same examples (up to {comparison.shared}): 95% intervals of Agresti and Min, "
            "p of McNemar's exact test, not corrected for the number of tests; hypervolume: paired "
            "bootstrap."
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
    return paragraphs


def _robust_name(comparison: Comparison) -> str:
    if comparison.attack == WORST:
        return "right under every attack"
    return f"under {comparison.attack}"


def written(interval: Interval) -> str:
    """Write an accuracy with its interval."""
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _written(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.paired is None:
        return f"{difference.value:+.1f}"
    test = difference.paired
    p = "p < 0.001" if test.p_value < 0.001 else f"p {test.p_value:.3f}"
    return f"{test.difference:+.1f} [{test.low:+.1f}, {test.high:+.1f}], {p}"


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


def markdown(comparison: Comparison) -> str:
    """Write the comparison as Markdown: title, points, frontiers, notes."""
    render: Callable[[pd.DataFrame], str] = lambda frame: frame.to_markdown(  # noqa: E731
        index=False,
        disable_numparse=True,
        colalign=["left", *["right"] * (len(frame.columns) - 1)],
    )
    tables = [render(points_table(comparison)), render(totals_table(comparison))]
    return "\n\n".join([f"**{comparison.title}**", *tables, *notes(comparison)]) + "\n"


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
    """Draw `points_table` or `totals_table` for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for place, name in enumerate(frame.columns):
        table.add_column(str(name), justify="right" if place else "left")
    for cells in frame.itertuples(index=False):
        table.add_row(*[str(cell) for cell in cells])
    return table
