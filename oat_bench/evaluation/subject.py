"""What is evaluated: a classifier and examples, and that classifier at one operating point."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from oat_bench import acceleration
from oat_bench.acceleration import Precision
from oat_bench.attacks.engines import Attack, together
from oat_bench.attacks.selection import RANDOM_SUITE
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.datasets.splits import nested_order
from oat_bench.errors import UserError
from oat_bench.evaluation.sharing import Executor
from oat_bench.evaluation.survivors import Sample
from oat_bench.networks.drawn import DRAWS, Drawn, RandomNetwork, steady
from oat_bench.results.outcomes import OutcomeStore

_FIRST, _LARGEST = 128, 256


class Blocks:
    """The partition of a data set, by its labels [n], that attacks of other libraries work through.

    As the batch decides their outcomes, they see the first 128 examples of the nested order, the
    next 128, then 256 each; smaller batches take as long.
    """

    def __init__(self, labels: Tensor) -> None:
        self._order = nested_order(labels)
        places = torch.arange(len(labels))
        number = torch.where(places < _LARGEST, places // _FIRST, 1 + places // _LARGEST)
        self._number = torch.empty(len(labels), dtype=torch.int64)
        self._number[self._order] = number

    def whole(self, examples: Tensor) -> Tensor:
        """Return all examples of the blocks that hold some of ``examples``, in nested order."""
        held = torch.isin(self._number, self._number[examples])
        return self._order[held[self._order]]

    def split(self, examples: Tensor) -> list[Tensor]:
        """Split examples into those of each block; they keep their order."""
        numbers = self._number[examples]
        return [examples[numbers == number] for number in torch.unique(numbers)]


@dataclass(frozen=True)
class Subject:
    """A classifier on the device of the data, examples, and where outcomes go."""

    classifier: TunableClassifier
    data: Split  # the test split; an example's id is its place there
    data_fingerprint: str
    examples: Tensor | None = None  # ids to evaluate; all if None
    fewer: Mapping[str, int] = field(default_factory=dict)  # the first n, for attacks by name
    store: OutcomeStore = field(default_factory=lambda: OutcomeStore(None))
    batch_size: int | None = None  # of in-house attacks; what fills the device if None
    gradients: Precision = "float32"  # of attacks; predictions are float32
    compile_it: bool | None = None  # None: where it pays
    seed: int = 0  # of what a random classifier draws
    samples: Mapping[str, Sample] = field(default_factory=dict)  # of survivors, by attacks' labels
    executor: Executor | None = None  # shares the work out; None: this process does all of it
    passes: float | None = None  # of all that this is a part of; they decide on compiling

    @cached_property
    def ids(self) -> Tensor:
        """The ids to evaluate, on the CPU."""
        return torch.arange(len(self.data)) if self.examples is None else self.examples.cpu()

    def check(self, attacks: Iterable[Attack]) -> None:
        """Refuse attacks that would take a random classifier for what it is not."""
        for attack in attacks if self.classifier.random else ():
            if not attack.card.fits_random:
                raise UserError(
                    f"attack {attack.card.name!r} is not on the expectation, and a model of method "
                    f"{self.classifier.info.method!r} is random; use {' or '.join(RANDOM_SUITE)}"
                )

    def share(self, name: str) -> Tensor:
        """Return the ids that an attack gets, by its card's name."""
        return self.ids[: self.fewer.get(name, len(self.ids))]

    @cached_property
    def blocks(self) -> Blocks:
        """What attacks of other libraries see at a time."""
        return Blocks(self.data.labels)

    @cached_property
    def fingerprints(self) -> tuple[str, str, str]:
        """Of the classifier, the data, and the precision of attacks."""
        return self.classifier.fingerprint(), self.data_fingerprint, self.gradients

    def at(self, point: OperatingPoint, passes: float = 0.0) -> "AtPoint":
        """Return the classifier at an operating point; about so many passes decide on compiling."""
        return AtPoint(self, point, passes if self.passes is None else self.passes)


class AtPoint:
    """A subject at one point, its networks built where needed; all is on the data's device."""

    def __init__(self, subject: Subject, point: OperatingPoint, passes: float) -> None:
        self.subject, self.point, self._passes = subject, point, passes
        self.data, self.device = subject.data, subject.data.labels.device
        self._clean = torch.full_like(self.data.labels, -1)

    def __str__(self) -> str:
        width = f", width {self.point.width:g}" if self.point.width != 1 else ""
        return f"lambda {self.point.lam:g}{width}"

    @cached_property
    def _plain(self) -> nn.Module:
        return self.subject.classifier.at(self.point.lam, self.point.width)

    @cached_property
    def _operations(self) -> float:
        return acceleration.operations_per_image(self._plain, self.data.inputs(slice(1)))

    @cached_property
    def batch_size(self) -> int:
        """How many examples an in-house attack sees at a time."""
        if self.subject.batch_size:
            return self.subject.batch_size
        # a step of an attack on an expectation passes an image through several draws at once
        draws = 8 if isinstance(self._plain, RandomNetwork) else 1
        return acceleration.choose_batch_size(self.device, draws * self._operations)

    def _accelerated(self, precision: Precision) -> nn.Module:
        if isinstance(self._plain, RandomNetwork):
            return acceleration.AcceleratedDraws(self._plain, precision=precision)
        compile_it = self.subject.compile_it
        if compile_it is None:
            work = self._operations * self._passes
            compile_it = acceleration.choose_compile(None, self.device, work)
        return acceleration.Accelerated(self._plain, precision=precision, compile_it=compile_it)

    @cached_property
    def exact(self) -> nn.Module:
        """What attacks see in float32, and what predicts but where the classifier is a file."""
        return self._accelerated("float32")

    @cached_property
    def searched(self) -> nn.Module:
        """What attacks see."""
        gradients = self.subject.gradients
        return self.exact if gradients == "float32" else self._accelerated(gradients)

    @cached_property
    def _deployed(self) -> nn.Module | None:
        return self.subject.classifier.deployed(self.point.lam, self.point.width)

    @cached_property
    def drawn(self) -> Drawn | None:
        """The draws that answer, where the classifier is random here."""
        if not self.subject.classifier.random or not isinstance(self.exact, RandomNetwork):
            return None
        return self.exact.draws(DRAWS, self.subject.seed)

    @cached_property
    def steady(self) -> nn.Module:
        """What answers alike each time: `exact`, of a random classifier the mean of its draws."""
        return steady(self.exact, self.subject.seed)

    @property
    def rules(self) -> tuple[str, ...]:
        """Say what else decides who answers."""
        return () if self.drawn is None else (f"one of {DRAWS} draws, seed {self.subject.seed}",)

    def answers(self, x: Tensor, ids: Tensor, seed: int | None = None) -> Tensor:
        """Return logits of images; of a random classifier by the draw that each id owns."""
        if self.drawn is None:
            return self.exact(x)  # type: ignore[no-any-return]
        return self.drawn.answer(x, ids, self.subject.seed if seed is None else seed)

    @torch.no_grad()
    def predict(self, x: Tensor, ids: Tensor) -> Tensor:
        """Classify images of examples; by the file itself, where the classifier is one."""
        logits = self.answers(x, ids)
        if self._deployed is not None and len(x):
            from oat_bench.deployment.description import check_alike

            own = self._deployed(x)
            check_alike(own, logits)
            logits = own
        return logits.argmax(1)

    def clean(self, ids: Tensor) -> Tensor:
        """Predict clean images; each only once."""
        lacking = ids[self._clean[ids] < 0]
        for index in torch.split(lacking, self.batch_size) if len(lacking) else ():
            self._clean[index] = self.predict(self.data.inputs(index), index)
        return self._clean[ids]

    def right(self, ids: Tensor) -> Tensor:
        """Say which clean images are right: bool, shape [n]."""
        return self.clean(ids) == self.data.labels[ids]

    def batches(self, attack: Attack, ids: Tensor) -> Sequence[Tensor]:
        """Split ids into what an attack sees at a time."""
        if not attack.per_example:
            return self.subject.blocks.split(ids)
        return torch.split(ids, self.batch_size) if len(ids) else ()

    @torch.no_grad()
    def craft(self, attacks: Sequence[Attack], ids: Tensor) -> list[Tensor]:
        """Attack images by one attack, or by several of one `Attack.start`."""
        x = self.data.inputs(ids)
        aim = attacks[0].aim(self.exact, x, self.data.labels[ids], ids)
        with torch.enable_grad():
            found = together(attacks, self.searched, x, aim, ids)
        if self.searched is not self.exact and self.drawn is None:
            # an attack that took for broken what only rounding broke has not searched to its end
            unsure = torch.stack([self._unsure(attacks[0], x_adv, aim) for x_adv in found])
            for chosen, places in alike(unsure):
                again = (part[places] for part in (x, aim, ids))
                with torch.enable_grad():
                    exact = together([attacks[k] for k in chosen], self.exact, *again)
                for k, x_adv in zip(chosen, exact, strict=True):
                    found[k][places] = x_adv
        return found

    def _unsure(self, attack: Attack, x_adv: Tensor, aim: Tensor) -> Tensor:
        stands = attack.stands(self.exact(x_adv).argmax(1), aim)
        return stands & ~attack.stands(self.searched(x_adv).argmax(1), aim)

    def attacked(self, attack: Attack, ids: Tensor, x_adv: Tensor) -> Tensor:
        """Predict attacked images; of those that missed a target, return the label."""
        predicted, labels = self.predict(x_adv, ids), self.data.labels[ids]
        if attack.targeted:
            aim = attack.aim(self.exact, self.data.inputs(ids), labels, ids)
            predicted = torch.where(attack.stands(predicted, aim), labels, predicted)
        return predicted


def alike(wanted: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """Group the columns of bool [k, n] that are alike: the rows that are true, and their places."""
    kinds, which = torch.unique(wanted.cpu(), dim=1, return_inverse=True)
    for number, kind in enumerate(kinds.T):
        if kind.any():
            yield kind.nonzero()[:, 0].tolist(), (which == number).nonzero()[:, 0]
