"""What a method offers to be trained from a benchmark card by the one training loop."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.networks.card import NetworkCard, depth
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.progress import note
from oat_bench.training.card import TrainingCard
from oat_bench.training.step import TrainingStep

WIDTHS = [1.0, 0.75, 0.5]  #: the OAT paper's (sections 3.3, 4.3): .25 is too small to be robust


class Options(BaseModel):
    """The keys of a card's ``[method]`` table, and of a checkpoint's; by default there are none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Member:
    """A network of a tunable classifier, and what it is trained on."""

    name: str  #: of its sub-folder while it is trained; empty for a classifier's only network
    step: TrainingStep  #: the network, trained in place, and its training step
    lambdas: list[float]  #: what training samples lambda from, ascending

    def recipe(self, card: TrainingCard) -> TrainingCard:
        """Return a benchmark's recipe as this network is trained by it, at its lambda values."""
        if self.lambdas == card.lambdas:
            return card
        dedicated = {"lambdas": self.lambdas, "lambda_sampling": "list", "standard_share": None}
        return card.model_copy(update=dedicated)


class TrainableClassifier(TunableClassifier):
    """A tunable classifier that is built from a card: of one network to train, several or none."""

    Options: ClassVar[type[BaseModel]] = Options  #: the method's own keys

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard | None:
        """Return a benchmark's network as the method decides it; None: it makes its own."""
        return card

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        """Refuse a benchmark's network, before `network_card`, or recipe by a ValueError."""

    @classmethod
    @abstractmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``."""

    @classmethod
    def start(cls, info: ModelInfo, model: TunableClassifier) -> Self:
        """Build the classifier with the weights of a model; a UserError if they do not fit.

        Where the number of classes differs, what has a row for each class is fresh.
        """
        fresh, old = cls.build(info), model.info
        own, theirs = fresh.state_dict(), fresh.weights_of(model)
        (channels, *_), (expected, *_) = info.input_shape, old.input_shape
        if channels != expected:
            raise UserError(
                f"--from: images of {info.dataset!r} have {channels} channels; expected as many as "
                f"the model's, {expected}"
            )
        if own.keys() != theirs.keys():
            lacking = min(own.keys() ^ theirs.keys())
            raise UserError(
                f"--from: weights of method {old.method!r} do not fit a network of method "
                f"{info.method!r} (only one of them has {lacking}); leave out --method"
            )
        classes = (info.num_classes,), (old.num_classes,)
        for name, value in own.items():
            here, there = value.shape, theirs[name].shape
            if here == there:
                own[name] = theirs[name].cpu()
            elif here[1:] != there[1:] or (here[:1], there[:1]) != classes:
                raise UserError(
                    f"--from: {name} is {list(there)} in the model, for images {old.input_shape}; "
                    f"expected {list(here)} for {info.input_shape}"
                )
        if len(set(classes)) > 1:
            note(f"a new head: {info.num_classes} classes, the model has {old.num_classes}")
        return cls.from_state(info, own)

    def weights_of(self, model: TunableClassifier) -> dict[str, Tensor]:
        """Return what each of the weights, by the names of `state_dict`, starts from."""
        return model.state_dict()

    @abstractmethod
    def members(self) -> list[Member]:
        """Return the networks to train, one after the other."""

    def fit(self, data: Dataset) -> str:
        """Take from the data what no training of `members` finds; return how, for `selection`.

        It runs once, after them, on the classifier's device, and is decided by the data and
        ``info.seed``; what it finds goes into `state_dict` or ``info.options``.
        """
        return ""


class OneNetwork(TrainableClassifier):
    """A tunable classifier that is one network, trained at every lambda."""

    network: nn.Module  #: in eval mode

    def __init__(self, info: ModelInfo, network: nn.Module) -> None:
        self.info, self.network = info, network.eval()

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard | None:
        """Return None: `make` has no use for a benchmark's network, unless it says so."""
        return None

    @classmethod
    @abstractmethod
    def make(cls, info: ModelInfo) -> nn.Module:
        """Make the network that a description asks for, with fresh weights."""

    @abstractmethod
    def step(self) -> TrainingStep:
        """Return how the network is trained."""

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        with torch.random.fork_rng():
            torch.manual_seed(info.seed)
            return cls(info, cls.make(info))

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        network = cls.make(info)
        network.load_state_dict(state)
        return cls(info, network)

    def members(self) -> list[Member]:
        return [Member("", self.step(), list(self.info.trained_lambdas))]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        return self


class Family(TrainableClassifier):
    """A tunable classifier of several networks or classifiers, each with a name of its own."""

    parts: dict[str, Any]

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, part in self.parts.items()
            for key, value in part.state_dict().items()
        }

    def to(self, device: torch.device | str) -> Self:
        for part in self.parts.values():
            part.to(device)
        return self


def card_of(info: ModelInfo) -> NetworkCard:
    """Return the network card of a description; a ValueError if it has none."""
    if info.network is None:
        raise ValueError("the description has no network")
    return info.network


def build_network(info: ModelInfo, lambdas: list[float]) -> ConditionalNetwork:
    """Build the network of a description, fresh weights drawn by its seed, for these lambdas."""
    classes, channels = info.num_classes, info.input_shape[0]
    sampling, seed = info.lambda_sampling, info.seed
    return ConditionalNetwork(card_of(info), classes, channels, lambdas, sampling, seed)


def load_network(
    build: Callable[[], ConditionalNetwork], info: ModelInfo, state: dict[str, Tensor]
) -> ConditionalNetwork:
    """Build a network with stored weights; a ValueError says what does not fit."""
    if depth(info.architecture) > len(state):  # before a deep one is built
        raise ValueError(f"too few weights for {info.architecture}")
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


def slimmable(card: NetworkCard) -> NetworkCard:
    """Return a benchmark's network, with the widths of the paper where it has only one."""
    return card if len(card.widths) > 1 else card.model_copy(update={"widths": WIDTHS})
