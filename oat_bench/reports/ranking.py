"""Leaderboards as tables; RobustBench's models, measured by others, stand there without a rank."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.reports import table
from oat_bench.reports.table import Page, Table, ends, short, to_csv
from oat_bench.results.models import attack_name
from oat_bench.results.points import Cost
from oat_bench.results.ranking import Board, Row
from oat_bench.results.robustbench import RobustBenchPoint
from oat_bench.statistics.accuracy import WORST
from oat_bench.statistics.frontier import hypervolume

_WORDS = ("model", "method", "network", "integrity", "extra data", "venue", "remark")


@dataclass(frozen=True)
class _Line:
    value: float | None  # the more the higher it stands; None: it has no place
    cells: table.Row
    numbers: dict[str, object]


def fixed_points(board: Board, points: Sequence[RobustBenchPoint]) -> list[RobustBenchPoint]:
    """Return those of RobustBench's models that are of the eps of a leaderboard."""
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
    return abs(a - b) <= 0.02 * b  # RobustBench writes 8/255 as 0.031 too


def page(board: Board, fixed: Sequence[RobustBenchPoint] = ()) -> Page:
    """Return a leaderboard, with models of RobustBench among ours if there are any."""
    hidden = set() if fixed else {"SA", "RA"}
    if all(row.width == 1 for row in board.rows):
        hidden.add("width")
    lines = _lines(board, fixed)
    rows = [{k: v for k, v in line.cells.items() if k not in hidden} for line in lines]
    return Page(_title(board), [Table(rows, _WORDS)], _notes(board, fixed))


def csv(found: Sequence[tuple[Board, Sequence[RobustBenchPoint]]]) -> str:
    """Write leaderboards as one CSV, every number in a column of its own."""
    rows = []
    for board, fixed in found:
        about = {"dataset": board.dataset, "threat model": board.threat_model, "eps": board.eps}
        about |= {"attack": board.attack, "sort": board.rule.sort}
        rows += [about | line.numbers for line in _lines(board, fixed)]
    return to_csv(rows)


def _title(board: Board) -> str:
    by = {
        "hypervolume": "hypervolume",
        "ra-at-sa": f"RA at SA {board.rule.min_sa:g}",
        "cost": f"{board.rule.resource} at SA {board.rule.min_sa:g} and RA {board.rule.min_ra:g}",
    }[board.rule.sort]
    ra = "worst-case RA" if board.attack == WORST else f"RA under {attack_name(board.attack)}"
    return f"{board.dataset}, {board.threat_model} eps {board.eps}: {ra}, by {by}"


def _notes(board: Board, fixed: Sequence[RobustBenchPoint]) -> list[str]:
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
    paragraphs[1] += " Only models whose numbers are of the same examples are ranked."
    if any(row.cost and row.cost.latency_spread for row in board.rows):
        paragraphs.append("ms: of one image, on the machine where most were timed; CSV has all.")
    if any(row.sampled is not None for row in board.rows):
        paragraphs.append(
            "m: RA is a two-phase estimate for all n examples; of those that cheaper attacks left "
            "standing, up to m at each lambda were attacked."
        )
    if any(row.doubts for row in board.rows):
        paragraphs.append("! unreliable, and so ranked last; the remark says why.")
    if fixed:
        paragraphs.append(
            "Without a rank: models of RobustBench (arXiv:2010.09670), as its model_info has them."
        )
    return paragraphs


def _lines(board: Board, fixed: Sequence[RobustBenchPoint]) -> list[_Line]:
    # what was not timed in turns differs by chance
    timed = [row.cost for row in board.rows if row.cost and row.cost.latency_spread]
    machines = Counter(cost.machine for cost in timed)
    usual = max(machines, key=machines.__getitem__, default="")
    timed = [cost for cost in timed if cost.machine == usual]
    lines = [_of_row(row, board, timed) for row in board.rows]
    theirs = [_of_point(point, board) for point in fixed]
    placed = [line for line in lines if line.value is not None]
    # ours keep the order of their ranks
    for line in sorted(theirs, key=lambda one: -(one.value or 0.0)):
        if line.value is not None:
            lower = (i for i, one in enumerate(placed) if (one.value or 0.0) < line.value)
            placed.insert(next(lower, len(placed)), line)
    return [*placed, *[line for line in [*theirs, *lines] if line.value is None]]


def _of_row(row: Row, board: Board, timed: Sequence[Cost]) -> _Line:
    entry, cost, rule = row.record.entry, row.cost, board.rule
    doubts = f"unreliable: {', '.join(row.doubts)}" if row.doubts else ""
    said = ["random at inference" if entry.randomized else "", doubts, row.remark]
    remark = "; ".join(one for one in (*said, entry.footnote, entry.ancestry) if one)
    curve = row.model
    clean = table.span([one.value for one in curve.clean()]) if curve else ""
    robust = table.span([one.value for one in curve.robust(board.attack)]) if curve else ""
    lams = " and ".join(f"{lam:g}" for lam in row.lams)
    cells: table.Row = {
        "rank": f"{row.rank or ''}{' !' if row.doubts else ''}".strip(),
        "model": row.label,
        "method": entry.method,
        "network": entry.architecture,
        "width": f"{row.width:g}",
        "n": str(row.n),
        "m": "" if row.sampled is None else str(row.sampled),
        "SA": clean,
        "RA": robust,
        "hypervolume": row.hypervolume,
        f"RA at SA {rule.min_sa:g}": row.robust,
        "lambda": lams,
        "parameters": short(cost.parameters) if cost else "",
        "FLOPs": short(cost.flops) if cost else "",
        "ms": f"{cost.latency_ms:.3g}" if cost and cost in timed else "",
        "integrity": row.verdict or "",
        "extra data": "yes" if entry.additional_data else "",
        "venue": entry.venue,
        "remark": remark,
    }
    numbers: dict[str, object] = {
        "rank": row.rank,
        "model": row.label,
        "file": str(row.record.path),
        "method": entry.method,
        "network": entry.architecture,
        "width": row.width,
        "n": row.n,
        "m": row.sampled,
        **ends("hypervolume", row.hypervolume),
        **ends("RA at SA", row.robust),
        "required SA": rule.min_sa,
        "lambda": lams,
        "parameters": cost.parameters if cost else None,
        "FLOPs": cost.flops if cost else None,
        "latency, ms": cost.latency_ms if cost else None,
        "machine": cost.machine if cost else "",
        "integrity": row.verdict or "",
        "unreliable": bool(row.doubts),
        "additional data": entry.additional_data,
        "authors": entry.authors,
        "venue": entry.venue,
        "link": entry.link,
        "remark": remark,
    }
    score = {"hypervolume": row.hypervolume, "ra-at-sa": row.robust, "cost": None}[rule.sort]
    placed = row.rank is not None and not row.doubts
    return _Line(score.value if placed and score is not None else None, cells, numbers)


def _of_point(point: RobustBenchPoint, board: Board) -> _Line:
    robust, rule = point.robust(board.attack), board.rule
    assert robust is not None
    volume = hypervolume([(point.clean_acc, robust)])
    at_sa = robust if point.clean_acc >= rule.min_sa else None
    remarks = [] if point.eps == board.eps else [f"eps {point.eps}"]
    remarks += ["unreliable, says RobustBench"] if point.unreliable else []
    about = {
        "model": point.id,
        "method": "RobustBench",
        "network": point.architecture,
        "venue": point.venue.replace("<br>", " "),
        "remark": "; ".join(remarks),
    }
    cells = about | {
        "SA": f"{point.clean_acc:.1f}",
        "RA": f"{robust:.1f}",
        "hypervolume": f"{volume:.1f}",
        f"RA at SA {rule.min_sa:g}": f"{robust:.1f}" if at_sa is not None else "",
        "extra data": "yes" if point.additional_data else "",
    }
    numbers: dict[str, object] = about | {
        "hypervolume": round(volume, 2),
        "RA at SA": at_sa,
        "required SA": rule.min_sa,
        "unreliable": point.unreliable,
        "additional data": point.additional_data,
        "authors": point.authors,
        "link": point.link,
    }
    score = {"hypervolume": volume, "ra-at-sa": at_sa, "cost": None}[rule.sort]
    return _Line(score, cells, numbers)
