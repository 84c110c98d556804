"""Putting a run's entry on a leaderboard, with what lies beside it."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from oat_bench.cards import publishable
from oat_bench.errors import UserError
from oat_bench.files import atomic_write, make_folder
from oat_bench.results.entries import Entry
from oat_bench.results.records import PUBLISHED, Record, read
from oat_bench.results.reliability import integrity_of
from oat_bench.results.validation import Problem, problems
from oat_bench.run_folder import CHECKPOINT, INTEGRITY, OUTCOMES, TABLES


def add(
    record: Record,
    to: Path,
    *,
    changes: dict[str, Any],  # keys that the run could not know, such as authors
    with_checkpoint: bool = False,
    with_tables: bool = False,
    replace: bool = False,
) -> tuple[list[Path], list[Problem]]:
    """Check an entry, copy it with what lies beside it, and return the files and warnings."""
    examined = integrity_of(record)
    if examined is not None and examined.model == record.entry.model_fingerprint:
        changes = changes | {"integrity": examined.verdict}
    entry = Entry.model_validate(record.entry.model_dump(by_alias=True) | changes)
    warnings = check(Record(record.path, entry))
    if entry.flags is not None and examined is None:
        raise UserError(
            f"{record.path}: no report of attack integrity, which an entry needs; make it by: "
            f"oat-bench integrity {record.path}"
        )
    place = _place(to, entry)
    if place.exists() and not replace:
        raise UserError(f"{place} is there already; choose another --name, or --replace it")
    wanted = [OUTCOMES, INTEGRITY]
    wanted += [CHECKPOINT] * with_checkpoint + list(TABLES) * with_tables
    contents = {}
    for name in wanted:
        source = record.beside(name)
        if source.is_file():
            contents[name] = source.read_bytes()
        elif name == CHECKPOINT:
            raise UserError(f"{source}: no checkpoint there; leave out --with-checkpoint")
    stale = _stale(record, place)
    make_folder(place.parent, "--to")
    # the entry last: it never stands without what it rests on
    written = {place.with_suffix(PUBLISHED[name]): content for name, content in contents.items()}
    for path, content in [*written.items(), (place, entry.as_json().encode())]:
        atomic_write(path, content)
    for name in stale - contents.keys():
        place.with_suffix(PUBLISHED[name]).unlink(missing_ok=True)
    return [place, *written], warnings


def check(record: Record) -> list[Problem]:
    """Refuse an entry that is not valid; return the warnings."""
    found = problems(record)
    errors = [problem for problem in found if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: oat-bench leaderboard validate)" * (len(errors) > 1)
        raise UserError(f"{errors[0].path}: {errors[0].text}{more}")
    return found


def _stale(record: Record, place: Path) -> set[str]:
    """Return the files beside an entry that is replaced which are not the new one's."""
    if not place.exists() or place.resolve() == record.entry_path.resolve():
        return set()
    with suppress(UserError):
        if read(place).entry.model_fingerprint == record.entry.model_fingerprint:
            return PUBLISHED.keys() - {CHECKPOINT, INTEGRITY}
    return {*PUBLISHED}


def _place(to: Path, entry: Entry) -> Path:
    """Return ``DATASET/THREAT MODEL/NAME.json``; a part of an entry is never a path."""
    for key, value in (("dataset", entry.dataset), ("threat_model", entry.threat_model)):
        if publishable(value) != value:
            raise UserError(
                f"{key} is {value[:80]!r}, which cannot be a folder's name here; expected up to 64 "
                "letters, digits and . _ + -: evaluate the model again, whose data set is then "
                f"called {publishable(value)!r}"
            )
    stem = re.sub(r"[^a-z0-9._+-]+", "-", entry.name.lower()).strip("-._+")[:64]
    if not stem or stem in ("entry", "con", "nul", "aux", "prn"):
        raise UserError(f"no file can be called by the name {entry.name[:80]!r}; choose a --name")
    return to / entry.dataset / entry.threat_model / f"{stem}.json"
