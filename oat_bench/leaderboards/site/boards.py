"""Boards: the entries of one data set and threat model, their order, and where their pages lie."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oat_bench.errors import UserError
from oat_bench.evaluation.statistics import WORST
from oat_bench.leaderboards import records
from oat_bench.leaderboards.entries import Entry, EntryPoint
from oat_bench.leaderboards.records import Record
from oat_bench.leaderboards.site import order

#: what no page may be called: the folder of assets, and the page of a board
_TAKEN = ("assets", "index")


@dataclass(frozen=True)
class Model:
    """One entry.

    Attributes:
        record: the entry, and what lies beside it.
        slug: name of its page and of the files beside it.
        doubts: why its accuracies are not to be relied on; empty if nothing speaks against them.
    """

    record: Record
    slug: str
    doubts: tuple[str, ...]

    @property
    def entry(self) -> Entry:
        """What was measured."""
        return self.record.entry


@dataclass(frozen=True)
class Row:
    """One model at one width.

    Attributes:
        label: tells it from the others.
        model: the entry.
        width: share of the channels.
        points: by lambda, ascending.
        scores: what it comes down to, by attack.
    """

    label: str
    model: Model
    width: float
    points: list[EntryPoint]
    scores: dict[str, order.Row]


@dataclass(frozen=True)
class Board:
    """One data set and threat model.

    Attributes:
        slug: name of its folder.
        title: data set and threat model.
        dataset: its name.
        threat: norm and eps.
        models: by slug.
        attacks: that a model was evaluated with, the worst case last.
        attack: the one that is shown first.
        rows: best first under `attack`.
    """

    slug: str
    title: str
    dataset: str
    threat: str
    models: list[Model]
    attacks: list[str]
    attack: str
    rows: list[Row]


def find(folder: Path) -> list[Record]:
    """Read every entry under a folder, in the order of the paths.

    Raises:
        UserError: if there is none, or one is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected one that holds entries, such as leaderboards")
    paths = [
        path
        for path in sorted(folder.rglob("*.json"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths:
        raise UserError(
            f"no entries under {folder}; expected such as digits/Linf/model.json, which is what "
            "`oat-bench run` writes as entry.json"
        )
    return [records.read(path) for path in paths]


def boards(found: Sequence[Record]) -> list[Board]:
    """Sort entries by data set and threat model, and rank them."""
    threats: dict[tuple[str, str, str], list[Record]] = {}
    for record in found:
        entry = record.entry
        threats.setdefault((entry.dataset, entry.threat_model, entry.eps), []).append(record)
    taken: set[str] = set()
    return [_board(slug("-".join(key), taken), threats[key]) for key in sorted(threats)]


def _board(name: str, found: Sequence[Record]) -> Board:
    attacks = order.attacks_of(found)
    attack = WORST if WORST in attacks else attacks[-1]
    ranked = {name: order.rank(found, name) for name in attacks}
    taken: set[str] = set()
    models = {
        record.path: Model(
            record,
            slug(record.path.stem, taken),
            next(row.doubts for row in ranked[attack] if row.record is record),
        )
        for record in found
    }
    rows = []
    for row in ranked[attack]:
        same = (row.record.path, row.width)
        scores = {
            name: next(one for one in ranked[name] if (one.record.path, one.width) == same)
            for name in attacks
        }
        points = [p for p in row.record.entry.operating_points if p.width == row.width]
        points.sort(key=lambda point: point.lam)
        rows.append(Row(row.label, models[row.record.path], row.width, points, scores))
    entry = found[0].entry
    threat = f"{entry.threat_model} eps {entry.eps}"
    title = f"{entry.dataset}, {threat}"
    return Board(
        name, title, entry.dataset, threat, list(models.values()), attacks, attack, rows
    )


def slug(text: str, taken: set[str]) -> str:
    """Turn a text into a name for a file or a folder of a site, and take it.

    Args:
        text: any.
        taken: names in lower case that are taken; the new one is added.

    Returns:
        Up to 64 letters, digits and . _ - that no other page has; not hidden.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:60].strip("-.") or "unnamed"
    free, number = name, 1
    while free.lower() in taken or free.lower() in _TAKEN:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free
