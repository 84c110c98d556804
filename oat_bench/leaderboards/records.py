"""Runs as they lie on disk: an entry, and beside it, if there, outcomes and checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from oat_bench.cards import Threat, explain
from oat_bench.errors import UserError, one_line
from oat_bench.evaluation.grid import KEYS
from oat_bench.evaluation.outcomes import read_parquet
from oat_bench.files import read_bounded
from oat_bench.leaderboards.entries import Entry

#: entries are small; a larger file is a mistake
_MAX_BYTES = 1 << 22
#: characters in what tells models apart
_MAX_WORDS = 200
_KINDS = dict.fromkeys(KEYS, "int64") | {"lam": "float64", "width": "float64", "attack": "str"}


@dataclass(frozen=True)
class Record:
    """One evaluated model.

    Attributes:
        path: what the user named: a run's folder, or an entry.
        entry: what was measured.
    """

    path: Path
    entry: Entry

    def outcomes(self) -> pd.DataFrame | None:
        """Read ``outcomes.parquet`` beside the entry; None if there is none.

        Raises:
            UserError: if the file is damaged.
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        path = folder / "outcomes.parquet"
        if not path.is_file():
            return None
        try:
            frame = read_parquet(path, _KINDS)
            if not (frame["lam"].between(0, 1) & frame["width"].between(0, 1)).all():
                raise ValueError("lambda or width is out of range")
        except ValueError as error:
            raise UserError(f"{path}: damaged outcomes; evaluate the model again") from error
        return frame

    def worst_over(self) -> list[str]:
        """Return the attacks of the worst case: those within the threat model."""
        return [attack.name for attack in self.entry.attacks if attack.eps <= self.eps * (1 + 1e-5)]

    @property
    def eps(self) -> float:
        """Bound of the threat model."""
        return Threat.model_validate({"eps": self.entry.eps}).eps


def read(path: str | Path) -> Record:
    """Read a run's folder or an entry.

    Raises:
        UserError: if there is no entry, or it is damaged.
    """
    path = Path(path)
    try:
        file = path / "entry.json" if path.is_dir() else path
        missing = not file.is_file()
    except OSError:  # the name is too long for a file
        file, missing = path, True
    if missing:
        raise UserError(
            f"no entry at {file}; expected a run's folder or an entry.json, as `oat-bench run` and "
            "`oat-bench evaluate` write them"
        )
    content = read_bounded(file, _MAX_BYTES, "an entry")
    try:
        entry = Entry.model_validate_json(content)
        Threat.model_validate({"eps": entry.eps})
    except ValidationError as error:
        raise UserError(f"{file}: not an entry of oat-bench: {explain(error, Entry)}") from error
    if not entry.operating_points:
        raise UserError(f"{file}: the entry has no operating points")
    points = {(point.lam, point.width) for point in entry.operating_points}
    if len(points) < len(entry.operating_points):
        raise UserError(f"{file}: the entry has an operating point twice")
    for key in ("name", "dataset", "architecture", "method", "eps"):
        value = getattr(entry, key)
        # these go into titles and tables
        if not value.isprintable() or len(value) > _MAX_WORDS:
            raise UserError(
                f"{file}: {key} is {one_line(value, 80)!r}; expected at most {_MAX_WORDS} "
                "characters that can be printed"
            )
    return Record(path, entry)


def read_all(paths: Iterable[str | Path]) -> list[Record]:
    """Read runs that can be compared.

    Raises:
        UserError: if one cannot be read, or they are of different data sets or threat models.
    """
    records = [read(path) for path in paths]
    first = records[0]
    for other in records[1:]:
        if _threat(other.entry) != _threat(first.entry):
            raise UserError(
                f"{first.path} is of {_threat(first.entry)}, {other.path} of "
                f"{_threat(other.entry)}; only runs of one data set and threat model compare"
            )
    return records


def _threat(entry: Entry) -> str:
    return f"{entry.dataset}, {entry.threat_model} eps {entry.eps}"
