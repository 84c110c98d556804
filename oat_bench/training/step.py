"""What a method brings to the training loop: its network, its losses, and where it is validated."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oat_bench.acceleration import Precision
from oat_bench.cards import Threat
from oat_bench.training.card import TrainingCard
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import Model


@dataclass(frozen=True)
class Setting:
    """How a run trains.

    Attributes:
        card: the recipe.
        threat: eps, norm and step size of the attack.
        seed: of everything random.
        device: where images and network are.
        precision: of the convolutions.
        compiled: whether it pays to compile.
    """

    card: TrainingCard
    threat: Threat
    seed: int
    device: torch.device
    precision: Precision
    compiled: bool


@dataclass(frozen=True)
class Batch:
    """The images of one optimiser step.

    Attributes:
        x: images of shape [n, C, H, W] in [0, 1], augmented, channels last.
        y: labels of shape [n].
        ids: their places in the training set, shape [n] in random order; they own random draws.
        number: of the step, counted from the start of training.
        seed: of random starts; of this step alone.
        budget: what an attack may do; eps grows while it warms up.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    number: int
    seed: int
    budget: Budget


class TrainingStep(ABC):
    """A network, and what is minimised on a batch. The loop optimises, averages, stores, selects.

    Attributes:
        network: trained in place; what the loop optimises and writes are its parameters and
            buffers.
        setting: how the run trains; there once `ready` was called.
    """

    network: nn.Module
    setting: Setting

    def ready(self, setting: Setting) -> None:
        """Make ready to train, on the device of the setting."""
        self.setting = setting

    def points(self) -> list[tuple[float, float]]:
        """Return the lambda and width of each classifier that is validated, by width and lambda."""
        return [(lam, 1.0) for lam in self.setting.card.lambdas]

    @abstractmethod
    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield scalars whose sum is minimised, the network in train mode.

        Gradients of one are computed before the next is asked for, so that memory stays that of
        one.
        """

    def classifier(self, network: nn.Module, lam: float, width: float, n: int) -> Model:
        """Return what maps n images to logits at a point, the network in eval mode.

        Args:
            network: of this step, or its moving average.
            lam: one of `points`.
            width: likewise.
            n: how many images each call will bring.
        """
        return network

    def operations(self, image: Tensor) -> float:
        """Return the operations of one forward pass of an image [1, C, H, W]; 0 if not known."""
        return 0.0
