"""Once-for-all adversarial training (Wang et al., NeurIPS 2020, arXiv:2010.11828)."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from oat_bench.cards import NetworkCard
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.methods.trainable import Member, TrainableClassifier, build_network, load_network
from oat_bench.networks import ConditionalNetwork, specialize
from oat_bench.networks.conditioning import Interpolation, check_interpolation
from oat_bench.networks.lambda_input import lambda_input


class OAT(TrainableClassifier):
    """One network conditioned on lambda, with dual batch norm (OAT).

    Attributes:
        info: what the checkpoint says.
        network: f(x, lambda), in eval mode.
    """

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        self.info = info
        self.network = network.eval()

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``."""
        return cls(info, build_network(info, list(info.trained_lambdas)))

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        """Build the classifier with stored weights."""
        return cls(info, load_network(lambda: cls.build(info).network, state))

    def members(self) -> list[Member]:
        """Return the one network, trained at every lambda."""
        return [Member("", self.network, list(self.info.trained_lambdas))]

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at lam and width; see `oat_bench.networks.specialize`.

        Raises:
            ValueError: if ``lam`` is outside of the trained range, or ``width`` is not there.
        """
        point = OperatingPoint(lam, width)
        return specialize(self.network, point.lam, point.width)

    def rules(self, lambdas: Iterable[float]) -> tuple[str, ...]:
        """Name the bridge, if one of the lambda is on it; see `TunableClassifier`."""
        return ("folded-affine",) if self.info.bridges(lambdas) else ()

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        """Return the network of a width that takes lambda; see `TunableClassifier`."""
        return lambda_input(self.network, width)

    def with_interpolation(self, rule: Interpolation) -> Self:
        """Return the classifier with another rule between trained lambda, its weights copied.

        Where training sampled a list the rule had no part in it, so that one run serves all.

        Raises:
            ValueError: if the rule does not exist, or the encoding does not have it.
        """
        check_interpolation(rule, self.info.network.encoding)
        network = self.info.network.model_copy(update={"interpolation": rule})
        changes = {"network": network, "interpolation": rule}
        return self.from_state(self.info.model_copy(update=changes), self.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's parameters and buffers, the encoding matrix among them."""
        return dict(self.network.state_dict())

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        return self


class OATSingleBN(OAT):
    """OAT with one batch norm for every lambda, the ablation of the paper's section 4.1."""

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the network with one batch norm."""
        return card.model_copy(update={"norm": "single"})
