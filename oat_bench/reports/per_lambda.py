"""The per-lambda tables, one for each width: for a terminal, as Markdown, CSV, LaTeX."""

from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from oat_bench import escape as text
from oat_bench.results.entries import EntryAttack
from oat_bench.results.points import PointResult
from oat_bench.results.published import Published
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Summary

#: what stands below a table
NOTE = (
    "Accuracies in percent with 95% Wilson intervals. SA: clean images. RA: under the attack; "
    "worst: right under every attack. * lambda was not trained; between 0 and the first "
    "trained value dual batch norms are mixed (folded-affine)."
)


def _lambda(result: PointResult, trained: list[float]) -> str:
    return f"{result.lam:g}" + ("" if result.lam in trained else " *")


def _published(result: PointResult, name: str, rows: Sequence[Published]) -> list[Published]:
    """Return what was published of one accuracy at one operating point."""
    here = [row for row in rows if (row.lam, row.width) == (result.lam, result.width)]
    if name == "SA":
        return [row for row in here if row.sa is not None]
    return [row for row in here if row.attack == name and row.ra is not None]


def _value(row: Published, name: str) -> float:
    value = row.sa if name == "SA" else row.ra
    assert value is not None
    return value


def _beside(accuracy: Accuracy, row: Published, name: str) -> str:
    """Write a published accuracy, its uncertainty, and what the measured one is above it."""
    value = _value(row, name)
    written = f"{value:.2f}"
    if row.uncertainty >= 0.05:
        written = f"{value:.1f} +/- {row.uncertainty:.1f}"
    return f"{written} ({accuracy.value - value:+.1f})"


def _compared(results: list[PointResult], published: Sequence[Published]) -> list[str]:
    """Name the accuracies that something was published of."""
    names = results[0].accuracies
    return [name for name in names if any(_published(r, name, published) for r in results)]


def _headers(results: list[PointResult], published: Sequence[Published] = ()) -> list[str]:
    compared = _compared(results, published)
    headers = ["lambda", "n"]
    for name, accuracy in results[0].accuracies.items():
        fewer = "" if accuracy.n is None else f" (n {accuracy.n})"
        headers += [f"{name}{fewer}", *([f"{name} published"] if name in compared else [])]
    return headers


def _rows(
    results: list[PointResult],
    trained: list[float],
    published: Sequence[Published],
    show: Callable[[Accuracy], str],
) -> list[list[str]]:
    compared = _compared(results, published)
    rows = []
    for result in results:
        row = [_lambda(result, trained), str(result.n)]
        for name, accuracy in result.accuracies.items():
            row.append(show(accuracy))
            if name in compared:
                found = _published(result, name, published)
                row.append("; ".join(_beside(accuracy, other, name) for other in found))
        rows.append(row)
    return rows


def notes(
    published: Sequence[Published] = (),
    frontiers: Sequence[Summary] = (),
    attacks: Sequence[EntryAttack] = (),
) -> list[str]:
    """Return the paragraphs that stand below a table, after `NOTE`.

    Args:
        published: the rows that the table shows; their sources are named.
        frontiers: all summaries; those of the worst case are shown, or else of the last attack.
        attacks: of the columns; those whose RA is another one are explained.
    """
    paragraphs = [
        f"{attack.name}: an image is broken where it is taken for its target ({attack.targeted}), "
        "and no other class counts; not part of worst."
        for attack in attacks
        if attack.targeted
    ]
    paragraphs += [
        f"{attack.name}: images that were attacked on that model and lambda; one outside the ball "
        "of this threat model counts as not broken."
        for attack in attacks
        if attack.engine == "file"
    ]
    if published:
        sources = dict.fromkeys(
            row.source + (f" ({row.note})" if row.note else "") for row in published
        )
        paragraphs.append(
            "Published: the value, its uncertainty, in brackets measured less published in points. "
            f"From {'; '.join(sources)}."
        )
    shown = [s for s in frontiers if s.attack == frontiers[-1].attack]
    paragraphs += [summary(one, with_width=len(shown) > 1) for one in shown]
    return paragraphs


def summary(frontier: Summary, *, with_width: bool = False) -> str:
    """Write the summary numbers of a frontier as a sentence."""
    name = "worst-case RA" if frontier.attack == WORST else f"RA under {frontier.attack}"
    where = f" at width {frontier.width:g}" if with_width else ""
    (sa, ra), volume = frontier.reference, frontier.hypervolume
    said = (
        f"Frontier of SA and {name}{where}: hypervolume {volume.value:.1f}% "
        f"[{volume.low:.1f}, {volume.high:.1f}] of the box from ({sa:g}, {ra:g})% to "
        f"(100, 100)%; Pareto-optimal lambda {', '.join(f'{lam:g}' for lam in frontier.pareto)}"
    )
    if frontier.hole is not None:
        hole = frontier.hole
        said += (
            f"; hole between lambda 0 and {hole.lam:g}: SA {-hole.sa:+.1f}, RA {hole.ra:+.1f}, "
            f"{hole.distance:.1f} points apart"
        )
    return said + "."


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
        f"{short(costs[0].parameters)} parameters, {short(costs[0].flops)} FLOPs and "
        f"{latency:.3g} ms an image ({costs[0].machine})"
    )


def short(count: int) -> str:
    """Write a count in three digits: 1.16 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def markdown(
    results: list[PointResult],
    trained: list[float],
    title: str,
    published: Sequence[Published] = (),
    frontiers: Sequence[Summary] = (),
    attacks: Sequence[EntryAttack] = (),
) -> str:
    """Write a table a width as Markdown, what was published beside it, summary numbers below."""
    parts = [f"**{text.markdown(title)}**"]
    for heading, group in by_width(results):
        rows = _rows(
            group, trained, published, lambda a: f"{a.value:.1f} [{a.low:.1f}, {a.high:.1f}]"
        )
        frame = pd.DataFrame(rows, columns=_headers(group, published))
        table = frame.to_markdown(index=False, disable_numparse=True, stralign="right")
        parts += [text.markdown(heading), table] if heading else [table]
    return "\n\n".join([*parts, NOTE, *notes(published, frontiers, attacks)]) + "\n"


def latex(
    results: list[PointResult],
    trained: list[float],
    title: str,
    published: Sequence[Published] = (),
    frontiers: Sequence[Summary] = (),
    attacks: Sequence[EntryAttack] = (),
) -> str:
    """Write the same as LaTeX, for the package booktabs."""
    parts = []
    for heading, group in by_width(results):
        rows = _rows(
            group,
            trained,
            published,
            lambda a: rf"{a.value:.1f} {{\scriptsize [{a.low:.1f}, {a.high:.1f}]}}",
        )
        headers = [text.latex(name) for name in _headers(group, published)]
        above = f"{text.latex(heading)}\\\\[2pt]\n" if heading else ""
        parts.append(above + text.tabular(headers, rows, "r" * len(headers)))
    below = [text.latex(note) for note in (NOTE, *notes(published, frontiers, attacks))]
    return text.latex_table(text.latex(title), parts, below)


def csv(
    results: list[PointResult], trained: list[float], published: Sequence[Published] = ()
) -> str:
    """Write the table as CSV: for each accuracy its value and the ends of its interval.

    What was published follows, with what the measured value is above it; the mean of several.
    """
    compared = _compared(results, published)
    rows = []
    for result in results:
        row: dict[str, object] = {
            "lambda": result.lam,
            "width": result.width,
            "trained": result.lam in trained,
            "n": result.n,
        }
        if result.cost is not None:
            row |= {
                "parameters": result.cost.parameters,
                "FLOPs": result.cost.flops,
                "latency, ms": f"{result.cost.latency_ms:.3f}",
            }
        for name, accuracy in result.accuracies.items():
            row |= {
                name: f"{accuracy.value:.2f}",
                f"{name} low": f"{accuracy.low:.2f}",
                f"{name} high": f"{accuracy.high:.2f}",
            }
            if accuracy.n is not None:
                row[f"{name} n"] = accuracy.n
            if name in compared:
                found = [_value(p, name) for p in _published(result, name, published)]
                mean = sum(found) / len(found) if found else None
                row |= {
                    f"{name} published": "" if mean is None else f"{mean:.2f}",
                    f"{name} difference": "" if mean is None else f"{accuracy.value - mean:.2f}",
                }
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def terminal(
    results: list[PointResult], trained: list[float], published: Sequence[Published] = ()
) -> Table:
    """Draw the table of one width for a terminal, each interval below its accuracy."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for name in _headers(results, published):
        table.add_column(name, justify="right", style="bold" if name.startswith(WORST) else "")
    for cells in _rows(
        results, trained, published, lambda a: f"{a.value:.1f}\n{a.low:.0f}-{a.high:.0f}"
    ):
        table.add_row(*[_two_lines(cell) for cell in cells])
    return table


def _two_lines(cell: str) -> Text:
    value, _, interval = cell.partition("\n")
    return Text.assemble(value, *([("\n" + interval, "dim")] if interval else []))
