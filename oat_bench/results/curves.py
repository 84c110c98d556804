"""From entries to curves, one for each model and width: what figures draw and tables compare."""

from collections.abc import Sequence
from dataclasses import dataclass

from oat_bench.errors import UserError, nearest
from oat_bench.results.entries import Entry, EntryPoint, Interval
from oat_bench.statistics.accuracy import WORST


@dataclass(frozen=True)
class Curve:
    """One model at one width.

    Attributes:
        label: tells it from the others.
        entry: place of its entry among those given.
        points: by lambda, ascending.
    """

    label: str
    entry: int
    points: list[EntryPoint]

    @property
    def width(self) -> float:
        """Return the share of the channels."""
        return self.points[0].width

    def lambdas(self) -> list[float]:
        """Return lambda of each point."""
        return [point.lam for point in self.points]

    def clean(self) -> list[Interval]:
        """Return SA of each point."""
        return [point.clean_acc_interval for point in self.points]

    def robust(self, attack: str) -> list[Interval]:
        """Return RA of each point under an attack that was run at every one."""
        found = [robust_at(point, attack) for point in self.points]
        return [interval for interval in found if interval is not None]


def robust_at(point: EntryPoint, attack: str) -> Interval | None:
    """Return RA under an attack, or in the worst case (`WORST`); None if it was not run."""
    return point.worst_case_acc if attack == WORST else point.robust_acc.get(attack)


def curves(entries: Sequence[Entry]) -> list[Curve]:
    """Return a curve for each entry and width, the widest first."""
    found = []
    for place, (entry, label) in enumerate(zip(entries, labels(entries), strict=True)):
        widths = sorted({point.width for point in entry.operating_points}, reverse=True)
        for width in widths:
            name = label if widths == [1.0] else f"{label}, width {width:g}"
            points = [point for point in entry.operating_points if point.width == width]
            found.append(Curve(name, place, sorted(points, key=lambda point: point.lam)))
    return found


def labels(entries: Sequence[Entry]) -> list[str]:
    """Name each entry by its method, and by as much more as tells it from the others."""
    names = [entry.method.upper() for entry in entries]
    for more in ("architecture", "seed", "number"):
        if len(set(names)) == len(names):
            break
        twice = [name for name in names if names.count(name) > 1]
        details = {
            "architecture": [entry.architecture for entry in entries],
            "seed": [f"seed {entry.seed}" for entry in entries],
            "number": [f"no. {number}" for number in range(1, len(entries) + 1)],
        }[more]
        # a detail that is the same for all of a name says nothing
        values: dict[str, set[str]] = {}
        for name, detail in zip(names, details, strict=True):
            values.setdefault(name, set()).add(detail)
        names = [
            f"{name} {detail}" if name in twice and len(values[name]) > 1 else name
            for name, detail in zip(names, details, strict=True)
        ]
    return names


def common_attacks(entries: Sequence[Entry]) -> list[str]:
    """Return the attacks that every entry has at every point, `WORST` last.

    An attack is the same if its card and its eps are; the worst case, if all attacks are.
    """
    suites = [{a.name: (a.card, a.eps) for a in entry.attacks} for entry in entries]
    points = [point for entry in entries for point in entry.operating_points]
    names = [
        name
        for name, attack in suites[0].items()
        if all(suite.get(name) == attack for suite in suites)
        and all(name in point.robust_acc for point in points)
    ]
    same = all(suite == suites[0] for suite in suites)
    if same and all(point.worst_case_acc is not None for point in points):
        names.append(WORST)
    return names


def choose_attack(entries: Sequence[Entry], wanted: str | None = None) -> str:
    """Return the attack whose RA is drawn: the wanted one, or the last that all have.

    Raises:
        UserError: if not every entry has it, or they have none in common.
    """
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


def threat_of(entry: Entry) -> str:
    """Return data set and threat model, as titles have them."""
    return f"{entry.dataset}, {entry.threat_model} eps {entry.eps}"
