"""Outcomes kept: what happened to each example, once, never stale.

A cell is a folder of Parquet files: one model at one operating point under one attack. Its name is
the fingerprint of all that decides the outcomes, which ``cell.json`` has in words.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from oat_bench.attacks.cell import CellInfo
from oat_bench.cards import Name
from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write, check_unfolded, sha256
from oat_bench.results.checks import Check
from oat_bench.results.places import Place

_MAX_BYTES, _MAX_CHECKS = 1 << 28, 1 << 20
_MAX_FOOTER, _MAX_ROW_GROUPS = 1 << 20, 4096
#: one row an example; predictions are classes
COLUMNS = ["example", "label", "clean_prediction", "attacked_prediction"]
#: what attacking the row took, in equal shares of what was attacked at once: passes, seconds, by
#: which attacks together (a comma between two), where; not of what is wrong already
COSTS = ["forward", "backward", "seconds", "attacks", "machine"]
_COST_KINDS = dict.fromkeys(COSTS, "float64") | {"attacks": "str", "machine": "str"}
#: the columns of an evaluation of several operating points and attacks
KEYS = ["lam", "width", "attack", *COLUMNS]
RETRIED_NAME = "-retried-on-survivors"  # ends that of an attack on what others left standing
_CHECKS, _NAMES = TypeAdapter(list[Check]), TypeAdapter(list[Name])
_SAMPLED = "sampled.json"


class OutcomeStore:
    """Outcomes at one place, a folder or an address of fsspec, in which each cell has its own.

    None keeps them in memory.
    """

    def __init__(self, place: Path | str | None) -> None:
        self.place = None if place is None else Place(place)
        self._memory: dict[str, list[pd.DataFrame]] = {}

    def read(self, cell: str) -> pd.DataFrame:
        """Return the rows of a cell, one an example."""
        parts = self._memory.get(cell, [])
        if self.place is not None:
            files = self.place.files(cell, ".parquet")
            parts = [_read(self.place, file, dict.fromkeys(COLUMNS, "int64")) for file in files]
        if not parts:
            return pd.DataFrame({name: pd.Series(dtype="int64") for name in COLUMNS})
        rows = pd.concat(parts, ignore_index=True)[COLUMNS]
        return rows.drop_duplicates("example", ignore_index=True)

    def costs(self, cell: str) -> pd.DataFrame:
        """Return what is known of a cell's cost: ``example`` and `COSTS`, a row an example."""
        parts = [part for part in self._memory.get(cell, []) if {*COSTS} <= {*part}]
        if self.place is not None:
            for file in self.place.files(cell, ".parquet"):
                with suppress(ValueError):  # of what was wrong already, or of earlier releases
                    parts.append(_read(self.place, file, {"example": "int64"} | _COST_KINDS))
        rows = pd.concat([pd.DataFrame(columns=["example", *COSTS]), *parts], ignore_index=True)
        return rows[["example", *COSTS]].drop_duplicates("example", ignore_index=True)

    def describe(self, cell: str, about: Callable[[], CellInfo]) -> None:
        """Say what a cell holds, before its first rows; ``about`` is only called where it does."""
        file = f"{cell}/cell.json"
        if self.place is not None and not self.place.exists(file):
            self.place.write(file, about().as_json())

    def cells(self) -> Iterator[tuple[str, CellInfo]]:
        """Return the name and the description of each cell that has one, by name."""
        for cell in self.place.files("", "") if self.place is not None else ():
            file = f"{cell}/cell.json"
            if self.place is not None and self.place.exists(file):
                content = self.place.read(file, CellInfo.max_bytes, CellInfo.what)
                yield cell, CellInfo.parse(content, self.place.name(file))

    def append(self, cell: str, rows: pd.DataFrame) -> None:
        """Add rows to a cell."""
        if self.place is None:
            self._memory.setdefault(cell, []).append(rows)
            return
        # named by its examples, so that two processes that computed the same rows write one file
        name = sha256(rows["example"].to_numpy(dtype="<i8").tobytes())[:16]
        self.place.write(f"{cell}/{name}.parquet", to_parquet(rows))

    def sampled(self, cell: str, after: Sequence[str]) -> None:
        """Note that a cell has rows of what was sampled of the survivors of other attacks.

        Samples are the first of survivors in one order. So those after several sets of attacks are
        together the first of what survives all of them, which is noted.
        """
        known = self.after(cell)
        if self.place is not None and (known is None or not {*after} <= {*known}):
            names = _NAMES.dump_json(sorted({*(known or ()), *after}), indent=2).decode()
            self.place.write(f"{cell}/{_SAMPLED}", names + "\n")

    def after(self, cell: str) -> list[str] | None:
        """Return the attacks that `sampled` named; None if it did not."""
        if self.place is None or not self.place.exists(file := f"{cell}/{_SAMPLED}"):
            return None
        try:
            what = "what a sample was of"
            return _NAMES.validate_json(self.place.read(file, _MAX_CHECKS, what))
        except ValidationError as error:
            raise UserError(f"{self.place.name(file)}: damaged{CellInfo.mend}") from error

    def checks(self, cell: str, compute: Callable[[], list[Check]]) -> list[Check]:
        """Return what was found of a network, kept under a name of its own; compute it once."""
        if self.place is None:
            return compute()
        file = f"{cell}/checks.json"
        if not self.place.exists(file):
            content = _CHECKS.dump_json(compute(), indent=2).decode()
            self.place.write(file, content + "\n")
        try:
            what = "the checks of a network"
            return _CHECKS.validate_json(self.place.read(file, _MAX_CHECKS, what))
        except ValidationError as error:
            damaged = f"{self.place.name(file)}: damaged checks of a network{CellInfo.mend}"
            raise UserError(damaged) from error


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    atomic_write(path, to_parquet(rows))


def to_parquet(rows: pd.DataFrame) -> bytes:
    """Return a table as Parquet."""
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False, write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(
    path: Path | str, kinds: Mapping[str, str], content: bytes | None = None
) -> pd.DataFrame:
    """Read columns, ``int64``, ``float64`` or ``str``; a ValueError if it is no such table.

    Of a file that is not on disk ``content`` is what it holds.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    words = [name for name, kind in kinds.items() if kind == "str"]
    try:
        with ParquetFile(
            path if content is None else BytesIO(content),
            page_checksum_verification=True,
            # a word that stands in every row is then in memory once
            read_dictionary=words,
            thrift_string_size_limit=_MAX_FOOTER,
            thrift_container_size_limit=_MAX_FOOTER,
        ) as file:
            _check_layout(path, file, kinds, None if content is None else len(content))
            # one column at a time: a page says anew what it unfolds to, two GiB at most
            table = file.read(columns=list(kinds), use_threads=False).select(list(kinds))
        for name in words:
            column = table.column(name)
            if any(len(word) > 512 for c in column.chunks for word in c.dictionary.to_pylist()):
                raise ValueError(f"{name} holds more than a word")
            table = table.set_column(list(kinds).index(name), name, column.cast("string"))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    except (ArrowException, KeyError, OSError, TypeError) as error:
        raise ValueError(one_line(error)) from error
    return frame.astype({name: kind for name, kind in kinds.items() if kind != "str"})


def _check_layout(
    path: Path | str, file: Any, kinds: Mapping[str, str], stored: int | None
) -> None:
    from pyarrow import types

    tests = {
        "int64": types.is_signed_integer,
        "float64": types.is_floating,
        "str": lambda kind: types.is_dictionary(kind) and types.is_string(kind.value_type),
    }
    schema, layout = file.schema_arrow, file.metadata
    for name, kind in kinds.items():
        if schema.names.count(name) != 1 or not tests[kind](schema.field(name).type):
            raise ValueError(f"no column {name!r} of type {kind}")
    if layout.num_row_groups > _MAX_ROW_GROUPS:
        raise ValueError(f"{layout.num_row_groups} row groups")
    # what is said of a single column is not asked for: where it is damaged, pyarrow aborts
    groups = [layout.row_group(number) for number in range(layout.num_row_groups)]
    rows = layout.num_rows + sum(group.num_rows for group in groups)
    unfolded = sum(group.total_byte_size for group in groups)
    check_unfolded(path, max(unfolded, 8 * rows * len(kinds)), stored)


def _read(place: Place, file: str, kinds: Mapping[str, str]) -> pd.DataFrame:
    name = place.name(file)
    try:
        content = place.read(file, _MAX_BYTES, "outcomes")
        return read_parquet(name, kinds, content)
    except ValueError as error:
        raise UserError(
            f"{name}: damaged outcomes; remove the file, and its examples are evaluated again"
        ) from error
