"""What is on the site: a board for each data set and threat model, and where its pages lie."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oat_bench.errors import UserError
from oat_bench.reports import ranking as boards
from oat_bench.results import ranking, records
from oat_bench.results.entries import Entry
from oat_bench.results.models import suite
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.results.robustbench import RobustBenchPoint, robustbench_points
from oat_bench.statistics.accuracy import WORST

_TAKEN = ("assets", "index")  # no page's name: the folder of assets, and the page of a board


@dataclass(frozen=True)
class Model:
    """One entry."""

    record: Record
    slug: str  # names its page and the files beside it
    doubts: tuple[str, ...]  # why RA under the board's first attack is not to be trusted

    @property
    def entry(self) -> Entry:
        """What was measured."""
        return self.record.entry


@dataclass(frozen=True)
class Row:
    """One model at one width: its points, lambda ascending, and how it ranks, by attack."""

    label: str
    model: Model
    width: float
    points: list[PointResult]
    scores: dict[str, ranking.Row]


@dataclass(frozen=True)
class Board:
    """One data set and threat model."""

    slug: str  # of its folder
    dataset: str
    threat: str
    models: list[Model]  # in the order of their files
    attacks: list[str]  # that a model was evaluated with, the worst case last
    attack: str  # the one that is shown first
    rows: list[Row]  # best first under `attack`
    fixed: list[RobustBenchPoint]  # under the same threat model, the most robust first
    required_sa: float  # in percent, that RA is asked for first
    usual: dict[str, int]  # by attack, of how many examples the ranked ones are

    @property
    def title(self) -> str:
        """Data set and threat model."""
        return f"{self.dataset}, {self.threat}"

    @property
    def best(self) -> list[Row]:
        """The rows of rank 1 under the first attack: several where they are tied."""
        return [row for row in self._ranked if row.scores[self.attack].rank == 1]

    @property
    def compared(self) -> int:
        """How many models have a rank under the first attack, and are not unreliable."""
        return len({row.model.slug for row in self._ranked})

    @property
    def _ranked(self) -> list[Row]:
        scores = [(row, row.scores[self.attack]) for row in self.rows]
        return [row for row, score in scores if score.rank is not None and not score.doubts]


def plan(folder: Path, robustbench: Path | None = None) -> list[Board]:
    """Read, sort and rank the entries under a folder; ``robustbench`` see `robustbench_points`."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name that of the leaderboards")
    everything = [records.read(path) for path in records.find(folder)]
    taken = set[str]()
    return [_board(found, taken, robustbench) for found in ranking.groups(everything)]


def _board(found: Sequence[Record], taken: set[str], robustbench: Path | None) -> Board:
    attacks, sa = _attacks(found), ranking.fitting_sa(found)
    ranked = ranking.rank_under(found, attacks, ranking.Rule(min_sa=sa))
    first = ranked[ranking.shown_first(found)]
    doubts = {row.record.path: row.doubts for row in first.rows}
    scores: dict[tuple[Path, float], dict[str, ranking.Row]] = {}
    for name, board in ranked.items():
        for row in board.rows:
            scores.setdefault((row.record.path, row.width), {})[name] = row
    names: set[str] = set()
    models = {r.path: Model(r, slug(r.stem, names), doubts[r.path]) for r in found}
    rows = []
    for row in first.rows:
        path, width = row.record.path, row.width
        points = sorted(row.record.entry.operating_points, key=lambda point: point.lam)
        points = [point for point in points if point.width == width]
        rows.append(Row(row.label, models[path], width, points, scores[path, width]))
    fixed: list[RobustBenchPoint] = []
    theirs = next((name for name in (WORST, "autoattack") if name in ranked), None)
    if robustbench is not None and theirs is not None:
        listed = robustbench_points(robustbench, first.dataset, first.threat_model)
        fixed = boards.fixed_points(ranked[theirs], listed)
    name = slug(f"{first.dataset}-{first.threat_model}-{first.eps}", taken)
    threat, known = f"{first.threat_model} eps {first.eps}", list(models.values())
    usual = {
        name: next((row.n for row in board.rows if row.rank is not None), board.rows[0].n)
        for name, board in ranked.items()
    }
    about = first.dataset, threat, known, attacks, first.attack
    return Board(name, *about, rows, fixed, sa, usual)


def _attacks(found: Sequence[Record]) -> list[str]:
    """Return the attacks that an entry has at every operating point, the worst case last."""
    names = [*(attack.name for record in found for attack in record.entry.attacks), WORST]
    known = {name for record in found for name in suite(record.entry)}
    return [name for name in dict.fromkeys(names) if name in known]


def slug(text: str, taken: set[str]) -> str:
    """Name a file of the site as none of the taken, in lower case, to which it is added."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60].strip("-.") or "unnamed"
    free, number = name, 1
    while free.lower() in taken or free.lower() in _TAKEN:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free
