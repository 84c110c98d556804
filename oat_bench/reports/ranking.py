"""Leaderboards as tables: for a terminal, as Markdown, CSV and LaTeX.

RobustBench's models, which have one operating point each, stand among ours where their numbers put
them, without a rank: they were measured by others, on images of their choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from oat_bench import escape as text
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.reports.per_lambda import short
from oat_bench.results.models import attack_name
from oat_bench.results.ranking import Board, Row, Rule
from oat_bench.results.robustbench import RobustBenchPoint
from oat_bench.statistics.accuracy import WORST, Estimate
from oat_bench.statistics.frontier import hypervolume

#: eps that differ by less than this share are one: RobustBench writes 8/255 as 0.031 too
_SAME_EPS = 0.02
#: columns that are numbers
_RIGHT = {"rank", "width", "n", "SA", "RA", "hypervolume", "lambda", "parameters", "FLOPs", "ms"}


@dataclass(frozen=True)
class _Line:
    """One row of the table, and where it goes: the more the higher; None: without a place."""

    value: float | None
    cells: dict[str, str]
    numbers: dict[str, object]


def fixed_points(board: Board, points: Sequence[RobustBenchPoint]) -> list[RobustBenchPoint]:
    """Return those of RobustBench's models that are of the eps of a leaderboard.

    Raises:
        UserError: if its RA is not one that RobustBench has.
    """
    if points and points[0].robust(board.attack) is None:
        raise UserError(
            f"RobustBench has RA under AutoAttack, none under {board.attack}; choose --attack "
            f"autoattack or {WORST}"
        )
    return [point for point in points if _same_eps(point.eps, board.eps)]


def _same_eps(theirs: str | None, ours: str) -> bool:
    try:
        a, b = (Threat.model_validate({"eps": eps}).eps for eps in (theirs, ours))
    except ValueError:
        return False
    return abs(a - b) <= _SAME_EPS * b


def title(board: Board) -> str:
    """Return what stands above the table."""
    by = {
        "hypervolume": "hypervolume",
        "ra-at-sa": f"RA at SA {board.rule.min_sa:g}",
        "cost": f"{board.rule.resource} at SA {board.rule.min_sa:g} and RA {board.rule.min_ra:g}",
    }[board.rule.sort]
    ra = "worst-case RA" if board.attack == WORST else f"RA under {attack_name(board.attack)}"
    return f"{board.dataset}, {board.threat_model} eps {board.eps}: {ra}, by {by}"


def notes(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> list[str]:
    """Return the paragraphs below the table."""
    sa = f"{board.rule.min_sa:g}"
    paragraphs = [
        "Percent, with 95% intervals: bootstrap over examples, or where there are no outcomes from "
        "those of the accuracies. hypervolume: share of the box from (0, 0) to (100, 100) that the "
        f"frontier of SA and RA dominates. RA at SA {sa}: the highest RA with an SA of at least "
        f"{sa}, of one operating point or of two drawn between for each image; lambda: of these.",
        "A rank is shared by models that are not worse than the first of them beyond a 95% "
        "interval: of the difference, by paired bootstrap, where outcomes of the same examples are "
        "there; else by their own, which then do not overlap.",
    ]
    if board.rule.sort == "cost":
        paragraphs[1] = "A rank is shared by models of equal cost."
    if any(row.doubts for row in board.rows):
        paragraphs.append("! unreliable, and so ranked last; the remark says why.")
    if fixed:
        paragraphs.append(
            "Without a rank: models of RobustBench (arXiv:2010.09670), as its model_info has them."
        )
    return paragraphs


# --- the table


def frame(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> pd.DataFrame:
    """Return the table as text, not escaped; columns that say nothing are left out."""
    lines = _lines(board, fixed)
    # a row of ours has all columns, in their order
    columns = max((list(line.cells) for line in lines), key=len)
    table = pd.DataFrame([line.cells for line in lines], columns=columns, dtype=str)
    table = table.fillna("")
    if set(table["width"]) <= {"1", ""}:
        table = table.drop(columns="width")
    if not fixed:
        table = table.drop(columns=["SA", "RA"])
    return table.loc[:, (table != "").any(axis=0)]


def _lines(board: Board, fixed: Sequence[RobustBenchPoint]) -> list[_Line]:
    lines = [_of_row(row, board.rule, board.attack) for row in board.rows]
    theirs = [_of_point(point, board) for point in fixed]
    placed = [line for line in lines if line.value is not None]
    # ours keep the order of their ranks
    for line in sorted(theirs, key=lambda one: -(one.value or 0.0)):
        if line.value is not None:
            lower = (i for i, one in enumerate(placed) if (one.value or 0.0) < line.value)
            placed.insert(next(lower, len(placed)), line)
    rest = [line for line in lines if line.value is None]
    return [*placed, *[line for line in theirs if line.value is None], *rest]


def _of_row(row: Row, rule: Rule, attack: str) -> _Line:
    entry, cost = row.record.entry, row.cost
    score = {"hypervolume": row.hypervolume, "ra-at-sa": row.robust, "cost": None}[rule.sort]
    remarks = [f"unreliable: {', '.join(row.doubts)}"] if row.doubts else []
    remarks += [remark for remark in (row.remark, entry.footnote) if remark]
    clean = robust = ""
    if row.model is not None:
        clean = _range([one.value for one in row.model.curve.clean()])
        robust = _range([one.value for one in row.model.curve.robust(attack)])
    rank = "" if row.rank is None else str(row.rank)
    cells = {
        "rank": f"{rank} !".strip() if row.doubts else rank,
        "model": row.label,
        "method": entry.method,
        "network": entry.architecture,
        "width": f"{row.width:g}",
        "n": str(row.n),
        "SA": clean,
        "RA": robust,
        "hypervolume": _written(row.hypervolume),
        f"RA at SA {rule.min_sa:g}": _written(row.robust),
        "lambda": " and ".join(f"{lam:g}" for lam in row.lams),
        "parameters": short(cost.parameters) if cost else "",
        "FLOPs": short(cost.flops) if cost else "",
        "ms": f"{cost.latency_ms:.3g}" if cost else "",
        "integrity": row.verdict or "",
        "extra data": "yes" if entry.additional_data else "",
        "venue": entry.venue,
        "remark": "; ".join(remarks),
    }
    numbers: dict[str, object] = {
        "rank": row.rank,
        "model": row.label,
        "file": str(row.record.path),
        "method": entry.method,
        "network": entry.architecture,
        "width": row.width,
        "n": row.n,
        **_columns("hypervolume", row.hypervolume),
        **_columns("RA at SA", row.robust),
        "required SA": rule.min_sa,
        "lambda": cells["lambda"],
        "parameters": cost.parameters if cost else None,
        "FLOPs": cost.flops if cost else None,
        "latency, ms": cost.latency_ms if cost else None,
        "machine": cost.machine if cost else "",
        "integrity": cells["integrity"],
        "unreliable": bool(row.doubts),
        "additional data": entry.additional_data,
        "authors": entry.authors,
        "venue": entry.venue,
        "link": entry.link,
        "remark": cells["remark"],
    }
    ranked = row.rank is not None and not row.doubts and score is not None
    return _Line(score.value if ranked and score is not None else None, cells, numbers)


def _of_point(point: RobustBenchPoint, board: Board) -> _Line:
    robust, rule = point.robust(board.attack), board.rule
    assert robust is not None
    volume = hypervolume([(point.clean_acc, robust)])
    at_sa = robust if point.clean_acc >= rule.min_sa else None
    score = {"hypervolume": volume, "ra-at-sa": at_sa, "cost": None}[rule.sort]
    remarks = [] if point.eps == board.eps else [f"eps {point.eps}"]
    remarks += ["unreliable, says RobustBench"] if point.unreliable else []
    cells = {
        "model": point.id,
        "method": "RobustBench",
        "network": point.architecture,
        "SA": f"{point.clean_acc:.1f}",
        "RA": f"{robust:.1f}",
        "hypervolume": f"{volume:.1f}",
        f"RA at SA {rule.min_sa:g}": f"{robust:.1f}" if at_sa is not None else "",
        "extra data": "yes" if point.additional_data else "",
        "venue": point.venue.replace("<br>", " "),
        "remark": "; ".join(remarks),
    }
    numbers: dict[str, object] = {
        "model": point.id,
        "method": "RobustBench",
        "network": point.architecture,
        "hypervolume": round(volume, 2),
        "RA at SA": at_sa,
        "required SA": rule.min_sa,
        "unreliable": point.unreliable,
        "additional data": point.additional_data,
        "authors": point.authors,
        "venue": cells["venue"],
        "link": point.link,
        "remark": cells["remark"],
    }
    return _Line(score, cells, numbers)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _written(score: Estimate | None) -> str:
    return "" if score is None else f"{score}"


def _columns(name: str, score: Estimate | None) -> dict[str, object]:
    ends = (None, None, None) if score is None else (score.value, score.low, score.high)
    names = (name, f"{name} low", f"{name} high")
    return {k: None if v is None else round(v, 2) for k, v in zip(names, ends, strict=True)}


# --- forms


def _escaped(table: pd.DataFrame, escape: Callable[[str], str]) -> pd.DataFrame:
    """Escape what others wrote; numbers need none."""
    texts = {name: table[name].map(escape) for name in table.columns if not _is_right(str(name))}
    return table.assign(**texts)


def _is_right(name: str) -> bool:
    return name in _RIGHT or name.startswith("RA at SA")


def markdown(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> str:
    """Write a leaderboard as Markdown."""
    table = frame(board, fixed)
    align = ["right" if _is_right(str(name)) else "left" for name in table.columns]
    written = _escaped(table, text.markdown).to_markdown(
        index=False, disable_numparse=True, colalign=align
    )
    head = f"**{text.markdown(title(board))}**"
    return "\n\n".join([head, written, *notes(board, fixed)]) + "\n"


def latex(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> str:
    """Write a leaderboard as LaTeX, for the package booktabs."""
    table = frame(board, fixed)
    align = "".join("r" if _is_right(str(name)) else "l" for name in table.columns)
    escaped = _escaped(table, text.latex)
    body = text.tabular(list(escaped.columns), escaped.to_numpy().tolist(), align)
    return text.latex_table(
        text.latex(title(board)), [body], [text.latex(note) for note in notes(board, fixed)]
    )


def csv(found: Sequence[tuple[Board, Sequence[RobustBenchPoint]]]) -> str:
    """Write leaderboards as one CSV, every number in a column of its own."""
    rows = [
        {
            "dataset": board.dataset,
            "threat model": board.threat_model,
            "eps": board.eps,
            "attack": board.attack,
            "sort": board.rule.sort,
            **line.numbers,
        }
        for board, fixed in found
        for line in _lines(board, fixed)
    ]
    columns = max(map(list, rows), key=len)
    whole = dict.fromkeys(["rank", "n", "parameters", "FLOPs"], "Int64")
    table = pd.DataFrame(rows, columns=columns).astype(whole)
    harmless = table.map(lambda value: text.csv(value) if isinstance(value, str) else value)
    return harmless.to_csv(index=False)


def terminal(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> Table:
    """Draw a leaderboard for a terminal, each interval below its number."""
    cells = frame(board, fixed).map(text.one_line)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for name in cells.columns:
        table.add_column(str(name), justify="right" if _is_right(str(name)) else "left")
    intervals = ["hypervolume", f"RA at SA {board.rule.min_sa:g}"]
    for row in cells.to_dict("records"):
        table.add_row(
            *[
                _two_lines(value) if name in intervals else Text(value)
                for name, value in row.items()
            ]
        )
    return table


def _two_lines(cell: str) -> Text:
    value, bracket, interval = cell.partition(" [")
    return Text.assemble(value, *([("\n" + interval.rstrip("]"), "dim")] if bracket else []))
