"""What a store holds of a model: of what is asked for, and besides."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.attacks.selection import rank
from oat_bench.cards import Threat, names
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import nested_order
from oat_bench.evaluation import grid, stages
from oat_bench.evaluation.cells import Cell, stored_name
from oat_bench.evaluation.stages import Stage
from oat_bench.evaluation.subject import AtPoint, Subject
from oat_bench.statistics.accuracy import robust_right

_CHANCE = "noise"  # what `integrity` holds attacks against; no report is of it


def widened(
    subject: Subject, points: Sequence[OperatingPoint], attacks: Sequence[Attack], threat: Threat
) -> tuple[Subject, dict[OperatingPoint, list[Attack]]]:
    """Return a subject of as many examples as the store has of all that is asked for.

    And what it has of so many at each operating point: attacks asked for, and others that ship.
    What it has of fewer, of a run that was killed, is left out.
    """
    order, asked = nested_order(subject.data.labels), {point: [*attacks] for point in points}
    drawn = {*subject.samples, *subject.fewer}
    reached = [
        _reach(subject.at(point), attack, order)[0]
        for point in points
        for attack in attacks
        # of others it has whole blocks, whatever was asked for
        if attack.per_example and drawn.isdisjoint((attack.label, attack.card.name))
    ]
    larger = replace(subject, examples=order[: min(reached, default=0)])
    if len(larger.ids) > len(subject.ids) and all(
        _has(larger.at(point), attack, attacks) for point in points for attack in attacks
    ):
        subject = larger
    for point, attack in _besides(subject, attacks, threat):
        some = asked.setdefault(point, [])
        new = attack.label not in {one.label for one in some}
        if new and _has(subject.at(point), attack, attacks):
            some.append(attack)
    return subject, {
        point: sorted(some, key=lambda one: rank(one.label))
        for point, some in asked.items()
        if some
    }


def _besides(
    subject: Subject, attacks: Sequence[Attack], threat: Threat
) -> Iterator[tuple[OperatingPoint, Attack]]:
    """Return what the store has anything of: by the attacks asked for, or by cards that ship."""
    known = {attack.label: attack for attack in attacks}
    for name, info in subject.store.cells():
        if (info.model, info.data, info.gradients) != subject.fingerprints or info.part > 1:
            continue
        point, own = OperatingPoint(info.lam, info.width), _shipped(subject, info, threat)
        attack = known.get(info.attack, own)
        # the name has all that decides outcomes
        if attack and name == stored_name(subject.at(point), attack.parts()[0]):
            yield point, attack


def _shipped(subject: Subject, info: CellInfo, threat: Threat) -> Attack | None:
    if info.attack == _CHANCE or info.attack not in names("attacks"):
        return None
    card, n_classes = attack_card(info.attack), subject.classifier.info.num_classes
    if card.fingerprint() != info.card:
        return None
    return prepare(card, threat, n_classes=n_classes, seed=info.seed)


def left(
    subject: Subject, points: Sequence[OperatingPoint], attacks: Sequence[Attack]
) -> Iterator[Stage]:
    """Return the stages of an evaluation that the store lacks, on as many images as it lacks."""
    for point in points:
        lacking = {a.label: _lacking(subject.at(point), a, attacks) for a in attacks}
        some = [attack for attack in attacks if any(lacking[attack.label])]
        for stage in stages.of(subject, [point], some):
            part = stage.part.part or 0
            together = [lacking[name] for name in (stage.part.label, *stage.along)]
            images = max(counts[part] for counts in together if part < len(counts))
            if images:
                yield replace(stage, images=min(images, stage.images))


def _has(at: AtPoint, attack: Attack, attacks: Sequence[Attack]) -> bool:
    return not any(_lacking(at, attack, attacks))


def _lacking(at: AtPoint, attack: Attack, attacks: Sequence[Attack]) -> list[int]:
    """Return of how many images each part of an attack is not there; at most, of all parts."""
    subject, ids, counts = at.subject, at.subject.share(attack.card.name), list[int]()
    if (sample := subject.samples.get(attack.label)) is not None:
        standing = grid.left_standing(at, attack, attacks)
        if standing is None:
            return [len(subject.data)] * len(attack.parts())
        reach, left = _reach(at, attack, standing)
        # of a sample that grows as many as there are may be enough
        grown = sample.size(len(subject.ids), len(standing), reach, left)
        ids = standing[: reach if grown == reach else sample.most(len(standing))]
    ids = stages.attacked(subject, attack, ids)
    for number in range(1, 1 + len(attack.parts())):
        cell = Cell(at, attack, number)
        may_stand = cell.lacks(ids)
        counts.append(int(may_stand.sum()))
        known = ids[~may_stand]
        may_stand[~may_stand.clone()] = _right(cell, known)
        ids = ids[may_stand]
    return counts


def _reach(at: AtPoint, attack: Attack, ids: Tensor) -> tuple[int, int]:
    """Return of how many of the first of ids the store has all, and how many of them stand."""
    left, reach = torch.arange(len(ids)), len(ids)
    for number in range(1, 1 + len(attack.parts())):
        cell = Cell(at, attack, number)
        reach = min([reach, *left[cell.lacks(ids[left])].tolist()])
        left = left[left < reach]
        left = left[_right(cell, ids[left])]
    return reach, len(left)


def _right(cell: Cell, ids: Tensor) -> Tensor:
    return torch.tensor(robust_right(cell.rows(ids)).to_numpy(), dtype=torch.bool)
