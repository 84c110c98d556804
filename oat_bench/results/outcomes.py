"""Outcomes on disk: what happened to each example, once, never stale.

A cell is a folder of Parquet files: one model at one operating point under one attack. Its name is
the fingerprint of all that decides the outcomes, which ``cell.json`` has in words.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write, check_unfolded, read_bounded, sha256
from oat_bench.results.checks import Check

_MAX_BYTES = 1 << 20
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
_CHECKS = TypeAdapter(list[Check])


class OutcomeStore:
    """Outcomes under one folder, in which each cell has its own; None keeps them in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, list[pd.DataFrame]] = {}

    def read(self, cell: str) -> pd.DataFrame:
        """Return the rows of a cell, one an example."""
        parts = self._memory.get(cell, [])
        if self.folder is not None:
            parts = [_read(path) for path in sorted((self.folder / cell).glob("*.parquet"))]
        if not parts:
            return pd.DataFrame({name: pd.Series(dtype="int64") for name in COLUMNS})
        rows = pd.concat(parts, ignore_index=True)[COLUMNS]
        return rows.drop_duplicates("example", ignore_index=True)

    def costs(self, cell: str) -> pd.DataFrame:
        """Return what is known of a cell's cost: ``example`` and `COSTS`, a row an example."""
        parts = [part for part in self._memory.get(cell, []) if {*COSTS} <= {*part}]
        if self.folder is not None:
            for path in sorted((self.folder / cell).glob("*.parquet")):
                with suppress(ValueError):  # of what was wrong already, or of earlier releases
                    parts.append(read_parquet(path, {"example": "int64"} | _COST_KINDS))
        rows = pd.concat([pd.DataFrame(columns=["example", *COSTS]), *parts], ignore_index=True)
        return rows[["example", *COSTS]].drop_duplicates("example", ignore_index=True)

    def describe(self, cell: str, about: Callable[[], CellInfo]) -> None:
        """Say what a cell holds, before its first rows; ``about`` is only called where it does."""
        if self.folder is not None and not (self.folder / cell / "cell.json").exists():
            atomic_write(self.folder / cell / "cell.json", about().as_json())

    def cells(self) -> Iterator[tuple[str, CellInfo]]:
        """Return the name and the description of each cell that has one, by name."""
        for path in sorted(self.folder.glob("*/cell.json")) if self.folder is not None else ():
            yield path.parent.name, CellInfo.read(path)

    def append(self, cell: str, rows: pd.DataFrame) -> None:
        """Add rows to a cell."""
        if self.folder is None:
            self._memory.setdefault(cell, []).append(rows)
            return
        # named by its examples, so that two processes that computed the same rows write one file
        name = sha256(rows["example"].to_numpy(dtype="<i8").tobytes())[:16]
        write_parquet(self.folder / cell / f"{name}.parquet", rows)

    def checks(self, cell: str, compute: Callable[[], list[Check]]) -> list[Check]:
        """Return what was found of a network, kept under a name of its own; compute it once."""
        if self.folder is None:
            return compute()
        path = self.folder / cell / "checks.json"
        if not path.exists():
            atomic_write(path, _CHECKS.dump_json(compute(), indent=2).decode() + "\n")
        try:
            return _CHECKS.validate_json(read_bounded(path, _MAX_BYTES, "the checks of a network"))
        except ValidationError as error:
            raise UserError(f"{path}: damaged checks of a network{CellInfo.mend}") from error


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    atomic_write(path, to_parquet(rows))


def to_parquet(rows: pd.DataFrame) -> bytes:
    """Return a table as Parquet."""
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False, write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(path: Path, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Read columns, ``int64``, ``float64`` or ``str``; a ValueError if it is no such table."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    words = [name for name, kind in kinds.items() if kind == "str"]
    try:
        with ParquetFile(
            path,
            page_checksum_verification=True,
            # a word that stands in every row is then in memory once
            read_dictionary=words,
            thrift_string_size_limit=_MAX_FOOTER,
            thrift_container_size_limit=_MAX_FOOTER,
        ) as file:
            _check_layout(path, file, kinds)
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


def _check_layout(path: Path, file: Any, kinds: Mapping[str, str]) -> None:
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
    check_unfolded(path, max(unfolded, 8 * rows * len(kinds)))


def _read(path: Path) -> pd.DataFrame:
    try:
        return read_parquet(path, dict.fromkeys(COLUMNS, "int64"))
    except ValueError as error:
        raise UserError(
            f"{path}: damaged outcomes; remove the file, and its examples are evaluated again"
        ) from error
