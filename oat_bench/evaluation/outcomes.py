"""Outcomes on disk: what happened to each example, once, never stale.

A cell is one model at one operating point under one attack; its name holds the fingerprint of
everything that decides the outcomes, so that a change of weights, card or data leads to a new cell.
A cell is a folder of Parquet files, each written whole; what a killed run had finished stays.
"""

from io import BytesIO
from pathlib import Path

import pandas as pd

from oat_bench.errors import UserError
from oat_bench.files import atomic_write, sha256

#: one row an example; predictions are classes
COLUMNS = ["example", "label", "clean_prediction", "attacked_prediction"]


class OutcomeStore:
    """Outcomes under one folder.

    Args:
        folder: holds a folder for each cell; None keeps outcomes in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, list[pd.DataFrame]] = {}

    def read(self, cell: str) -> pd.DataFrame:
        """Return the rows of a cell, one an example.

        Raises:
            UserError: if a file of the cell is damaged.
        """
        if self.folder is None:
            parts = self._memory.get(cell, [])
        else:
            parts = [_read(path) for path in sorted((self.folder / cell).glob("*.parquet"))]
        if not parts:
            return pd.DataFrame({name: pd.Series(dtype="int64") for name in COLUMNS})
        return pd.concat(parts, ignore_index=True).drop_duplicates("example", ignore_index=True)

    def append(self, cell: str, rows: pd.DataFrame) -> None:
        """Add rows to a cell."""
        if self.folder is None:
            self._memory.setdefault(cell, []).append(rows)
            return
        # named by its examples, so that two processes that computed the same rows write one file
        name = sha256(rows["example"].to_numpy(dtype="<i8").tobytes())[:16]
        write_parquet(self.folder / cell / f"{name}.parquet", rows)


def write_parquet(path: Path, rows: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False, write_page_checksum=True)
    atomic_write(path, buffer.getvalue())


def _read(path: Path) -> pd.DataFrame:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        table = read_table(path, page_checksum_verification=True)
        rows: pd.DataFrame = table.to_pandas(ignore_metadata=True)[COLUMNS].astype("int64")
        return rows
    except (ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: damaged outcomes; remove the file, and its examples are evaluated again"
        ) from error
