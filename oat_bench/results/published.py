"""Accuracies that papers published, as data: ``benchmarks/published/*.csv``."""

import csv
from collections.abc import Iterable
from itertools import dropwhile
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from oat_bench.cards import Card, Lambda, Name, NonNegative, Norm, Positive, Threat, folder
from oat_bench.complaints import explain
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded
from oat_bench.results.entries import Entry

_MAX_BYTES = 1 << 20
Percent = Annotated[float, Field(ge=0, le=100)]


class Published(Card):
    """One published pair of accuracies, in percent: a row, with its columns; None: not known."""

    dataset: Name
    network: Name
    method: Name
    lam: Lambda = Field(alias="lambda")
    width: Annotated[Positive, Field(le=1)]
    attack: Name
    norm: Norm
    eps: Positive
    step_size: Positive | None = None  # of the attack
    sa: Percent | None = Field(alias="SA")
    ra: Percent | None = Field(alias="RA")
    uncertainty: NonNegative  # points, of the reading or of the rounding
    source: Annotated[str, Field(min_length=1)]
    note: str

    @model_validator(mode="after")
    def _says_something(self) -> "Published":
        if self.sa is None and self.ra is None:
            raise ValueError("neither SA nor RA is given")
        if self.sa is not None and self.ra is not None and self.ra > self.sa:
            raise ValueError(f"the RA, {self.ra:g}, is above the SA, {self.sa:g}")
        return self


COLUMNS = [field.alias or name for name, field in Published.model_fields.items()]
_EMPTY = dict.fromkeys(["step_size", "SA", "RA"])  # of an empty cell
_BESIDES = {"step_size", "sa", "ra", "uncertainty", "note"}  # do not tell rows apart


def read(path: Path) -> list[Published]:
    """Read one file: lines of comment with ``#``, a line with exactly `COLUMNS`, then the rows."""
    try:
        text = read_bounded(path, _MAX_BYTES, "a table of published accuracies").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    lines = text.splitlines(keepends=True)
    body = list(dropwhile(lambda line: line.startswith("#"), lines))
    table = csv.reader(body, strict=True)
    rows: dict[tuple[object, ...], Published] = {}
    first = len(lines) - len(body)
    try:
        header = next(table, [])
        if header != COLUMNS:
            found = one_line(",".join(header))
            raise UserError(f"{path}: columns are {found}; expected {','.join(COLUMNS)}")
        for cells in table:
            place = f"{path}: line {first + table.line_num}"
            if len(cells) != len(COLUMNS):
                raise UserError(f"{place}: {len(cells)} cells; expected {len(COLUMNS)}")
            values = zip(COLUMNS, cells, strict=True)
            row = Published.model_validate({k: v or _EMPTY.get(k, v) for k, v in values})
            point = tuple(row.model_dump(exclude=_BESIDES).values())
            if rows.setdefault(point, row) is not row:
                raise UserError(f"{place}: the same point of the same source stands above")
    except ValidationError as error:
        raise UserError(f"{place}: {explain(error, Published)}") from error
    except csv.Error as error:
        raise UserError(f"{path}: line {first + table.line_num}: not valid CSV: {error}") from error
    return list(rows.values())


def load() -> list[Published]:
    """Read every file that ships."""
    paths = sorted((folder("benchmarks") / "published").glob("*.csv"))
    return [row for path in paths for row in read(path)]


def of_entry(rows: Iterable[Published], entry: Entry, *, same_method: bool) -> list[Published]:
    """Return what was published of an entry's experiment, or only of its method and points."""
    eps = Threat.model_validate({"eps": entry.eps}).eps
    # those that ship, unchanged, and ran at the threat model's eps
    attacks = {
        attack.name: attack.parameters.get("step_size")
        for attack in entry.attacks
        if abs(attack.eps - eps) <= 1e-5 * eps and attack.shipped() is not None
    }
    points = {(entry.method, point.lam, point.width) for point in entry.operating_points}
    same = (entry.dataset, entry.architecture, entry.threat_model)
    return [
        row
        for row in rows
        if (row.dataset, row.network, row.norm) == same
        and row.attack in attacks
        and _same_step(row.step_size, attacks[row.attack])
        and abs(row.eps - eps) < 1e-9
        and (not same_method or (row.method, row.lam, row.width) in points)
    ]


def _same_step(published: float | None, ours: object) -> bool:
    if published is None or not isinstance(ours, int | float):
        return True
    return published - 1e-9 < ours < published + 1e-9


def of_entries(entries: Iterable[Entry]) -> list[Published]:
    """Return what ships of the experiments that entries are of, of any method, each row once."""
    rows = load()
    found = [row for entry in entries for row in of_entry(rows, entry, same_method=False)]
    return [row for row in rows if row in found]


def by_label(rows: Iterable[Published], attack: str) -> dict[str, list[Published]]:
    """Group the rows under one attack into curves by method and width, by lambda, with labels."""
    groups: dict[str, list[Published]] = {}
    for row in sorted(rows, key=lambda row: row.lam):
        if row.attack == attack:
            width = "" if row.width == 1 else f", width {row.width:g}"
            groups.setdefault(f"{row.method.upper()}{width}, published", []).append(row)
    return groups
