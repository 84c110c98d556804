"""A dial in even turns: OAT's, bridged at 0, and going on beyond lambda 1 (docs/dial.md)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.methods.oat import OAT
from oat_bench.methods.parts import Combined, Source, Sources, between
from oat_bench.methods.turns import Turning, turned
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.lambda_input import DialInput, LambdaInput, lambda_input
from oat_bench.networks.specialize import specialize
from oat_bench.training.card import TrainingCard


def along(at: Callable[[float], nn.Module], trained: Sequence[float], place: float) -> nn.Module:
    """Return the plain network at a place: ``at`` it up to the last trained lambda, or beyond.

    There the folded layers go on along the line through the last two trained values.
    """
    *_, before, last = trained
    if place <= last:
        return at(place)
    return between(at(before), at(last), (place - before) / (last - before))


class OATDial(OAT):
    """OAT, its lambda turned so that equal steps go equal ways along the frontier.

    Trained as OAT is. Then lambda in [0, 1] is given places on OAT's own dial, on validation
    images: from 0 to where robustness becomes too dear, which may lie beyond 1, see `along`.
    """

    Options = Turning
    bridged = False  # not by lambda: by its place

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        Turning.model_validate(info.options)
        super().__init__(info, network)

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        """Refuse, beside what OAT does, a dial without its ends."""
        super().check_card(network, training)
        if (training.lambdas[0], training.lambdas[-1]) != (0, 1):
            raise ValueError(f"training.lambdas are {training.lambdas}; expected 0 to 1")

    @property
    def options(self) -> Turning:
        """The method's own part of the description."""
        return Turning.model_validate(self.info.options)

    def place(self, lam: float) -> float:
        """Return where on OAT's own dial lambda is; lambda itself where no turns were found."""
        return self.options.place(lam)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at `place`."""
        point = OperatingPoint(lam, width)
        return self.at_place(self.place(point.lam), point.width)

    def at_place(self, place: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at a place on OAT's own dial, or beyond its end."""
        own = partial(specialize, self.network, width=width)
        return along(own, self.info.trained_lambdas, place)

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        place = self.place(lam)
        if place > self.info.trained_lambdas[-1]:
            return TunableClassifier.unfolded(self, lam, width)  # which refuses it
        return super().unfolded(place, width)

    def logits(self, x: Tensor, lam: Tensor, width: float = 1.0) -> Tensor:
        return TunableClassifier.logits(self, x, lam, width)

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        return DialInput(lambda_input(self.network, width), self.options.places)

    @torch.no_grad()
    def fit(self, data: Dataset) -> str:
        """Find the places of even turns; without validation images lambda stays itself."""
        if not len(held_out := data.validation):
            return ""
        held_out = held_out.to(self.network.encoding.codes.device)
        knots, options = self.info.trained_lambdas, self.options
        self.info, how = turned(self.info, options, held_out, knots, self.at_place)
        return how


class DialOptions(Turning, Sources):
    """The network, how far its dial may go, and its even turns."""

    network: Source

    def sources(self) -> dict[str, Source]:
        return {"network": self.network}


class Dial(Combined):
    """The dial of `OATDial` for a network that is trained already, at any of its widths."""

    Options = DialOptions

    @property
    def options(self) -> DialOptions:
        """The method's own part of the description."""
        return DialOptions.model_validate(self.info.options)

    def check_parts(self) -> None:
        part = self.parts["network"]
        if not (isinstance(part, trainable.OneNetwork) and part.one_build and part.continuous):
            raise UserError(
                f"{self.info.method}: a model of method {part.info.method!r} is not one network "
                "whose norm layers alone depend on lambda; expected such as 'oat' or 'oats'"
            )
        low, *_, high = part.info.trained_lambdas
        if (low, high) != (0, 1):
            raise UserError(
                f"{self.info.method}: the network was trained from lambda {low:g} to {high:g}; "
                "expected 0 to 1"
            )

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is."""
        if self.options.turns is None:
            raise UserError(f"{self.info.method}: its turns are not found; call fit(data)")
        return self.options.place(lam)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at `place`."""
        point = OperatingPoint(lam, width)
        return self.at_place(self.place(point.lam), point.width)

    def at_place(self, place: float, width: float) -> nn.Module:
        """Return the plain network at a place on the network's own dial, or beyond its end."""
        part = self.parts["network"]
        return along(partial(part.at, width=width), part.info.trained_lambdas, place)

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        own = self.parts["network"].with_lambda_input(width)
        assert isinstance(own, LambdaInput)
        return DialInput(own, self.options.places)

    def fit(self, data: Dataset) -> str:
        """Find the places of even turns, at the widest width, unless the options give them."""
        options = self.options
        if options.turns is not None:
            return "none: not trained; turns as given"
        if not len(held_out := data.validation):
            raise UserError(
                f"{self.info.method}: {data.name} has no validation images; give turns in [method]"
            )
        knots = self.parts["network"].info.trained_lambdas
        found = partial(self.at_place, width=self.info.widths[0])
        self.info, how = turned(self.info, options, held_out.to(self.device), knots, found)
        return f"none: not trained; {how}"
