"""The stages of an evaluation: the parts of attacks at operating points, and their passes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from torch import Tensor

from oat_bench.attacks.engines import Attack, chains
from oat_bench.attacks.passes import Passes
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation.subject import Subject

#: shares of images, where nothing is known: right, and attacked by all parts but the first
RIGHT, STANDING = 0.85, 0.5
_LEFT = 0.9  # of those that cheap attacks leave, what a costly one does


@dataclass(frozen=True)
class Stage:
    """A part of an attack at one operating point, on some images."""

    point: OperatingPoint
    part: Attack
    images: int
    each: Passes  # of an image that survives; none where it is attacked along with another's
    usual: float  # the share of the images that is attacked, where nothing is known
    along: tuple[str, ...] = ()  # attacks whose images are made along with these

    @property
    def kind(self) -> str:
        """The part, whatever the point."""
        label, own = " + ".join((self.part.label, *self.along)), self.part.chain[-1].name
        return label if self.part.part is None else f"{label}: {own}"

    def of(self, point: OperatingPoint, attack: Attack) -> bool:
        """Say whether it is a part of an attack at a point."""
        return self.point == point and self.part.label == attack.label

    @property
    def most(self) -> Passes:
        """The passes if every image is right and survives all parts before."""
        return self.each * self.images

    @property
    def expected(self) -> Passes:
        """The passes where nothing is known of the classifier."""
        return self.most * self.usual


def usual(part: Attack) -> float:
    """Return the share of images that a part attacks, where nothing is known."""
    return STANDING if part.part else RIGHT


def attacked(subject: Subject, attack: Attack, wanted: Tensor) -> Tensor:
    """Return the ids that an attack works on: those wanted, or all of the blocks that hold them."""
    return wanted if attack.per_example else subject.blocks.whole(wanted)


def of(
    subject: Subject, points: Sequence[OperatingPoint], attacks: Sequence[Attack]
) -> list[Stage]:
    """Return the stages of an evaluation."""
    # what is random passes through some of the networks that it may be
    model = subject.at(points[-1]).searched if subject.classifier.random else None
    whole = [attack for attack in attacks if attack.label not in subject.samples]
    found = []
    for chain in chains(whole):
        # attacked together, they take as many passes as the longest, and each is classified
        every = [part for place in chain for part in whole[place].parts()]
        longest = max((part.passes_on(model) for part in every), key=lambda one: one.total)
        for place in chain:
            attack = whole[place]
            n = len(attacked(subject, attack, subject.share(attack.card.name)))
            for part in attack.parts():
                each = Passes() if place != chain[0] else part.passes_on(model) + Passes(1)
                if len(chain) > 1 and place == chain[0]:
                    each = longest + Passes(len(chain))
                along = tuple(whole[other].label for other in chain if other != place)
                found.append((part, n, each, usual(part), along if place == chain[0] else ()))
    for attack in (one for one in attacks if one.label in subject.samples):
        n, share = _sampled(subject, attack)
        found += [(p, n, p.passes_on(model) + Passes(1), share, ()) for p in attack.parts()]
    return [Stage(point, *one) for point in points for one in found]


def _sampled(subject: Subject, attack: Attack) -> tuple[int, float]:
    """Return how many images at most an attack works on for its sample, and the usual share."""
    sample, n = subject.samples[attack.label], len(subject.ids)
    left = max(1, round(STANDING * n))
    first = sample.size(n, left)
    size = sample.size(n, left, first, round(_LEFT * first))
    if attack.per_example:
        return sample.most(n), size / sample.most(n)
    # blocks are attacked as a whole, those that hold the first that stand
    most, held = (len(subject.blocks.whole(subject.ids[:k])) for k in (n, ceil(size / STANDING)))
    return most, usual(attack) * held / most


def apart(subject: Subject, runs: Iterable[tuple[OperatingPoint, Attack, int]]) -> Iterator[Stage]:
    """Return the stages of attacks on so many images each, none along with another."""
    for point, attack, images in runs:
        model = subject.at(point).searched if subject.classifier.random else None
        for part in attack.parts():
            yield Stage(point, part, images, part.passes_on(model) + Passes(1), usual(part))


def by_kind(stages: Iterable[Stage]) -> dict[str, float]:
    """Add up what is expected of each part, for `oat_bench.progress`."""
    total = defaultdict[str, float](float)
    for stage in stages:
        total[stage.kind] += stage.expected.total
    return dict(total)
