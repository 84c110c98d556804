"""Models as they are compared: the curve of each, and which examples it has right."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from oat_bench.errors import UserError, nearest
from oat_bench.results.entries import Entry
from oat_bench.results.points import PointResult
from oat_bench.results.records import Record
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Bools, Floats, Rightness


@dataclass(frozen=True)
class Curve:
    """One model at one width: its label, the place of its entry, its points by lambda."""

    label: str
    entry: int
    points: list[PointResult]

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
    return distinct(entries, seeds, [f" no. {place}" for place in range(1, len(entries) + 1)])


def distinct(entries: Sequence[Entry], *more: list[str]) -> list[str]:
    """Name entries by method, architecture and more details, where those tell them apart."""
    names = [entry.method.upper() for entry in entries]
    for details in ([f" {entry.architecture}" for entry in entries], *more):
        # a detail that is the same for all of a name says nothing
        said: dict[str, set[str]] = {}
        for name, detail in zip(names, details, strict=True):
            said.setdefault(name, set()).add(detail)
        names = [
            name + detail if len(said[name]) > 1 else name
            for name, detail in zip(names, details, strict=True)
        ]
    return names


def suite(entry: Entry) -> dict[str, Hashable]:
    """Say what each attack was that the entry has at every point, so that the same compare.

    The worst case (`WORST`), which is of all attacks, comes last.
    """
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
            "no attack was run, with one card, on every model; evaluate all with the same --attacks"
        )
    if wanted is None:
        return known[-1]
    if wanted not in known:
        raise UserError(f"attack {wanted!r} was not run on every model; {nearest(wanted, known)}")
    return wanted


def attack_name(attack: str) -> str:
    """Return what an axis calls an attack."""
    return "worst case over attacks" if attack == WORST else attack


@dataclass(frozen=True)
class Model:
    """One model at one width, and what it has right under one attack, if outcomes are there."""

    curve: Curve
    right: Rightness | None

    def points(self, attack: str) -> Floats:
        """Return (SA, RA) in percent at each lambda, shape [k, 2]: the entry's, not rounded."""
        if self.right is not None:
            return self.right.points()
        accuracies = zip(self.curve.clean(), self.curve.robust(attack), strict=True)
        return np.array([(clean.value, robust.value) for clean, robust in accuracies])

    def n(self, attack: str) -> int:
        """Return the number of examples that were attacked, the least where it differs."""
        robust = self.curve.robust(attack)
        return min(ra.n or point.n for ra, point in zip(robust, self.curve.points, strict=True))


def models_of(records: Sequence[Record], attack: str) -> list[Model]:
    """Return a model for each entry and width, the widest first."""
    outcomes = [record.outcomes() for record in records]
    found = curves([record.entry for record in records])
    return [
        Model(one, _right(records[one.entry], outcomes[one.entry], one, attack)) for one in found
    ]


def common(model: Model, base: Model) -> tuple[Rightness, Rightness] | None:
    """Return both on the examples that both have; None if none was attacked in both."""
    if model.right is None or base.right is None:
        return None
    _, here, there = np.intersect1d(
        model.right.examples, base.right.examples, assume_unique=True, return_indices=True
    )
    if not np.array_equal(model.right.labels[here], base.right.labels[there]):
        raise UserError(
            f"{model.curve.label} and {base.curve.label} give the same example two labels; their "
            "outcomes are of different images"
        )
    attacked = model.right.attacked[here] & base.right.attacked[there]
    if not attacked.any():
        return None
    return _take(model.right, here, attacked), _take(base.right, there, attacked)


def _right(
    record: Record, outcomes: pd.DataFrame | None, curve: Curve, attack: str
) -> Rightness | None:
    if outcomes is None:
        return None
    try:
        right = frontier.rightness(outcomes, attack, record.worst_over(), width=curve.width)
    except ValueError:
        return None
    return right if right.lams == curve.lambdas() else None


def _take(right: Rightness, index: np.ndarray, attacked: Bools) -> Rightness:
    return Rightness(
        right.lams,
        right.examples[index],
        right.labels[index],
        attacked,
        right.clean[index],
        right.robust[index] & attacked[:, None],
    )
