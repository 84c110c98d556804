"""Once-for-all adversarial training (Wang et al., NeurIPS 2020, arXiv:2010.11828)."""

from typing import Self

import torch
from torch import Tensor, nn

from oat_bench.cards import NetworkCard
from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.networks import ConditionalNetwork, specialize


class OAT(TunableClassifier):
    """One network conditioned on lambda.

    Attributes:
        info: what the checkpoint says.
        network: f(x, lambda), in eval mode.
    """

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        self.info = info
        self.network = network.eval()

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return a benchmark's network with what the method itself decides in its place."""
        return card

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``."""
        card = info.network
        network = ConditionalNetwork(
            card.architecture,
            num_classes=info.num_classes,
            in_channels=info.input_shape[0],
            trained_lambdas=list(info.trained_lambdas),
            encoding=card.encoding,
            encoding_dim=card.encoding_dim,
            norm=card.norm,
            film=card.film,
            dropout=card.dropout,
            widths=card.widths,
            heads=card.heads,
            seed=info.seed,
        )
        return cls(info, network)

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        """Build the classifier with stored weights."""
        # laid out without memory first: a header may describe a network of any size
        with torch.device("meta"):
            classifier = cls.build(info)
        for name, expected in classifier.state_dict().items():
            if name in state and state[name].dtype != expected.dtype:
                raise ValueError(f"{name} is {state[name].dtype}, expected {expected.dtype}")
        trained = classifier.network.encoding.trained
        classifier.network.load_state_dict(
            {name: value.clone() for name, value in state.items()}, assign=True
        )
        if not torch.equal(classifier.network.encoding.trained, trained):
            raise ValueError("the lambda of the weights are not those of the description")
        return classifier

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at lam and width; see `oat_bench.networks.specialize`."""
        point = OperatingPoint(lam, width)
        return specialize(self.network, point.lam, point.width)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's parameters and buffers, the encoding matrix among them."""
        return dict(self.network.state_dict())

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        return self
