"""What an evaluation doubts of its own numbers.

Most of it is read from outcomes that are there anyway. What is computed on top is bounded, at each
operating point: two passes and two gradients of `PROBED` images, and a longer attack on at most
`RETRIED` images that stood, which makes at most `SHARE` of the passes that the evaluation itself
made. All of it is kept in the store.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from oat_bench.attacks.engines import Attack, prepare
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import integrity, probes
from oat_bench.evaluation.examination import Subject, before_square, under_all
from oat_bench.evaluation.integrity import Check
from oat_bench.files import sha256
from oat_bench.results.outcomes import RETRIED_NAME
from oat_bench.statistics.accuracy import clean_right, robust_right

#: images of which two passes are compared, and gradients looked at
PROBED = 100
#: images that stood and are attacked once more, at most
RETRIED = 200
#: what that may cost, of the passes that the evaluation made
SHARE = 0.1
#: classes of attacks that take no gradient of the model, by engine
GRADIENT_FREE = {
    "oat_bench": {"Noise"},
    "torchattacks": {"GN", "OnePixel", "Pixle", "SPSA", "Square"},
    "art": {
        *("BoundaryAttack", "GeoDA", "HopSkipJump", "PixelAttack", "SignOPTAttack", "SimBA"),
        *("SpatialTransformation", "SquareAttack", "ThresholdAttack", "ZooAttack"),
    },
}

Stands = Mapping[str, "pd.Series[bool]"]


@dataclass(frozen=True)
class Doubt:
    """A check of an evaluation at one operating point, whatever its verdict.

    Attributes:
        point: the operating point.
        attack: that the check is of; empty where it is of the network.
        check: what was found.
    """

    point: OperatingPoint
    attack: str
    check: Check

    @property
    def raised(self) -> bool:
        """Whether it is to be said; that nothing is right is no doubt of the attacks."""
        return self.check.verdict != "pass" and self.check.numbers.get("n") != 0


def doubts(subject: Subject, outcomes: pd.DataFrame, attacks: Sequence[Attack]) -> list[Doubt]:
    """Check an evaluation.

    Args:
        subject: the classifier, the examples that were evaluated, and the store of the outcomes.
        outcomes: as returned by `oat_bench.evaluation.grid.evaluate`.
        attacks: that made them.
    """
    found = []
    for _, rows in outcomes.groupby(["width", "lam"], sort=False):
        point = OperatingPoint(float(rows["lam"].iloc[0]), float(rows["width"].iloc[0]))
        frames = {
            str(name): part.set_index("example")
            for name, part in rows.groupby("attack", sort=False)
        }
        found += [Doubt(point, "", check) for check in _network(subject, point)]
        found += [
            Doubt(point, name, check) for name, check in _outcomes(subject, point, frames, attacks)
        ]
    return found


def _network(subject: Subject, point: OperatingPoint) -> list[Check]:
    """Check gradients and outputs, once for all."""
    examples = subject.examples[:PROBED]
    fingerprint = sha256(
        "1",  # of the checks
        subject.classifier.fingerprint(),
        subject.data_fingerprint,
        repr(point),
        repr(examples.tolist()),
    )

    def compute() -> list[Check]:
        return [*probes.outputs(*subject.model(point), subject.data, examples)]

    return subject.store.checks(f"network-lambda{point.lam:g}-{fingerprint[:16]}", compute)


def _outcomes(
    subject: Subject,
    point: OperatingPoint,
    frames: Mapping[str, pd.DataFrame],
    attacks: Sequence[Attack],
) -> Iterator[tuple[str, Check]]:
    """Check outcomes of attacks in the same ball against each other, by the attack."""
    stands = {name: robust_right(frame) for name, frame in frames.items()}
    balls: dict[tuple[str, float], list[Attack]] = {}
    for attack in attacks:
        balls.setdefault((attack.threat.norm, attack.threat.eps), []).append(attack)
    for alike in balls.values():
        for attack in alike:
            if _iterates(attack):
                name = attack.label
                others = {a.label: stands[a.label] for a in alike if a is not attack}
                yield name, integrity.estimate(name, stands[name], others)
        yield from _gradient_free(subject, point, stands, alike)
        yield from _retry(subject, point, frames, alike)


def _iterates(attack: Attack) -> bool:
    """Whether an attack is one that climbs by gradients, in steps, and not several attacks."""
    steps = [attack.parameters.get(name, 1) for name in ("steps", "max_iter")]
    several = any(isinstance(value, int) and value > 1 for value in steps)
    return several and not _is_free(attack) and len(attack.chain) == 1


def _is_free(attack: Attack) -> bool:
    return attack.class_ in GRADIENT_FREE.get(attack.card.engine, ()) and len(attack.chain) == 1


def _gradient_free(
    subject: Subject, point: OperatingPoint, stands: Stands, attacks: Sequence[Attack]
) -> Iterator[tuple[str, Check]]:
    """Check that attacks without gradients break no more than those by gradients."""
    free, gradient = {}, []
    for attack in attacks:
        name = attack.label
        before = before_square(attack)
        if _is_free(attack):
            free[name] = stands[name]
        elif before is None:
            gradient.append(stands[name])
        else:
            # read, not run: the outcomes of the parts lie in cells of their own
            examples = torch.as_tensor(stands[name].index.to_numpy().copy())
            left = robust_right(subject.outcomes(point, before, examples))
            gradient.append(left)
            free[f"Square in {name}"] = ~left | stands[name][left.index]
    for name, series in free.items() if gradient else ():
        examples = torch.as_tensor(series.index.to_numpy().copy())
        yield name, integrity.gradient_free(name, "", series, under_all(gradient, examples))


def _retry(
    subject: Subject,
    point: OperatingPoint,
    frames: Mapping[str, pd.DataFrame],
    attacks: Sequence[Attack],
) -> Iterator[tuple[str, Check]]:
    """Attack some of what stood with twice the steps, from another start."""
    bases = [attack for attack in attacks if attack.per_example and _iterates(attack)]
    if not bases:
        return
    base = max(bases, key=_steps)
    attack = _longer(base)
    spent = 0.0
    for one in (one for one in attacks if _iterates(one) or len(one.chain) > 1):
        frame = frames[one.label]
        # what another library attacks in parts took all passes only where it stands to the end
        whole = clean_right(frame) if one.per_example else robust_right(frame)
        spent += one.passes * int(whole.sum())
    examples = torch.as_tensor(frames[base.label].index.to_numpy().copy())
    left = under_all([robust_right(frames[one.label]) for one in attacks], examples)
    n = min(RETRIED, int(SHARE * spent / attack.passes))
    chosen = torch.as_tensor(left.index[left].to_numpy().copy())[:n]
    if not len(chosen):
        return
    stands = robust_right(subject.outcomes(point, attack, chosen))
    words = f"{base.label} with {attack.parameters['steps']} steps from another start"
    yield base.label, integrity.retry(words, int((~stands).sum()), len(stands))


def _steps(attack: Attack) -> int:
    return int(attack.parameters["steps"] * attack.parameters.get("restarts", 1))


def _longer(attack: Attack) -> Attack:
    """Return an attack with twice the steps and another seed, without its restarts."""
    changes: dict[str, Any] = {"steps": 2 * attack.parameters["steps"]}
    if "restarts" in attack.card.parameters:
        changes["restarts"] = 1
    name = f"{attack.label[:40]}{RETRIED_NAME}"
    parameters = attack.card.parameters | changes
    card = attack.card.model_copy(update={"name": name, "parameters": parameters})
    return prepare(card, attack.threat, n_classes=attack.n_classes, seed=attack.seed + 1)
