"""The per-lambda table: for a terminal, as Markdown, as CSV."""

from collections.abc import Callable

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


def markdown(results: list[PointResult], trained: list[float], title: str) -> str:
    """Write the table as Markdown."""
    rows = [
        _cells(r, trained, lambda a: f"{a.value:.1f} [{a.low:.1f}, {a.high:.1f}]") for r in results
    ]
    frame = pd.DataFrame(rows, columns=_headers(results))
    table = frame.to_markdown(index=False, disable_numparse=True, stralign="right")
    return f"**{title}**\n\n{table}\n\n{NOTE}\n"


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
        for name, accuracy in {"SA": result.clean, **result.robust}.items():
            row |= {
                name: f"{accuracy.value:.2f}",
                f"{name} low": f"{accuracy.low:.2f}",
                f"{name} high": f"{accuracy.high:.2f}",
            }
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def terminal(results: list[PointResult], trained: list[float]) -> Table:
    """Draw the table for a terminal, each interval below its accuracy."""
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
