"""Why the accuracies of an entry are not to be trusted, if there is a reason."""

import json
from typing import NamedTuple

from oat_bench.attacks.card import attack_card, averages
from oat_bench.files import read_bounded
from oat_bench.results.checks import Verdict
from oat_bench.results.entries import EntryAttack
from oat_bench.results.records import Record
from oat_bench.run_folder import INTEGRITY
from oat_bench.statistics.accuracy import WORST

_MAX_BYTES = 1 << 26
_VERDICTS: dict[str, Verdict] = {"pass": "pass", "warn": "warn", "fail": "fail"}


class Examined(NamedTuple):
    """The worst verdict of a report of attack integrity, of which model, and what failed."""

    verdict: Verdict
    model: str
    failed: frozenset[str]


def integrity_of(record: Record) -> Examined | None:
    """Return what the report of attack integrity beside says; None without a readable one."""
    try:  # few keys, so that a report of a later version counts too
        report = json.loads(read_bounded(record.beside(INTEGRITY), _MAX_BYTES, "a report"))
        failed = frozenset(
            str(check["name"])
            for key in ("operating_points", "dials")
            for table in report.get(key, ())
            for check in table["checks"]
            if check["verdict"] == "fail"
        )
        return Examined(_VERDICTS[report["verdict"]], str(report["model_fingerprint"]), failed)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def verdict_of(record: Record) -> Verdict | None:
    """Return the verdict on the attacks of this very model; None if it was not examined."""
    found = integrity_of(record)
    if found is None:
        return record.entry.integrity
    return found.verdict if found.model == record.entry.model_fingerprint else None


def on_expectation(attack: EntryAttack) -> bool:
    """Whether it is an expectation over transformation (Athalye et al., arXiv:1707.07397)."""
    return any(averages(one.class_, one.parameters) for one in attack.chain())


def departs(attack: EntryAttack) -> str | None:
    """Say where an attack called autoattack is not what its authors define; None: it is."""
    parts = {part.name: part.parameters for part in attack.parts}
    standard = attack_card("autoattack").parts
    if not parts:
        return f"class {attack.class_} of {attack.engine} makes 10 iterations, the standard is 100"
    if list(parts) != [part.name for part in standard]:
        return f"it is {', '.join(parts)}; the standard is {', '.join(p.name for p in standard)}"
    for part in standard:
        for key, expected in part.parameters.items():
            stated = parts[part.name].get(key)
            # what the card leaves to the model may differ
            if not str(expected).startswith("$") and stated != expected:
                return f"{part.name} has {key} {stated}; the standard is {expected}"
    return None


def doubts(record: Record, attack: str) -> list[str]:
    """Return the reasons not to trust an entry's RA under an attack; none if there is none."""
    entry = record.entry
    found = ["its entry says so"] if entry.unreliable else []
    names = record.worst_over() if attack == WORST else [attack]
    named = [one for one in entry.attacks if one.name in names]
    examined = integrity_of(record)
    # where only PGD failed, as an estimate, stronger attacks are to be trusted
    estimate = examined is not None and examined.failed == {"estimate"}
    settled = estimate and any(one.parts or one.class_ == "AutoAttack" for one in named)
    if verdict_of(record) == "fail" and not settled:
        found.append("attack integrity failed")
    standard = [one for one in entry.attacks if one.name == attack == "autoattack"]
    found += [f"no standard AutoAttack: {why}" for one in standard if (why := departs(one))]
    if entry.randomized and not any(map(on_expectation, named)):
        found.append("random, and not attacked on the expectation")
    return found
