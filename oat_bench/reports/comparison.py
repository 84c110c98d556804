"""Runs compared: every method at every lambda, every frontier, and what seeds make of them."""

import math
from collections.abc import Sequence

from oat_bench.reports import table
from oat_bench.reports.table import Cell, Page, Table, ends, to_csv
from oat_bench.results.comparison import Comparison, Difference, Row, SeedRow, Total
from oat_bench.statistics.accuracy import DECIMALS, WORST, Estimate
from oat_bench.statistics.pairs import Paired

SEEDS = (
    "Over seeds: mean of the runs' accuracies with its 95% t-interval, and their standard "
    "deviation (n - 1). That is how trainings vary; Wilson intervals say how examples do."
)


def page(comparison: Comparison) -> Page:
    """Return the report: points, frontiers and, where there are several, seeds."""
    parts = [
        [_point(row) for row in comparison.rows],
        [_frontier(total) for total in comparison.totals],
        [_seeds(row) for row in comparison.over_seeds],
    ]
    tables = [Table(rows, ["method"], keys=("method", "lambda")) for rows in parts if rows]
    return Page(comparison.title, tables, _notes(comparison))


def _point(row: Row) -> table.Row:
    elsewhere = row.reference_lam not in (None, row.point.lam)
    return {
        "method": row.method,
        "lambda": _lambda(row.point.lam, row.point.trained),
        "n": str(row.point.n),
        "SA": row.point.clean_acc_interval,
        "RA": row.robust,
        "n of RA": "" if row.robust.n in (None, row.point.n) else str(row.robust.n),
        "m": "" if row.robust.sampled is None else f"{row.robust.sampled} of {row.robust.left}",
        "to lambda": f"{row.reference_lam:g}" if elsewhere else "",
        "SA difference": _difference(row.clean_difference),
        "RA difference": _difference(row.robust_difference),
        "test": _test(row.robust_difference) if _mixed(row) else "",
    }


def _test(difference: Difference | None) -> str:
    if not isinstance(difference, Paired):
        return ""
    return "exact" if difference.exact else "two-phase"


def _mixed(row: Row) -> bool:
    """Whether the test of RA need not be exact: it is of two phases, or of a sample of all."""
    test = row.robust_difference
    return row.robust.sampled is not None or (isinstance(test, Paired) and not test.exact)


def _lambda(lam: float, trained: bool) -> str:
    return f"{lam:g}" + ("" if trained else " *")


def _difference(difference: Estimate | float | None) -> Cell:
    if isinstance(difference, Paired):
        p = "p < 0.001" if difference.p_value < 0.001 else f"p {difference.p_value:.3f}"
        return Cell(difference, beside=p, signed=True)
    if difference is None or isinstance(difference, Estimate):
        return Cell(difference, signed=True)
    return Cell(f"{difference:+z.1f}")


def _frontier(total: Total) -> table.Row:
    gap = epsilon = ""
    hole = Cell(None)
    if (distance := total.distance) is not None:
        gap = "none" if math.isnan(distance.mean_gap) else f"{distance.mean_gap:+z.1f}"
        gap += f" ({distance.unreached})" if distance.unreached else ""
        epsilon = f"{distance.epsilon:.1f}"
    if total.hole is not None:
        hole = Cell(f"{total.hole.distance:.1f}", beside=f"to lambda {total.hole.lam:g}")
    volume = total.hypervolume
    return {
        "method": total.method,
        "hypervolume": volume if isinstance(volume, Estimate) else f"{volume:.1f}",
        "difference": _difference(total.difference),
        "RA at equal SA": gap,
        "epsilon": epsilon,
        "hole": hole,
        "Pareto-optimal lambda values": ", ".join(f"{lam:g}" for lam in total.pareto),
    }


def _seeds(row: SeedRow) -> table.Row:
    return {
        "method": row.method,
        "lambda": _lambda(row.lam, row.trained),
        "seeds": str(row.clean.n),
        "mean SA": row.clean,
        "std SA": f"{row.clean.std:.2f}",
        "mean RA": row.robust,
        "std RA": f"{row.robust.std:.2f}",
    }


def _notes(comparison: Comparison) -> list[str]:
    ra = "right under every attack" if comparison.attack == WORST else f"under {comparison.attack}"
    phases = (
        " m: how many of those that cheaper attacks left standing were attacked; RA is then a "
        "two-phase estimate for all n. Test two-phase: not all of both models' survivors were "
        "attacked, and interval and p are those of the difference of the estimates."
    )
    paragraphs = [
        f"Accuracies in percent with 95% Wilson intervals. SA: clean images. RA: {ra}."
        + " * lambda was not trained." * (not all(row.point.trained for row in comparison.rows))
        + phases * any(map(_mixed, comparison.rows))
    ]
    fewer = comparison.attacked < comparison.shared
    shared = f"{comparison.shared}" + (f"; for RA {comparison.attacked}" if fewer else "")
    tests = ""
    if comparison.alone:
        if len(comparison.rows) == len(comparison.totals):  # one lambda
            return paragraphs
        reference = comparison.reference_lam
        to = "the lambda before" if reference is None else f"lambda {reference:g}"
        if comparison.shared:
            tests = (
                f" On the same examples ({shared}): 95% intervals of Agresti and Min, each alone; "
                f"p of McNemar's exact test, corrected by Holm for all {comparison.tests} tests."
            )
        return [*paragraphs, f"Differences are to {to}, in points.{tests}"]
    if comparison.shared:
        tests = (
            f" On the same examples (up to {shared}): 95% intervals of Agresti and Min, p of "
            "McNemar's exact test, not corrected for the number of tests; hypervolume: paired "
            "bootstrap."
        )
    paragraphs += [
        f"Differences are to {comparison.reference}, in points, at the same lambda.{tests}",
        "Hypervolume: percent of the box from (0, 0)% to (100, 100)% that the frontier dominates. "
        f"RA at equal SA: mean over the Pareto-optimal points of {comparison.reference} of RA at "
        "their SA, interpolated, less theirs; in brackets how many have an SA that is not reached. "
        "Epsilon: points that the frontier lacks, in SA or RA, to be as good everywhere (at most "
        "0: it is).",
    ]
    return [*paragraphs, SEEDS] if comparison.over_seeds else paragraphs


def csv(comparison: Comparison) -> str:
    """Write the points as CSV, every number in a column of its own."""
    rows = []
    for row in comparison.rows:
        point = row.point
        values: dict[str, object] = {"method": row.method, "lambda": point.lam}
        values |= {"width": point.width, "trained": point.trained, "n": point.n}
        values["to lambda"] = row.reference_lam
        for name, found, difference in (
            ("SA", point.clean_acc_interval, row.clean_difference),
            ("RA", row.robust, row.robust_difference),
        ):
            test = difference if isinstance(difference, Paired) else None
            values |= ends(name, found) | ends(f"{name} difference", test)
            if isinstance(difference, float):
                values[f"{name} difference"] = round(difference, DECIMALS)
            values[f"{name} p"] = test.p_value if test else None
        values["RA test"] = _test(row.robust_difference)
        values |= {"left": row.robust.left, "sampled": row.robust.sampled}
        rows.append(values)
    return to_csv(rows)


def seeds_csv(rows: Sequence[SeedRow]) -> str:
    """Write what there is over seeds as CSV, every number in a column of its own."""
    values = []
    for row in rows:
        columns: dict[str, object] = {"method": row.method, "lambda": row.lam, "width": row.width}
        columns |= {"trained": row.trained, "seeds": row.clean.n}
        for name, spread in (("SA", row.clean), ("RA", row.robust)):
            columns |= {f"{name} mean": None, f"{name} std": spread.std}
            columns |= ends(f"{name} mean", spread)
        values.append(columns)
    return to_csv(values)
