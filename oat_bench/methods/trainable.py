"""What a method offers to be trained from a benchmark card by the one training loop."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from oat_bench.cards import NetworkCard, TrainingCard
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.networks import ConditionalNetwork


@dataclass(frozen=True)
class Member:
    """A network of a tunable classifier, and what it is trained on.

    Attributes:
        name: of its sub-folder while it is trained; empty for a classifier's only network.
        network: trained in place.
        lambdas: what training samples lambda from, ascending.
    """

    name: str
    network: ConditionalNetwork
    lambdas: list[float]

    def recipe(self, card: TrainingCard) -> TrainingCard:
        """Return a benchmark's recipe as this network is trained by it.

        At a single lambda there is nothing to sample.
        """
        if self.lambdas == card.lambdas:
            return card
        dedicated = {"lambdas": self.lambdas, "lambda_sampling": "list", "standard_share": None}
        return card.model_copy(update=dedicated)


class TrainableClassifier(TunableClassifier):
    """A tunable classifier that is trained from a card: one network, or several."""

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return a benchmark's network with what the method itself decides in its place."""
        return card

    @classmethod
    @abstractmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``."""

    @abstractmethod
    def members(self) -> list[Member]:
        """Return the networks to train, one after the other."""


def build_network(info: ModelInfo, lambdas: list[float]) -> ConditionalNetwork:
    """Build the network that a description asks for, with fresh weights, drawn by its seed.

    Args:
        info: the description.
        lambdas: what this network is trained on.
    """
    card = info.network
    return ConditionalNetwork(
        card.architecture,
        num_classes=info.num_classes,
        in_channels=info.input_shape[0],
        trained_lambdas=lambdas,
        encoding=card.encoding,
        encoding_dim=card.encoding_dim,
        norm=card.norm,
        film=card.film,
        dropout=card.dropout,
        widths=card.widths,
        heads=card.heads,
        interpolation=card.interpolation,
        lambda_sampling=info.lambda_sampling,
        seed=info.seed,
    )


def load_network(
    build: Callable[[], ConditionalNetwork], state: dict[str, Tensor]
) -> ConditionalNetwork:
    """Build a network with stored weights.

    Raises:
        ValueError: if the weights do not fit it.
    """
    # laid out without memory first: a header may describe a network of any size
    with torch.device("meta"):
        network = build()
    for name, expected in network.state_dict().items():
        if name in state and state[name].dtype != expected.dtype:
            raise ValueError(f"{name} is {state[name].dtype}, expected {expected.dtype}")
    trained = network.encoding.trained
    network.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    if not torch.equal(network.encoding.trained, trained):
        raise ValueError("the lambda of the weights are not those of the description")
    return network
