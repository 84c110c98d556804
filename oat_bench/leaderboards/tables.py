"""The per-lambda tables, one for each width: for a terminal, as Markdown, as CSV."""

from collections.abc import Callable
from itertools import groupby
from statistics import median

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from oat_bench.evaluation.statistics import WORST, Accuracy, PointResult

#: what stands below a table
NOTE = (
    "Accuracies in percent with 95% Wilson intervals. SA: clean images. RA: under the attack; "
    "worst: right under every attack. * lambda was not trained."
)


def _lambda(result: PointResult, trained: list[float]) -> str:
    return f"{result.lam:g}" + ("" if result.lam in trained else " *")


def _attacks(results: list[PointResult]) -> list[str]:
    return list(results[0].robust)


def _cells(result: PointResult, trained: list[float], show: Callable[[Accuracy], str]) -> list[str]:
    robust = [show(accuracy) for accuracy in result.robust.values()]
    return [_lambda(result, trained), str(result.clean.n), show(result.clean), *robust]


def _headers(results: list[PointResult]) -> list[str]:
    return ["lambda", "n", "SA", *_attacks(results)]


def by_width(results: list[PointResult]) -> list[tuple[str, list[PointResult]]]:
    """Return the results of each width, widest first, with a heading: the width and its cost.

    The width is said where there are several, the cost where it was measured.
    """
    ordered = sorted(results, key=lambda result: -result.width)
    groups = [list(group) for _, group in groupby(ordered, key=lambda result: result.width)]
    headings = []
    for group in groups:
        width = f"width {group[0].width:g}" if len(groups) > 1 else ""
        headings.append(": ".join(part for part in (width, _cost(group)) if part))
    return list(zip(headings, groups, strict=True))


def _cost(results: list[PointResult]) -> str:
    """Say what one width costs; lambda makes no difference but by chance, in the latency."""
    costs = [result.cost for result in results if result.cost is not None]
    if not costs:
        return ""
    latency = median(cost.latency_ms for cost in costs)
    return (
        f"{_short(costs[0].parameters)} parameters, {_short(costs[0].flops)} FLOPs and "
        f"{latency:.3g} ms an image ({costs[0].machine})"
    )


def _short(count: int) -> str:
    """Write a count in three digits: 1.16 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def markdown(results: list[PointResult], trained: list[float], title: str) -> str:
    """Write the tables, one for each width, as Markdown."""
    parts = [f"**{title}**"]
    for heading, group in by_width(results):
        rows = [
            _cells(r, trained, lambda a: f"{a.value:.1f} [{a.low:.1f}, {a.high:.1f}]")
            for r in group
        ]
        frame = pd.DataFrame(rows, columns=_headers(group))
        table = frame.to_markdown(index=False, disable_numparse=True, stralign="right")
        parts += [heading, table] if heading else [table]
    return "\n\n".join([*parts, NOTE]) + "\n"


def csv(results: list[PointResult], trained: list[float]) -> str:
    """Write the table as CSV: for each accuracy its value and the ends of its interval."""
    rows = []
    for result in results:
        row: dict[str, object] = {
            "lambda": result.lam,
            "width": result.width,
            "trained": result.lam in trained,
            "n": result.clean.n,
        }
        if result.cost is not None:
            row |= {
                "parameters": result.cost.parameters,
                "FLOPs": result.cost.flops,
                "latency, ms": f"{result.cost.latency_ms:.3f}",
            }
        for name, accuracy in {"SA": result.clean, **result.robust}.items():
            row |= {
                name: f"{accuracy.value:.2f}",
                f"{name} low": f"{accuracy.low:.2f}",
                f"{name} high": f"{accuracy.high:.2f}",
            }
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def terminal(results: list[PointResult], trained: list[float]) -> Table:
    """Draw the table of one width for a terminal, each interval below its accuracy."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for name in _headers(results):
        table.add_column(name, justify="right", style="bold" if name == WORST else "")
    for result in results:
        cells = _cells(result, trained, lambda a: f"{a.value:.1f}\n{a.low:.0f}-{a.high:.0f}")
        table.add_row(*[_two_lines(cell) for cell in cells])
    return table


def _two_lines(cell: str) -> Text:
    value, _, interval = cell.partition("\n")
    return Text.assemble(value, *([("\n" + interval, "dim")] if interval else []))
