"""What a report covers: what was evaluated now, and what its folder has of the same model."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from oat_bench.attacks.selection import rank
from oat_bench.errors import UserError
from oat_bench.results import records
from oat_bench.results.entries import Entry, EntryAttack, EntryFlag
from oat_bench.results.outcomes import KEYS
from oat_bench.results.points import AttackCost, PointResult
from oat_bench.statistics.phases import Design

#: what an earlier entry has in common with one that takes its outcomes in, and what to call it
_SAME = {
    "model_fingerprint": "another model",
    "data_fingerprint": "other images",
    "threat_model": "{}",
    "eps": "eps {}",
    "attack_seed": "attack seed {}",
    "gradients": "gradients in {}",
    "interpolation": "interpolation {}",
    "bridge": "bridge {}",
}
_POINT, _CELL = ["lam", "width"], ["lam", "width", "attack"]


@dataclass(frozen=True)
class Covered:
    """Outcomes, rows of `KEYS`, and what an entry says of them; costs are of other attacks."""

    outcomes: pd.DataFrame
    attacks: Sequence[EntryAttack]
    flags: Sequence[EntryFlag]
    command: str
    costs: Mapping[tuple[float, float], Sequence[AttackCost]] = field(default_factory=dict)

    def design(self, worst_over: Sequence[str]) -> Design:
        """Return over which of the attacks the worst case is, and which were run on survivors."""
        after = {attack.name: attack.after for attack in self.attacks if attack.after is not None}
        return Design([a.name for a in self.attacks if a.name in worst_over], after)

    def costed(self, results: Sequence[PointResult]) -> list[PointResult]:
        """Add what attacks took that were not run again."""
        return [
            point.model_copy(update={"attack_costs": [*(point.attack_costs or []), *added]})
            if (added := self.costs.get((point.lam, point.width)))
            else point
            for point in results
        ]

    def lacking(self) -> dict[str, str]:
        """Return at which lambda values attacks were not run, by their names."""
        names = [attack.name for attack in self.attacks if attack.after is None]
        found: dict[str, list[str]] = {}
        for lam, rows in self.outcomes.groupby("lam"):
            if missing := [name for name in names if name not in set(rows["attack"])]:
                found.setdefault(", ".join(missing), []).append(f"{lam:g}")
        return {missing: ", ".join(lams) for missing, lams in found.items()}

    def joined(self, earlier: Entry, outcomes: pd.DataFrame) -> "Covered":
        """Take in what an entry of the same model has besides.

        An attack that was run anew by another card, or after others, is as it is now alone.
        """
        now = {attack.name: attack for attack in self.attacks}
        kept = {a.name: a for a in earlier.attacks if now.get(a.name, a) == a}
        kept = {k: a for k, a in kept.items() if {*(a.after or ())} <= {*kept, *now}}
        rows = pd.concat([outcomes[outcomes["attack"].isin(list(kept))], self.outcomes])
        rows = rows.drop_duplicates([*_CELL, "example"], keep="last", ignore_index=True)[KEYS]
        # a flag stands unless all that raised it was run again
        again = set(_points(self.outcomes)) if kept.keys() <= now.keys() else set()
        flags = [
            flag
            for flag in earlier.flags or ()
            if flag.attack in ("", *kept) and not {(p.lam, p.width) for p in flag.points} <= again
        ]
        flags += [flag for flag in self.flags if not any(_says(old, flag) for old in flags)]
        costs = {
            (p.lam, p.width): [c for c in p.attack_costs or () if now.keys().isdisjoint(c.attacks)]
            for p in earlier.operating_points
        }
        commands = dict.fromkeys([*earlier.command.split(" && "), self.command])
        attacks = sorted((kept | now).values(), key=lambda attack: rank(attack.name))
        return Covered(rows, attacks, flags, " && ".join(commands), costs)


def earlier(folder: Path) -> tuple[Entry, pd.DataFrame] | None:
    """Return the entry of a run's folder and its outcomes; None where there are not both."""
    with suppress(UserError):  # damaged: it is written again
        record = records.read(folder)
        if (outcomes := record.outcomes()) is not None:
            return record.entry, outcomes
    return None


def differs(entry: Entry, about: Mapping[str, Any]) -> list[str]:
    """Say in which fields of what decides outcomes an entry differs."""
    different = [key for key in _SAME if getattr(entry, key) != about[key]]
    return [_SAME[key].format(getattr(entry, key)) for key in different]


def beyond(had: pd.DataFrame, has: pd.DataFrame) -> list[str]:
    """Say what outcomes have that others lack: operating points, attacks, examples."""
    points, attacks = set(_points(has)), set(has["attack"])
    counts, others = _sizes(had), _sizes(has)
    said: dict[str, list[float]] = {}
    for cell, n in counts.items():
        lam, width, attack = cell
        here, at = others.get(cell, 0), "" if width == 1 else f" at width {width:g}"
        if (lam, width) not in points:
            what = f"lambda{at}"
        elif attack not in attacks:
            what = attack
        elif n > here:
            what = f"{attack}{at} on {n} examples" if here else f"{attack}{at}"
        else:
            continue
        said.setdefault(what, []).append(lam)
    return [_listed(what, lams) for what, lams in said.items()]


def _says(flag: EntryFlag, other: EntryFlag) -> bool:
    same = (flag.name, flag.attack) == (other.name, other.attack)
    return same and all(point in flag.points for point in other.points)


def _sizes(outcomes: pd.DataFrame) -> dict[tuple[float, float, str], int]:
    sizes: dict[Any, int] = outcomes.groupby(_CELL).size().to_dict()
    return sizes


def _listed(what: str, lams: Sequence[float]) -> str:
    if not what.startswith("lambda"):
        return what
    values = ", ".join(f"{lam:g}" for lam in dict.fromkeys(lams))
    return what.replace("lambda", f"lambda {values}", 1)


def _points(outcomes: pd.DataFrame) -> list[Hashable]:
    return list(outcomes[_POINT].drop_duplicates().itertuples(index=False, name=None))
