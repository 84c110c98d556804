"""Accuracies that papers published, as data: ``benchmarks/published/*.csv``.

A row is shown beside a measurement only where data set, network, method, norm, eps, attack, lambda
and width are the same.
"""

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from itertools import dropwhile
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from oat_bench.attacks.card import attack_card as find_attack
from oat_bench.cards import Card, Lambda, Name, NonNegative, Norm, Positive, Threat, folder, names
from oat_bench.complaints import explain
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded
from oat_bench.results.entries import Entry, EntryAttack

#: such tables are small
_MAX_BYTES = 1 << 20
Percent = Annotated[float, Field(ge=0, le=100)]


class Published(Card):
    """One published pair of accuracies.

    Attributes:
        dataset: as the benchmark cards call it, as are ``network``, ``method`` and ``attack``.
        lam: robustness weight; the column ``lambda``.
        width: share of the channels.
        eps: a number or a fraction such as ``8/255``.
        step_size: of the attack, likewise; None where it has none or it is not known.
        sa: standard accuracy in percent, None where only RA is known; the column ``SA``.
        ra: robust accuracy in percent under the attack; the column ``RA``.
        uncertainty: in points, of the reading or of the rounding.
        source: where it can be looked up.
        note: what else a reader must know.
    """

    dataset: Name
    network: Name
    method: Name
    lam: Lambda = Field(alias="lambda")
    width: Annotated[Positive, Field(le=1)]
    attack: Name
    norm: Norm
    eps: Positive
    step_size: Positive | None = None
    sa: Percent | None = Field(alias="SA")
    ra: Percent | None = Field(alias="RA")
    uncertainty: NonNegative
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


def read(path: Path) -> list[Published]:
    """Read one file: lines of comment with ``#``, a line with exactly `COLUMNS`, then the rows.

    Raises:
        UserError: naming file, line and what was expected.
    """
    try:
        text = read_bounded(path, _MAX_BYTES, "a table of published accuracies").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    lines = text.splitlines(keepends=True)
    body = list(dropwhile(lambda line: line.startswith("#"), lines))
    table = csv.reader(StringIO("".join(body), newline=""), strict=True)
    rows: list[Published] = []
    seen: set[tuple[object, ...]] = set()
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
            values: dict[str, object] = dict(zip(COLUMNS, cells, strict=True))
            values |= {k: None for k in ("step_size", "SA", "RA") if values[k] == ""}
            try:
                row = Published.model_validate(values)
            except ValidationError as error:
                raise UserError(f"{place}: {explain(error, Published)}") from error
            if _key(row) in seen:
                raise UserError(f"{place}: the same point of the same source stands above")
            seen.add(_key(row))
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}: line {first + table.line_num}: not valid CSV: {error}") from error
    return rows


def load() -> list[Published]:
    """Read every file that ships.

    Raises:
        UserError: if one is damaged.
    """
    paths = sorted((folder("benchmarks") / "published").glob("*.csv"))
    return [row for path in paths for row in read(path)]


def select(
    rows: Iterable[Published],
    *,
    dataset: str,
    network: str,
    norm: str,
    eps: float,
    attacks: Mapping[str, float | None],
    method: str | None = None,
    points: Iterable[tuple[float, float]] | None = None,
) -> list[Published]:
    """Return what was published of the same data set, network, threat, attack and method.

    Args:
        rows: from `load`.
        dataset: name of the data set.
        network: name of the backbone.
        norm: ``Linf`` or ``L2``.
        eps: bound of the perturbation.
        attacks: the attacks that were run at this very norm and eps: their names, and the step
            sizes of those that have one.
        method: name of the method; any if None.
        points: pairs of lambda and width; any if None.
    """
    places = None if points is None else set(points)
    return [
        row
        for row in rows
        if (row.dataset, row.network, row.norm) == (dataset, network, norm)
        and row.attack in attacks
        and _same_step(row.step_size, attacks[row.attack])
        and abs(row.eps - eps) < 1e-9
        and method in (None, row.method)
        and (places is None or (row.lam, row.width) in places)
    ]


def _same_step(published: float | None, ours: float | None) -> bool:
    return published is None or ours is None or abs(published - ours) < 1e-9


def _step_size(attack: EntryAttack) -> float | None:
    value = attack.parameters.get("step_size")
    # a step of more digits than a float has is of no attack that ships
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


def of_entry(rows: Iterable[Published], entry: Entry, *, same_method: bool) -> list[Published]:
    """Return what was published of the experiment that an entry is of.

    Args:
        rows: from `load`.
        entry: what was measured; of its attacks those count that ship, unchanged, and ran at the
            threat model's eps.
        same_method: only its method, at its operating points; else any method and point.
    """
    eps = Threat.model_validate({"eps": entry.eps}).eps
    attacks = {
        attack.name: _step_size(attack)
        for attack in entry.attacks
        if abs(attack.eps - eps) <= 1e-5 * eps
        and attack.name in names("attacks")
        and find_attack(attack.name).fingerprint() == attack.card
    }
    points = [(point.lam, point.width) for point in entry.operating_points]
    return select(
        rows,
        dataset=entry.dataset,
        network=entry.architecture,
        norm=entry.threat_model,
        eps=eps,
        attacks=attacks,
        method=entry.method if same_method else None,
        points=points if same_method else None,
    )


def of_entries(entries: Iterable[Entry]) -> list[Published]:
    """Return what ships of the experiments that entries are of, of any method, each row once.

    Raises:
        UserError: if a file that ships is damaged.
    """
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


def _key(row: Published) -> tuple[object, ...]:
    return (
        *(row.dataset, row.network, row.method, row.lam, row.width),
        *(row.attack, row.norm, row.eps, row.source),
    )
