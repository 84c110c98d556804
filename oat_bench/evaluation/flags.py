"""What an evaluation doubts of its own numbers, by its outcomes and a few more passes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from oat_bench.attacks.card import GRADIENT_FREE
from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import integrity, probes
from oat_bench.evaluation.examination import before_square, under_all, variant
from oat_bench.evaluation.grid import outcomes as outcomes_of
from oat_bench.evaluation.subject import Subject
from oat_bench.files import sha256
from oat_bench.results.checks import Check
from oat_bench.results.outcomes import RETRIED_NAME
from oat_bench.statistics.accuracy import clean_right, robust_right

PROBED = 100  # images of which two passes are compared, and gradients looked at
RETRIED = 200  # images that stood and are attacked once more, at most
SHARE = 0.1  # what that may cost, of the passes that the evaluation made

Frames = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Doubt:
    """A check of an evaluation at one operating point, whatever its verdict."""

    point: OperatingPoint
    attack: str  # empty where the check is of the network
    check: Check

    @property
    def raised(self) -> bool:
        """Whether it is to be said; that nothing is right is no doubt of the attacks."""
        return self.check.verdict != "pass" and self.check.numbers.get("n") != 0


def doubts(subject: Subject, outcomes: pd.DataFrame, attacks: Sequence[Attack]) -> list[Doubt]:
    """Check what `oat_bench.evaluation.grid.evaluate` returned of a subject and attacks."""
    subject = replace(subject, compile_it=False)
    balls: dict[tuple[str, float], list[Attack]] = {}
    for attack in attacks:
        balls.setdefault((attack.threat.norm, attack.threat.eps), []).append(attack)
    found = []
    for _, rows in outcomes.groupby(["width", "lam"], sort=False):
        point = OperatingPoint(float(rows["lam"].iloc[0]), float(rows["width"].iloc[0]))
        rows = rows.set_index("example")
        seen = {attack.label: rows[rows["attack"] == attack.label] for attack in attacks}
        found += [Doubt(point, "", check) for check in _network(subject, point)]
        for alike in balls.values():
            own = {attack.label: _with_fallen(subject, attack.label, seen) for attack in alike}
            checks = _compared(subject, point, own, alike, seen)
            retried = _retry(subject, point, own, alike, seen)
            found += [Doubt(point, name, check) for name, check in (*checks, *retried)]
    return found


def _with_fallen(subject: Subject, label: str, seen: Frames) -> pd.DataFrame:
    """Return the outcomes of an attack; of one on survivors as of some of all examples.

    Of those up to the last that it saw: what fell before counts as broken by it.
    """
    own = seen[label]
    if label not in subject.samples:
        return own
    before = pd.concat([own, *(seen[name] for name in subject.samples[label].after)])
    fell = before[~robust_right(before)]
    fallen = fell[~fell.index.duplicated() & ~fell.index.isin(own.index)]
    ids = pd.Index(subject.ids.numpy())
    if len(own) + len(fallen) < len(ids):
        ids = ids[: ids.get_indexer(own.index).max() + 1]
    return pd.concat([own, fallen[fallen.index.isin(ids)]])


def _network(subject: Subject, point: OperatingPoint) -> list[Check]:
    examples = subject.ids[:PROBED]
    model, data, _ = subject.fingerprints
    # the number is of the checks
    at = subject.at(point)
    fingerprint = sha256("1", model, data, repr(point), repr(examples.tolist()), *at.rules)
    name = f"network-lambda{point.lam:g}-{fingerprint[:16]}"
    return subject.store.checks(name, lambda: [*probes.outputs(at, examples)])


def _iterates(attack: Attack) -> bool:
    """Whether an attack is one that climbs by gradients, in steps, and not several attacks."""
    steps = [attack.parameters.get(name, 1) for name in ("steps", "max_iter")]
    several = any(isinstance(value, int) and value > 1 for value in steps)
    return several and not _is_free(attack) and len(attack.chain) == 1


def _is_free(attack: Attack) -> bool:
    return attack.class_ in GRADIENT_FREE.get(attack.card.engine, ()) and len(attack.chain) == 1


def _ids(rows: pd.DataFrame | pd.Series) -> Tensor:
    return torch.tensor(rows.index.to_numpy(), dtype=torch.int64)


def _compared(
    subject: Subject,
    point: OperatingPoint,
    frames: Frames,
    attacks: Sequence[Attack],
    seen: Frames,
) -> Iterator[tuple[str, Check]]:
    # attacks in steps against the strongest, and those without gradients against others
    stands = {name: robust_right(frame) for name, frame in frames.items()}
    for name in (attack.label for attack in attacks if _iterates(attack)):
        others = {other: series for other, series in stands.items() if other != name}
        yield name, integrity.estimate(name, stands[name], others)
    free, gradient = {}, []
    for attack in attacks:
        own = stands[attack.label]
        left = before_square(subject, point, attack, _ids(seen[attack.label]))
        if left is not None:
            left = left.reindex(own.index, fill_value=False)  # what fell before does not stand
            free[f"Square in {attack.label}"] = ~left | own[left.index]
        if _is_free(attack):
            free[attack.label] = own
        else:
            gradient.append(own if left is None else left)
    for name, series in free.items() if gradient else ():
        left = under_all(gradient, _ids(series))
        yield name, integrity.gradient_free(name, "", series, left)


def _retry(
    subject: Subject,
    point: OperatingPoint,
    frames: Frames,
    attacks: Sequence[Attack],
    seen: Frames,
) -> Iterator[tuple[str, Check]]:
    bases = [attack for attack in attacks if attack.per_example and _iterates(attack)]
    if not bases:
        return
    base = max(bases, key=lambda one: one.parameters["steps"] * one.parameters.get("restarts", 1))
    # some of what stood is attacked with twice the steps, from another start, without restarts
    longer = {"steps": 2 * base.parameters["steps"]}
    longer |= {"restarts": 1} if "restarts" in base.card.parameters else {}
    attack = variant(base, f"{base.label[:40]}{RETRIED_NAME}", longer, next_seed=1)
    spent = 0.0
    for one in (one for one in attacks if _iterates(one) or len(one.chain) > 1):
        frame = seen[one.label]
        # what leaves alone what is broken took all passes only where an image stands to the end
        whole = clean_right(frame) if one.card.engine == "oat_bench" else robust_right(frame)
        spent += one.passes.total * int(whole.sum())
    left = under_all([robust_right(f) for f in frames.values()], _ids(frames[base.label]))
    chosen = _ids(left[left])[: min(RETRIED, int(SHARE * spent / attack.passes.total))]
    if len(chosen):
        stands = robust_right(outcomes_of(subject, point, attack, chosen))
        words = f"{base.label} with {attack.parameters['steps']} steps from another start"
        yield base.label, integrity.retry(words, int((~stands).sum()), len(stands))
