"""OAT with a dial in even turns: bridged at 0, and going on beyond lambda 1 (docs/dial.md)."""

import torch
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.methods.oat import OAT
from oat_bench.methods.parts import between
from oat_bench.methods.turns import Turning, turned
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.lambda_input import DialInput, lambda_input
from oat_bench.networks.specialize import specialize
from oat_bench.training.card import TrainingCard


class OATDial(OAT):
    """OAT, its lambda turned so that equal steps go equal ways along the frontier.

    Trained as OAT is. Then lambda in [0, 1] is given places on OAT's own dial, on validation
    images: from the highest SA to the highest RA. Between 0 and the first trained value the folded
    norm layers are interpolated; beyond the last they go on along the line through the last two.
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
        *_, before, last = self.info.trained_lambdas
        if place <= last:
            return specialize(self.network, place, width)
        low, high = (specialize(self.network, lam, width) for lam in (before, last))
        return between(low, high, (place - before) / (last - before))

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        place = self.place(lam)
        if place > self.info.trained_lambdas[-1]:
            return TunableClassifier.unfolded(self, lam, width)  # which refuses it
        return super().unfolded(place, width)

    def logits(self, x: Tensor, lam: Tensor, width: float = 1.0) -> Tensor:
        return TunableClassifier.logits(self, x, lam, width)

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        turns = self.options.turns or [0.0, 1.0]
        return DialInput(lambda_input(self.network, width), turns)

    @torch.no_grad()
    def fit(self, data: Dataset) -> str:
        """Find the places of even turns; without validation images lambda stays itself."""
        if not len(held_out := data.validation):
            return ""
        held_out = held_out.to(self.network.encoding.codes.device)
        knots, options = self.info.trained_lambdas, self.options
        self.info, how = turned(self.info, options, held_out, knots, self.at_place)
        return how
