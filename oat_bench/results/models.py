"""Models as they are compared: the curve of each, and which examples it has right."""

from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

import numpy as np

from oat_bench.errors import UserError, nearest
from oat_bench.results.entries import Entry
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Floats, Rightness
from oat_bench.statistics.phases import Ends


@dataclass(frozen=True)
class Curve:
    """One model at one width: its label, the place of its entry, its points by lambda."""

    label: str
    entry: int
    points: list[PointResult]
    right: Rightness | None = None  # under one attack, where there are outcomes

    @property
    def width(self) -> float:
        """Share of the channels."""
        return self.points[0].width

    def lambdas(self) -> list[float]:
        """Return lambda of each point."""
        return [point.lam for point in self.points]

    def clean(self) -> list[Accuracy]:
        """Return SA of each point."""
        return [point.clean_acc_interval for point in self.points]

    def robust(self, attack: str) -> list[Accuracy]:
        """Return RA of each point under an attack that was run at every one."""
        return [point.robust[attack] for point in self.points if attack in point.robust]

    def accuracies(self, attack: str) -> Floats:
        """Return (SA, RA) in percent at each lambda, shape [k, 2]; from outcomes if there."""
        if self.right is not None:
            return self.right.points()
        both = zip(self.clean(), self.robust(attack), strict=True)
        return np.array([(clean.value, robust.value) for clean, robust in both])


def curves(entries: Sequence[Entry]) -> list[Curve]:
    """Return a curve for each entry and width, the widest first."""
    found = []
    for place, (entry, label) in enumerate(zip(entries, labels(entries), strict=True)):
        for width in entry.widths:
            name = label if entry.widths == [1.0] else f"{label}, width {width:g}"
            points = [point for point in entry.operating_points if point.width == width]
            found.append(Curve(name, place, sorted(points, key=lambda point: point.lam)))
    return found


def labels(entries: Sequence[Entry]) -> list[str]:
    """Name each entry by its method, and by as much more as tells it from the others."""
    seeds = [f" seed {entry.seed}" for entry in entries]
    return distinct(
        entries, started(entries), seeds, [f" no. {place}" for place in range(1, len(entries) + 1)]
    )


def distinct(entries: Sequence[Entry], *more: list[str]) -> list[str]:
    """Name entries by method, architecture and more details, where those tell them apart."""
    names = [entry.method.upper() for entry in entries]
    for details in ([f" {entry.architecture}" for entry in entries], *more):
        # a detail that is the same for all of a name says nothing
        both = list(zip(names, details, strict=True))
        said = Counter(name for name, _ in set(both))
        names = [name + detail if said[name] > 1 else name for name, detail in both]
    return names


def started(entries: Sequence[Entry]) -> list[str]:
    """Return what sets models that started from others apart from those of fresh weights."""
    return [" fine-tuned" if entry.ancestors else "" for entry in entries]


def suite(entry: Entry) -> dict[str, Hashable]:
    """Say what each attack was that the entry has at every point; `WORST`, of all, comes last."""
    run = {attack.name: (attack.card, attack.eps) for attack in entry.attacks}
    known: dict[str, Hashable] = {**run, WORST: frozenset(run.items())}
    points = entry.operating_points
    return {k: v for k, v in known.items() if all(k in point.robust for point in points)}


def common_attacks(entries: Sequence[Entry]) -> list[str]:
    """Return the attacks that every entry has at every point, `WORST` last."""
    first, *others = map(suite, entries)
    return [k for k, v in first.items() if all(other.get(k) == v for other in others)]


def choose_attack(entries: Sequence[Entry], wanted: str | None = None) -> str:
    """Return the attack whose RA is drawn: the wanted one, or the last that all have."""
    known = common_attacks(entries)
    if not known:
        raise UserError(
            "no attack was run, with one card, on every model at every lambda; evaluate all with "
            "the same --attacks"
        )
    if wanted is not None and wanted not in known:
        lacking = f"attack {wanted!r} was not run on every model at every lambda"
        raise UserError(f"{lacking}; {nearest(wanted, known)}")
    return wanted or known[-1]


def attack_name(attack: str) -> str:
    """Return what an axis calls an attack."""
    return "worst case over attacks" if attack == WORST else attack


def models_of(records: Sequence[Record], attack: str) -> list[Curve]:
    """Return `curves` with what each has right under an attack, where there are outcomes."""
    return models_under(records, [attack])[attack]


def models_under(records: Sequence[Record], attacks: Sequence[str]) -> dict[str, list[Curve]]:
    """Return `models_of` for several attacks; the outcomes are read once."""
    bare = curves([record.entry for record in records])
    found: dict[str, list[Curve]] = {attack: [] for attack in attacks}
    for place, own in groupby(bare, key=attrgetter("entry")):
        frame, design = records[place].outcomes(), records[place].design()
        for curve in own:
            ends = None
            if frame is not None and (here := frame[frame["width"] == curve.width]).size:
                ends = Ends.of(here)
            for attack in attacks:
                right = None
                if ends is not None and ends.lams == curve.lambdas():
                    with suppress(ValueError):  # no outcomes of this attack
                        right = frontier.rightness_of(ends, attack, design)
                found[attack].append(replace(curve, right=right))
    return found


def common(model: Curve, base: Curve) -> tuple[Rightness, Rightness] | None:
    """Return both on the examples that both have; None if none was attacked in both."""
    ours, theirs = model.right, base.right
    if ours is None or theirs is None:
        return None
    _, here, there = np.intersect1d(
        ours.examples, theirs.examples, assume_unique=True, return_indices=True
    )
    if not np.array_equal(ours.labels[here], theirs.labels[there]):
        raise UserError(
            f"{model.label} and {base.label} give the same example two labels; their outcomes are "
            "of different images"
        )
    attacked = ours.attacked[here] & theirs.attacked[there]
    if not attacked.any():
        return None
    return ours.taken(here, attacked), theirs.taken(there, attacked)
