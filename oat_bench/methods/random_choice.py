"""A random choice of two classifiers at each query, lambda the chance of the robust one."""

import torch
from torch import Tensor, nn

from oat_bench.classifier import OperatingPoint
from oat_bench.methods.parts import TwoEnds
from oat_bench.networks.drawn import Drawn, RandomNetwork


class Choice(RandomNetwork):
    """One of two classifiers for each image; accuracy is (1 - chance) A_0 + chance A_1 by chance.

    The exact attack on it climbs (1 - chance) L(standard) + chance L(robust), in two passes.
    """

    chance: Tensor

    def __init__(self, standard: nn.Module, robust: nn.Module, chance: float) -> None:
        super().__init__()
        self.standard, self.robust = standard, robust
        self.register_buffer("chance", torch.tensor(chance))

    def draws(self, count: int, seed: int) -> Drawn:
        """Return both, or the one that has every chance."""
        both = [(self.standard, 1 - self.chance), (self.robust, self.chance)]
        networks, chances = zip(*(one for one in both if one[1] > 0), strict=True)
        return Drawn(networks, torch.stack(chances))


class RandomChoice(TwoEnds):
    """At each query one of two classifiers by a coin for each image, lambda the robust one's."""

    random = True

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the choice in which the robust classifier has the chance ``lam``."""
        point = OperatingPoint(lam, width)
        return Choice(*self.both(point.width), point.lam).to(self.device).eval()
