"""What is wrong with entries, beyond what their types forbid."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pandas as pd

from oat_bench.cards import publishable
from oat_bench.checkpoint import load
from oat_bench.errors import UserError
from oat_bench.evaluation.examination import LADDER
from oat_bench.results.entries import EntryPoint, Interval, results
from oat_bench.results.records import Record, find, read
from oat_bench.results.reliability import departs, integrity_of
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Accuracy, PointResult, summarize

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
#: numbers may be rounded to two decimals, as RobustBench does, and differ by one in the last
_ROUNDING = 0.011


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: of the entry.
        severity: an ``error`` makes the entry invalid, a ``warning`` does not.
        text: what is wrong, and what was expected.
    """

    path: Path
    severity: Literal["error", "warning"]
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.severity}: {self.text}"


def validate(path: Path) -> tuple[list[Path], list[Problem]]:
    """Check an entry, or all in a folder.

    Args:
        path: an entry, a run's folder, or a folder that holds any number of either.

    Returns:
        The entries, and their problems.

    Raises:
        UserError: if there is none.
    """
    if not path.is_dir():
        paths = [path]
        if not path.is_file():
            raise UserError(f"no entry at {path}; expected a file or a folder")
    elif (path / "entry.json").is_file():
        paths = [path / "entry.json"]
    else:
        paths = find(path)
    found: list[Problem] = []
    names: dict[tuple[Path, str], Path] = {}
    for file in paths:
        try:
            record = read(file)
        except UserError as error:
            found.append(Problem(file, "error", str(error).removeprefix(f"{file}: ")))
            continue
        found += problems(record)
        # runs may well be called alike
        if file.name != "entry.json":
            other = names.setdefault((file.parent, record.entry.name), file)
            if other != file:
                found.append(
                    Problem(file, "error", f"{other.name} has the same name, {record.entry.name!r}")
                )
    return paths, found


def problems(record: Record) -> list[Problem]:
    """Check one entry and what lies beside it."""
    checks: tuple[Callable[[Record], Iterator[str]], ...] = (
        _place,
        _provenance,
        _attacks,
        _standard,
        _accuracies,
        _checkpoint,
        _outcomes,
        _integrity,
    )
    found = [
        Problem(record.entry_path, "error", text) for check in checks for text in check(record)
    ]
    return found + [
        Problem(record.entry_path, "warning", text)
        for check in (_implausible, _unexamined)
        for text in check(record)
    ]


def contradictions(record: Record) -> list[str]:
    """Return where an entry contradicts itself, or the outcomes beside it."""
    checks = (_attacks, _accuracies, _outcomes)
    return [text for check in checks for text in check(record)]


# --- what it says of itself


def _place(record: Record) -> Iterator[str]:
    """A published entry lies under its data set and its threat model."""
    path, entry = record.entry_path.absolute(), record.entry
    wanted = (entry.dataset, entry.threat_model)
    if _published(record) and (path.parents[1].name, path.parent.name) != wanted:
        yield f"expected under {entry.dataset}/{entry.threat_model}/, its data set and threat model"


def _provenance(record: Record) -> Iterator[str]:
    entry = record.entry
    stated = {"model_fingerprint": entry.model_fingerprint}
    if entry.benchmark_card:  # of what no card trained there is none
        stated["benchmark_card"] = entry.benchmark_card
    stated |= {f"card of attack {attack.name}": attack.card for attack in entry.attacks}
    if entry.data_fingerprint:
        stated["data_fingerprint"] = entry.data_fingerprint
    for name, value in stated.items():
        if not _FINGERPRINT.fullmatch(value):
            yield f"{name} is {value[:80]!r}; expected 64 hexadecimal digits"
    if not entry.name.strip():
        yield "name is empty"
    if not entry.command.startswith("oat-bench "):
        yield f"command is {entry.command[:80]!r}; expected what made the numbers: oat-bench ..."
    for name in ("oat-bench", "torch"):
        if name not in entry.versions:
            yield f"versions lacks {name}"


def _attacks(record: Record) -> Iterator[str]:
    names = [attack.name for attack in record.entry.attacks]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"attack {name} is described twice"
    for point in record.entry.operating_points:
        for name in point.robust_acc:
            if name not in names:
                yield f"{_at(point)}: nothing says what attack {name!r} was"


def _standard(record: Record) -> Iterator[str]:
    """What is called autoattack is what its authors define."""
    for attack in record.entry.attacks:
        why = departs(attack) if attack.name == "autoattack" else None
        if why is not None:
            yield (
                f"autoattack is not AutoAttack: {why}; evaluate again, or call it "
                '"autoattack-10-iterations" if that is what it is'
            )


# --- accuracies


def _accuracies(record: Record) -> Iterator[str]:
    for point in record.entry.operating_points:
        at, n = _at(point), point.n
        stated = {"SA": point.clean_acc_interval, **point.robust_acc}
        if point.worst_case_acc is not None:
            stated[WORST] = point.worst_case_acc
        for name, interval in stated.items():
            yield from (f"{at}: {name}: {text}" for text in _interval(interval, n))
        if point.clean_acc != point.clean_acc_interval.value:
            yield f"{at}: clean_acc is {point.clean_acc:g}, its interval is of another value"
        autoattack = point.robust_acc.get("autoattack")
        if point.autoattack_acc != (autoattack.value if autoattack else None):
            yield f"{at}: autoattack_acc is not that of robust_acc"
        for name, interval in point.robust_acc.items():
            # only what is of the same examples compares
            if interval.n in (None, n) and interval.value > point.clean_acc:
                yield f"{at}: RA under {name}, {interval.value:g}, is above SA, {point.clean_acc:g}"
        yield from _worst(point, record.worst_over())


def _interval(interval: Interval, n: int) -> Iterator[str]:
    n = interval.n or n
    if not interval.low <= interval.value <= interval.high:
        yield f"{interval.value:g} is outside its interval [{interval.low:g}, {interval.high:g}]"
        return
    hits = round(interval.value * n / 100)
    if abs(100 * hits / n - interval.value) > _ROUNDING:
        yield f"{interval.value:g}% is no share of {n} examples"
        return
    wilson = Accuracy.counted(hits, n)
    ends = (wilson.low, wilson.high)
    if not _close((interval.low, interval.high), ends):
        yield (
            f"[{interval.low:g}, {interval.high:g}] is not the Wilson interval of {hits} of {n}, "
            f"[{ends[0]:.2f}, {ends[1]:.2f}]"
        )


def _worst(point: EntryPoint, attacks: Sequence[str]) -> Iterator[str]:
    worst = point.worst_case_acc
    if worst is None:
        return
    for name in attacks:
        robust = point.robust_acc.get(name)
        same = robust is not None and (robust.n or point.n) == (worst.n or point.n)
        if robust is not None and same and worst.value > robust.value:
            yield (
                f"{_at(point)}: the worst case, {worst.value:g}, is above RA under {name}, "
                f"{robust.value:g}"
            )


def _implausible(record: Record) -> Iterator[str]:
    """No attack should break more than a stronger one: here beyond what both intervals allow."""
    eps = {attack.name: attack.eps for attack in record.entry.attacks}
    for point in record.entry.operating_points:
        ladder = [name for name in LADDER if name in point.robust_acc]
        for weak, strong in pairwise(ladder):
            ours, theirs = point.robust_acc[weak], point.robust_acc[strong]
            if ours.high < theirs.low and eps.get(weak) == eps.get(strong):
                yield (
                    f"{_at(point)}: {weak} breaks more than {strong} (RA {ours.value:g} against "
                    f"{theirs.value:g}); are gradients masked? See oat-bench integrity"
                )


# --- what lies beside it


def _checkpoint(record: Record) -> Iterator[str]:
    path, entry = record.beside("checkpoint.safetensors"), record.entry
    if not path.is_file():
        return
    try:
        classifier = load(path)
    except UserError as error:
        yield str(error)
        return
    if classifier.fingerprint() != entry.model_fingerprint:
        yield f"{path.name} is another model: its fingerprint is not model_fingerprint"
        return
    info = classifier.info
    stated = {
        "dataset": (publishable(entry.dataset), publishable(info.dataset)),
        "method": (entry.method, info.method),
        "architecture": (entry.architecture, info.architecture),
        "seed": (entry.seed, info.seed),
        "benchmark_card": (entry.benchmark_card, info.benchmark_card),
    }
    for name, (ours, theirs) in stated.items():
        if ours != theirs:
            yield f"{name} is {str(ours)[:80]!r}; {path.name} is of {theirs!r}"


def _outcomes(record: Record) -> Iterator[str]:
    name = record.outcomes_path.name
    try:
        outcomes = record.outcomes()
        if outcomes is None:
            return
        if outcomes.duplicated(["lam", "width", "attack", "example"]).any():
            yield f"{name} holds an outcome twice"
            return
        counted = {(r.lam, r.width): r for r in summarize(outcomes, record.worst_over())}
    except UserError as error:
        yield str(error)
        return
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError):
        yield f"{name}: the outcomes cannot be counted"
        return
    stated = {(r.lam, r.width): r for r in results(record.entry)}
    if set(counted) != set(stated):
        yield f"{name} is of other operating points"
        return
    different = list(_different(stated, counted))
    yield from (f"{name}: {text}" for text in different)
    if not different:
        yield from (f"{name}: {text}" for text in _frontiers(record, outcomes))


def _different(
    stated: dict[tuple[float, float], PointResult], counted: dict[tuple[float, float], PointResult]
) -> Iterator[str]:
    for place, ours in stated.items():
        theirs = counted[place]
        at = f"lambda {place[0]:g}" + (f", width {place[1]:g}" if place[1] != 1 else "")
        if set(ours.robust) != set(theirs.robust):
            yield f"{at}: the outcomes are of {', '.join(theirs.robust)}"
            continue
        pairs = {"SA": (ours.clean, theirs.clean)}
        pairs |= {name: (ours.robust[name], theirs.robust[name]) for name in ours.robust}
        for name, (one, other) in pairs.items():
            if one.n != other.n or not _close((one.value,), (other.value,)):
                yield (
                    f"{at}: {name} is {one.value:g} of {one.n}, by the outcomes {other.value:.2f} "
                    f"of {other.n}"
                )


def _frontiers(record: Record, outcomes: pd.DataFrame) -> Iterator[str]:
    for stated in record.entry.frontiers or ():
        where = f"frontier of {stated.attack} at width {stated.width:g}"
        try:
            right = frontier.rightness(
                outcomes, stated.attack, record.worst_over(), width=stated.width
            )
            points = right.points()
            volume = frontier.hypervolume(points, stated.reference)
        except (ValueError, ZeroDivisionError):
            yield f"{where}: there are no outcomes of it"
            continue
        pareto = [
            lam for lam, best in zip(right.lams, frontier.pareto(points), strict=True) if best
        ]
        if not _close((stated.hypervolume.value,), (volume,)):
            yield f"{where}: hypervolume {stated.hypervolume.value:g}, by the outcomes {volume:.2f}"
        if stated.pareto != pareto:
            yield f"{where}: pareto is not that of the outcomes"


def _integrity(record: Record) -> Iterator[str]:
    path, entry = record.beside("integrity.json"), record.entry
    if not path.is_file():
        # entries without flags were made before a report was asked for; a run may still get it
        if entry.integrity is not None or (entry.flags is not None and _published(record)):
            yield f"{path.name} is missing; make it by oat-bench integrity"
        return
    found = integrity_of(record)
    if found is None:
        yield f"{path.name} cannot be read as a report of oat-bench integrity"
    elif found.model != entry.model_fingerprint:
        yield f"{path.name} is of another model"
    elif entry.integrity not in (None, found.verdict):
        yield f"integrity is {entry.integrity!r}; {path.name} says {found.verdict!r}"


def _unexamined(record: Record) -> Iterator[str]:
    """An entry that was published before its attacks had to be examined."""
    path = record.beside("integrity.json")
    if _published(record) and record.entry.flags is None and not path.is_file():
        yield f"{path.name} is missing; make it by oat-bench integrity"


def _published(record: Record) -> bool:
    return record.entry_path.name != "entry.json"


def _at(point: EntryPoint) -> str:
    return f"lambda {point.lam:g}" + (f", width {point.width:g}" if point.width != 1 else "")


def _close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(abs(a - b) <= _ROUNDING for a, b in zip(ours, theirs, strict=True))
