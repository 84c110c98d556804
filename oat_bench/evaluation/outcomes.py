"""Outcomes on disk: what happened to each example, once, never stale.

A cell is one model at one operating point under one attack; its name holds the fingerprint of
everything that decides the outcomes, so that a change of weights, card or data leads to a new cell.
A cell is a folder of Parquet files, each written whole; what a killed run had finished stays. Its
``cell.json`` says in words what the name's fingerprint is made of.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oat_bench.cards import explain
from oat_bench.errors import UserError
from oat_bench.files import atomic_write, sha256

#: descriptions are small; a larger file is a mistake or an attack
_MAX_BYTES = 1 << 20

#: one row an example; predictions are classes
COLUMNS = ["example", "label", "clean_prediction", "attacked_prediction"]


class CellInfo(BaseModel):
    """What a cell holds the outcomes of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    dataset: str
    data: str = Field(description="fingerprint of every image and label")
    method: str
    architecture: str
    model: str = Field(description="fingerprint of the weights and their description")
    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    attack: str
    part: int = Field(ge=1, description="of an attack that is several, each on what still stands")
    parts: int = Field(ge=1)
    crafted: str = Field(
        default="",
        description="where the images were attacked, if not at lam alone: a threat model",
    )
    engine: str
    norm: str
    eps: float = Field(ge=0)
    seed: int
    card: str = Field(description="fingerprint of the attack card")
    gradients: str = Field(description="precision that the attack computed in")


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

    def describe(self, cell: str, about: Callable[[], CellInfo]) -> None:
        """Say what a cell holds, before its first rows; ``about`` is only called where it does."""
        if self.folder is not None and not (self.folder / cell / "cell.json").exists():
            text = about().model_dump_json(indent=2) + "\n"
            atomic_write(self.folder / cell / "cell.json", text)

    def cells(self) -> Iterator[tuple[str, CellInfo]]:
        """Return the name and the description of each cell that has one, by name.

        Raises:
            UserError: if a description is damaged.
        """
        for path in sorted(self.folder.glob("*/cell.json")) if self.folder is not None else ():
            yield path.parent.name, _read_info(path)

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
    atomic_write(path, to_parquet(rows))


def to_parquet(rows: pd.DataFrame) -> bytes:
    """Return a table as Parquet."""
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False, write_page_checksum=True)
    return buffer.getvalue()


def _read_info(path: Path) -> CellInfo:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: too large for the description of a cell; remove the file")
        return CellInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: not the description of a cell: {explain(error, CellInfo)}; remove the file, "
            "the next evaluation writes it again"
        ) from error


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
