"""What a method brings to the training loop: its network, its losses, and where it is validated."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from oat_bench.acceleration import Precision
from oat_bench.cards import Threat
from oat_bench.training.card import TrainingCard
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import Model


@dataclass(frozen=True)
class Setting:
    """How a run trains."""

    card: TrainingCard  #: the recipe
    threat: Threat  #: eps, norm and step size of the attack
    seed: int  #: of everything random
    device: torch.device  #: where images and network are
    precision: Precision  #: of the convolutions
    compiled: bool  #: whether it pays to compile


@dataclass(frozen=True)
class Batch:
    """The images of one optimiser step, or those of it that fit into memory at once."""

    x: Tensor  #: images of shape [n, C, H, W] in [0, 1], augmented, channels last
    y: Tensor  #: labels of shape [n]
    ids: Tensor  #: places in the training set, shape [n] in random order; they own random draws
    step_ids: Tensor  #: those of the whole step, of which this may be a part
    place: slice  #: where in the step this part is: every k-th image from one of the first k on
    number: int  #: of the step, counted from the start of training
    seed: int  #: of random starts; of this step alone
    budget: Budget  #: what an attack may do; eps grows while it warms up
    #: where in the step all are that share batch norm, those of other ranks too
    part: slice = field(default_factory=lambda: slice(None))

    @property
    def share(self) -> slice:
        """Where in the part these images are."""
        if self.place == self.part:
            return slice(None)
        parts = self.part.step or 1
        return slice(self.place.start // parts, None, self.place.step // parts)


class TrainingStep(ABC):
    """A network, and what is minimised on a batch; the loop optimises, averages and selects."""

    network: nn.Module  #: trained in place; the loop optimises and writes its whole state
    setting: Setting  #: how the run trains; there once `ready` was called

    def ready(self, setting: Setting) -> None:
        """Make ready to train, on the device of the setting; again for another one."""
        self.setting = setting

    def points(self) -> list[tuple[float, float]]:
        """Return the lambda and width of each classifier that is validated, by width and lambda."""
        return [(lam, 1.0) for lam in self.setting.card.lambdas]

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield scalars whose sum is minimised, in train mode; one at a time, to save memory."""

    def classifier(self, network: nn.Module, lam: float, width: float, n: int) -> Model:
        """Return what maps n images to logits at one of `points`; ``network`` may be an average."""
        return network

    def operations(self, image: Tensor) -> float:
        """Return the operations of one forward pass of an image [1, C, H, W]; 0 if not known."""
        return 0.0
