"""Once-for-all adversarial training (Wang et al., NeurIPS 2020, arXiv:2010.11828)."""

from collections.abc import Iterable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.methods.trainable import OneNetwork, build_network, card_of, load_network, slimmable
from oat_bench.networks.card import Interpolation, NetworkCard, check_interpolation
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.lambda_input import lambda_input
from oat_bench.networks.specialize import specialize, unfold
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.pgd import evaluating


class OAT(OneNetwork):
    """One network conditioned on lambda, f(x, lambda), with dual batch norm (OAT)."""

    one_build = True
    network: ConditionalNetwork
    single_bn: ClassVar[bool] = False  #: whether one batch norm is for every lambda

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the network with the method's batch norm; of OATS slimmable."""
        card = slimmable(card) if cls.slims else card
        return card.model_copy(update={"norm": "single"}) if cls.single_bn else card

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        """Refuse another batch norm, and an encoding without a code of its own for each lambda."""
        if network.norm != "dual" and not cls.single_bn:
            raise ValueError('network.norm is "single"; expected "dual", or a single-bn method')
        count, dim = len(training.lambdas), network.encoding_dim
        if network.encoding != "scalar" and count > dim:
            raise ValueError(
                f"network.encoding_dim is {dim}; expected at least {count}, one for each lambda of "
                "training.lambdas"
            )

    @classmethod
    def make(cls, info: ModelInfo) -> ConditionalNetwork:
        return build_network(info, list(info.trained_lambdas))

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        return cls(info, load_network(lambda: cls.make(info), info, state))

    def step(self) -> ConditionalStep:
        return ConditionalStep(self.network)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at lam and width; see `oat_bench.networks.specialize`."""
        point = OperatingPoint(lam, width)
        return specialize(self.network, point.lam, point.width)

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        return unfold(self.network, lam, width)

    def rules(self, lambdas: Iterable[float]) -> tuple[str, ...]:
        return ("folded-affine",) if self.info.bridges(lambdas) else ()

    @torch.no_grad()
    def logits(self, x: Tensor, lam: Tensor, width: float = 1.0) -> Tensor:
        with evaluating(self.network):
            found: Tensor = self.network(x, lam, width)
        return found

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        return lambda_input(self.network, width)

    def with_interpolation(self, rule: Interpolation) -> Self:
        """Copy the classifier with another rule, which had no part in training on a list."""
        card = card_of(self.info)
        try:
            check_interpolation(rule, card.encoding)
        except ValueError as error:
            raise UserError(str(error)) from error
        network = card.model_copy(update={"interpolation": rule})
        changes = {"network": network, "interpolation": rule}
        return self.from_state(self.info.model_copy(update=changes), self.state_dict())


class OATSingleBN(OAT):
    """OAT with one batch norm for every lambda, the ablation of the paper's section 4.1."""

    single_bn = True


class OATS(OAT):
    """One network conditioned on lambda, run at several widths, with dual batch norm (OATS).

    Each width has its own batch norms, all else is shared (OAT paper, section 3.3).
    """

    slims = True

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        if len(info.widths) < 2:
            raise ValueError(
                f"widths are {info.widths}; expected several, such as {trainable.WIDTHS}"
            )
        super().__init__(info, network)


class OATSSingleBN(OATS):
    """OATS with one batch norm for each width, the ablation of the paper's figure 9."""

    single_bn = True
