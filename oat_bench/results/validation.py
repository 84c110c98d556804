"""What is wrong with entries, beyond what their types forbid."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from oat_bench.cards import publishable
from oat_bench.checkpoint import load
from oat_bench.datasets.splits import nested_order
from oat_bench.errors import UserError
from oat_bench.results.checks import LADDER
from oat_bench.results.points import PointResult, summarize
from oat_bench.results.records import Record, find, read
from oat_bench.results.reliability import departs, integrity_of
from oat_bench.run_folder import CHECKPOINT, ENTRY, INTEGRITY
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import Accuracy
from oat_bench.statistics.phases import phases

Severity = Literal["error", "warning"]
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_ROUNDING = 0.011  # numbers may have two decimals, as RobustBench's, and the last differ by one


@dataclass(frozen=True)
class Problem:
    """What is wrong with the entry at ``path``; only an error makes it invalid."""

    path: Path
    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.severity}: {self.text}"


def validate(path: Path) -> tuple[list[Path], list[Problem]]:
    """Check an entry, or all in a folder; return the entries and their problems."""
    entry = path / ENTRY if path.is_dir() else path
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"no entry at {path}; expected a file or a folder")
    paths = [entry] if entry.is_file() else find(path)
    found: list[Problem] = []
    names: dict[tuple[Path, str], Path] = {}
    for file in paths:
        try:
            record = read(file)
        except UserError as error:
            found.append(Problem(file, "error", str(error).removeprefix(f"{file}: ")))
            continue
        found += problems(record)
        name = record.entry.name
        other = names.setdefault((file.parent, name), file)
        if other != file:
            found.append(Problem(file, "error", f"{other.name} has the same name, {name!r}"))
    return paths, found


def problems(record: Record) -> list[Problem]:
    """Check one entry and what lies beside it."""
    own = (_place, _provenance, _attacks, _standard, _accuracies)
    beside = (_checkpoint, _outcomes, _integrity)
    errors = [text for check in (*own, *beside) for text in check(record)]
    found = [Problem(record.entry_path, "error", text) for text in errors]
    doubtful = (*_implausible(record), *_unexamined(record))
    return found + [Problem(record.entry_path, "warning", text) for text in doubtful]


def contradictions(record: Record) -> list[str]:
    """Return where an entry contradicts itself, or the outcomes beside it."""
    return [*_attacks(record), *_accuracies(record), *_outcomes(record)]


# --- what it says of itself


def _place(record: Record) -> Iterator[str]:
    folder, entry = record.entry_path.absolute().parent, record.entry
    wanted = (entry.dataset, entry.threat_model)
    if _published(record) and (folder.parent.name, folder.name) != wanted:
        yield f"expected under {entry.dataset}/{entry.threat_model}/, its data set and threat model"


def _provenance(record: Record) -> Iterator[str]:
    entry = record.entry
    stated = {"model_fingerprint": entry.model_fingerprint}
    stated |= {f"card of attack {attack.name}": attack.card for attack in entry.attacks}
    known = {"benchmark_card": entry.benchmark_card, "data_fingerprint": entry.data_fingerprint}
    stated |= {name: value for name, value in known.items() if value}  # empty: there is none
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
                yield f"{point}: nothing says what attack {name!r} was"


def _standard(record: Record) -> Iterator[str]:
    for attack in record.entry.attacks:
        if attack.name == "autoattack" and (why := departs(attack)) is not None:
            yield (
                f"autoattack is not AutoAttack: {why}; evaluate again, or call it "
                '"autoattack-10-iterations" if that is what it is'
            )


# --- accuracies


def _accuracies(record: Record) -> Iterator[str]:
    for point in record.entry.operating_points:
        n, robust = point.n, point.robust_acc
        for name, accuracy in point.accuracies.items():
            yield from (f"{point}: {name}: {text}" for text in _interval(accuracy, n))
        if point.clean_acc != point.clean_acc_interval.value:
            yield f"{point}: clean_acc is {point.clean_acc:g}, its interval is of another value"
        autoattack = robust.get("autoattack")
        if point.autoattack_acc != (autoattack and autoattack.value):
            yield f"{point}: autoattack_acc is not that of robust_acc"
        # only what is of the same examples compares
        for name, one in robust.items():
            if one.n in (None, n) and one.value > point.clean_acc:
                yield f"{point}: RA under {name}, {one.value:g}, is above SA, {point.clean_acc:g}"
            worst = point.worst_case_acc if name in record.worst_over() else None
            # of two samples either estimate may be the higher one
            if (
                worst
                and one.sampled is None
                and (one.n or n) == (worst.n or n)
                and worst.value > one.value
            ):
                yield (
                    f"{point}: the worst case, {worst.value:g}, is above RA under {name}, "
                    f"{one.value:g}"
                )


def _interval(accuracy: Accuracy, n: int) -> Iterator[str]:
    n, value, ends = accuracy.n or n, accuracy.value, f"[{accuracy.low:g}, {accuracy.high:g}]"
    if accuracy.left is not None or accuracy.sampled is not None:
        yield from _of_two_phases(accuracy, n, ends)
        return
    hits = round(value * n / 100)
    wilson = Accuracy.counted(hits, n)
    if not accuracy.low <= value <= accuracy.high:
        yield f"{value:g} is outside its interval {ends}"
    elif not _close(wilson.value, value):
        yield f"{value:g}% is no share of {n} examples"
    elif not (_close(accuracy.low, wilson.low) and _close(accuracy.high, wilson.high)):
        counted = f"[{wilson.low:.2f}, {wilson.high:.2f}]"
        yield f"{ends} is not the Wilson interval of {hits} of {n}, {counted}"


def _of_two_phases(accuracy: Accuracy, n: int, ends: str) -> Iterator[str]:
    left, sampled = accuracy.left or 0, accuracy.sampled or 0
    if not 0 < sampled < left <= n:
        yield f"{accuracy.sampled} sampled of {accuracy.left} left of {n} examples cannot be"
        return
    hits = round(accuracy.value / 100 * n / left * sampled)
    if not 0 <= hits <= sampled or not _close(
        (counted := Accuracy.two_phase(n, left, sampled, hits)).value, accuracy.value
    ):
        yield (
            f"{accuracy.value:g}% is no share of {sampled} examples, sampled of {left} left of {n}"
        )
    elif not (_close(accuracy.low, counted.low) and _close(accuracy.high, counted.high)):
        yield (
            f"{ends} is not the interval of {hits} of {sampled}, sampled of {left} left of {n}, "
            f"[{counted.low:.2f}, {counted.high:.2f}]"
        )


def _implausible(record: Record) -> Iterator[str]:
    # an attack that breaks more than a stronger one, beyond what both intervals allow
    eps = {attack.name: attack.eps for attack in record.entry.attacks}
    for point in record.entry.operating_points:
        for weak, strong in pairwise(name for name in LADDER if name in point.robust_acc):
            ours, theirs = point.robust_acc[weak], point.robust_acc[strong]
            if ours.high < theirs.low and eps.get(weak) == eps.get(strong):
                yield (
                    f"{point}: {weak} breaks more than {strong} (RA {ours.value:g} against "
                    f"{theirs.value:g}); are gradients masked? See oat-bench integrity"
                )


# --- what lies beside it


def _checkpoint(record: Record) -> Iterator[str]:
    path, entry = record.beside(CHECKPOINT), record.entry
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
    for name in ("dataset", "method", "architecture", "seed", "benchmark_card", "ancestors"):
        ours, theirs = getattr(entry, name), getattr(classifier.info, name)
        if name == "dataset":
            ours, theirs = publishable(ours), publishable(theirs)
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
        results = summarize(outcomes, record.design())
    except UserError as error:
        yield str(error)
        return
    except ValueError:
        yield f"{name}: the outcomes cannot be counted"
        return
    counted = {(point.lam, point.width): point for point in results}
    stated = {(point.lam, point.width): point for point in record.entry.operating_points}
    if set(counted) != set(stated):
        yield f"{name} is of other operating points"
        return
    different = [text for k, point in stated.items() for text in _different(point, counted[k])]
    different = different or [*_samples(record, outcomes), *_frontiers(record, outcomes)]
    yield from (f"{name}: {text}" for text in different)


def _different(ours: PointResult, theirs: PointResult) -> Iterator[str]:
    if set(ours.robust) != set(theirs.robust):
        yield f"{ours}: the outcomes are of {', '.join(theirs.robust)}"
        return
    for name, one in ours.accuracies.items():
        other = theirs.accuracies[name]
        said, counted = _counts(one, ours.n), _counts(other, theirs.n)
        if said != counted or not _close(one.value, other.value):
            by = f"by the outcomes {other.value:.2f} of {counted}"
            yield f"{ours}: {name} is {one.value:g} of {said}, {by}"


def _counts(accuracy: Accuracy, n: int) -> str:
    sample = "" if accuracy.sampled is None else f", {accuracy.sampled} of {accuracy.left} left"
    return f"{accuracy.n or n}{sample}"


def _samples(record: Record, outcomes: pd.DataFrame) -> Iterator[str]:
    """Say where a sample is not of the first survivors, but chosen."""
    design = record.design()
    for name, first in design.after.items():
        for (width, lam), rows in outcomes.groupby(["width", "lam"]):
            found = phases(rows, name, design)
            if found is None or found.whole:
                continue
            order = rows[rows["attack"] == first[0]] if first else rows.drop_duplicates("example")
            ids = order["example"].to_numpy()
            if len(ids) == ids.max() + 1:  # the whole test set, whose order its labels tell
                labels = torch.tensor(order.sort_values("example")["label"].to_numpy())
                ids = nested_order(labels).numpy()
            standing, sampled = (found.examples[one] for one in (found.standing, found.sampled))
            if set(ids[np.isin(ids, standing)][: len(sampled)]) != set(sampled):
                where = f"lambda {lam:g}" + (f", width {width:g}" if width != 1 else "")
                yield f"{where}: {name} was not run on the first {len(sampled)} survivors"


def _frontiers(record: Record, outcomes: pd.DataFrame) -> Iterator[str]:
    for stated in record.entry.frontiers or ():
        where = f"frontier of {stated.attack} at width {stated.width:g}"
        try:
            right = frontier.rightness(outcomes, stated.attack, record.design(), stated.width)
            points = right.points()
            volume = frontier.hypervolume(points, stated.reference)
        except (ValueError, ZeroDivisionError):
            yield f"{where}: there are no outcomes of it"
            continue
        if not _close(stated.hypervolume.value, volume):
            yield f"{where}: hypervolume {stated.hypervolume.value:g}, by the outcomes {volume:.2f}"
        if stated.pareto != frontier.pareto_lambdas(right.lams, points):
            yield f"{where}: pareto is not that of the outcomes"


def _integrity(record: Record) -> Iterator[str]:
    path, entry = record.beside(INTEGRITY), record.entry
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
    path = record.beside(INTEGRITY)  # published before attacks had to be examined
    if _published(record) and record.entry.flags is None and not path.is_file():
        yield f"{path.name} is missing; make it by oat-bench integrity"


def _published(record: Record) -> bool:
    return record.entry_path.name != ENTRY


def _close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= _ROUNDING
