"""Any plain network: one classifier, without a dial."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.errors import UserError

#: what the one classifier is entered under; it says nothing of how the network was trained
LAMBDA = 1.0


class Fixed(TunableClassifier):
    """A plain network in eval mode, such as one of RobustBench; it has no dial."""

    continuous = False
    one_build = True

    def __init__(self, info: ModelInfo, module: nn.Module) -> None:
        self.info, self.module = info, module

    @classmethod
    def check_lambda(cls, lam: float, trained: Sequence[float]) -> float:
        if lam != trained[0]:
            raise UserError(
                f"lambda {lam:g} asked for; the model has no dial, and one row in every table"
            )
        return lam

    @classmethod
    def label(cls, info: ModelInfo) -> str:
        return info.own_name

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return a copy of the network, at the one lambda that it is entered under."""
        self.check_lambda(OperatingPoint(lam, width).lam, self.info.trained_lambdas)
        # its owner may go on training it
        return copy.deepcopy(self.module).requires_grad_(False)

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        return self.at(lam, width)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def to(self, device: torch.device | str) -> Self:
        self.module.to(device)
        return self
