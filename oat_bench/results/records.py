"""Runs as they lie on disk: an entry, and beside it, if there, outcomes and checkpoint."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from oat_bench.cards import Threat
from oat_bench.complaints import explain
from oat_bench.errors import UserError, one_line
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.outcomes import KEYS, read_parquet
from oat_bench.run_folder import CHECKPOINT, ENTRY, INTEGRITY, OUTCOMES
from oat_bench.statistics.phases import Design

_MAX_WORDS = 200  # characters in what tells models apart
_KINDS = dict.fromkeys(KEYS, "int64") | {"lam": "float64", "width": "float64", "attack": "str"}
#: what lies beside a published entry ``x.json``, by its name in a run's folder: ``x.parquet``, ...
PUBLISHED = {
    CHECKPOINT: ".safetensors",
    OUTCOMES: ".parquet",
    INTEGRITY: ".integrity.json",
    "table.md": ".md",
    "table.csv": ".csv",
    "table.tex": ".tex",
}
_REPORTS = (INTEGRITY, "transfer.json")  # what other JSON files end in


@dataclass(frozen=True)
class Record:
    """One evaluated model."""

    path: Path  # what the user named: a run's folder, or an entry
    entry: Entry

    def outcomes(self) -> pd.DataFrame | None:
        """Read ``outcomes.parquet`` of a run, or ``x.parquet`` beside ``x.json``; None without."""
        path = self.outcomes_path
        if not path.is_file():
            return None
        try:
            frame = read_parquet(path, _KINDS)
            if not (frame["lam"].between(0, 1) & frame["width"].between(0, 1)).all():
                raise ValueError("lambda or width is out of range")
        except ValueError as error:
            raise UserError(f"{path}: damaged outcomes; evaluate the model again") from error
        return frame

    @property
    def outcomes_path(self) -> Path:
        """Where the outcomes of the entry's examples lie, if they do."""
        return self.beside(OUTCOMES)

    def beside(self, name: str) -> Path:
        """Where a file of a run, one of `PUBLISHED`, lies, if it does."""
        own = self.entry_path.with_suffix(PUBLISHED[name])
        run = self.path.is_dir() or (self.path.name == ENTRY and not own.is_file())
        return self.entry_path.with_name(name) if run else own

    @property
    def stem(self) -> str:
        """What the entry's files are called."""
        file = self.entry_path
        return file.absolute().parent.name if file.name == ENTRY else file.stem

    @property
    def entry_path(self) -> Path:
        """The file of the entry."""
        return self.path / ENTRY if self.path.is_dir() else self.path

    def worst_over(self) -> list[str]:
        """Return the attacks of the worst case: those within the threat model, not targeted."""
        return [attack.name for attack in self.entry.attacks if attack.within(self.eps)]

    def design(self) -> Design:
        """Return over which attacks the worst case is, and which were run on survivors."""
        after = {a.name: a.after for a in self.entry.attacks if a.after is not None}
        return Design(self.worst_over(), after)

    @property
    def eps(self) -> float:
        """Bound of the threat model."""
        return Threat.model_validate({"eps": self.entry.eps}).eps


def read(path: str | Path) -> Record:
    """Read a run's folder or an entry."""
    path = Path(path)
    file, there = path, False
    with suppress(OSError):  # the name is too long for a file
        file = path / ENTRY if path.is_dir() else path
        there = file.is_file()
    if not there:
        raise UserError(
            f"no entry at {file}; expected a run's folder or an entry.json, as `oat-bench run` and "
            "`oat-bench evaluate` write them"
        )
    entry = Entry.read(file)
    try:
        Threat.model_validate({"eps": entry.eps})
    except ValidationError as error:
        raise UserError(f"{file}: not {Entry.what}: {explain(error, Entry)}") from error
    points = [(point.lam, point.width) for point in entry.operating_points]
    if not points:
        raise UserError(f"{file}: the entry has no operating points")
    if len(set(points)) < len(points):
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


def find(folder: Path) -> list[Path]:
    """Find the entries in a folder: JSON files but for reports, of a run its entry.json."""
    paths = sorted(folder.rglob("*.json"))
    runs = {path.parent for path in paths if path.name == ENTRY}
    found = [
        path
        for path in paths
        if path.name == ENTRY
        or not (path.name.endswith(_REPORTS) or runs.intersection(path.parents))
    ]
    if not found:
        raise UserError(
            f"no entries in {folder}; expected DATASET/THREAT MODEL/NAME.json, as `oat-bench "
            "leaderboard add` writes them"
        )
    return found


def read_all(paths: Iterable[str | Path]) -> list[Record]:
    """Read runs that can be compared."""
    records = [read(path) for path in paths]
    first = records[0]
    for other in records[1:]:
        if threat_of(other.entry) != threat_of(first.entry):
            raise UserError(
                f"{first.path} is of {threat_of(first.entry)}, {other.path} of "
                f"{threat_of(other.entry)}; only runs of one data set and threat model compare"
            )
    return records
