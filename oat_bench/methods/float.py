"""FLOAT: noise on the weights, scaled by lambda (Kundu et al., WACV 2023, arXiv:2204.00426).

No code of its authors was found. Lambda between 0 and 1 is not trained: it scales the noise of
lambda = 1, whose batch norm it shares, so that the dial jumps right above 0.
"""

import copy
from collections.abc import Iterator
from itertools import count
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from oat_bench.acceleration import autocast
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.methods.trainable import OneNetwork, card_of, load_network
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import AnyCondition
from oat_bench.networks.drawn import Drawn, RandomNetwork
from oat_bench.networks.specialize import specialize
from oat_bench.randomness import generator
from oat_bench.training.card import TrainingCard
from oat_bench.training.pgd import Model, evaluating, pgd
from oat_bench.training.step import Batch, TrainingStep

LAMBDAS = [0.0, 1.0]  #: what is trained: clean images without noise, attacked ones with all of it
START = 0.25  #: of alpha, as in their paper
_NOISE = 1  #: the stream of a step's seed that noise takes


class FloatNetwork(ConditionalNetwork):
    """An ordinary network with dual batch norm; a factor alpha for the noise of each convolution.

    At lambda a convolution's weight is theta + lambda alpha eta, eta ~ N(0, std(theta)^2).
    """

    def __init__(self, card: NetworkCard, num_classes: int, in_channels: int, seed: int) -> None:
        super().__init__(card, num_classes, in_channels, LAMBDAS, seed=seed)
        named = self.backbone.named_modules()
        self.noisy = [f"{name}.weight" for name, m in named if isinstance(m, nn.Conv2d)]
        self.alpha = nn.Parameter(torch.full((len(self.noisy),), START))

    def spreads(self) -> dict[str, Tensor]:
        """Return each noisy weight's alpha std(theta), []; alpha has a gradient, the std none."""
        stds = [self.backbone.get_parameter(name).detach().std() for name in self.noisy]
        return {k: a * std for k, a, std in zip(self.noisy, self.alpha, stds, strict=True)}

    def drawn(self, draw: torch.Generator, lam: float = 1.0) -> dict[str, Tensor]:
        """Draw the weights at lambda."""
        weights = {name: self.backbone.get_parameter(name) for name in self.noisy}
        return {k: weights[k] + lam * s * _eta(weights[k], draw) for k, s in self.spreads().items()}

    def run(self, x: Tensor, condition: AnyCondition, weights: dict[str, Tensor]) -> Tensor:
        """Return the logits with some weights in the place of the network's."""
        return functional_call(self.backbone, weights, (x, condition))  # type: ignore[no-any-return]


def _eta(weight: Tensor, draw: torch.Generator) -> Tensor:
    # on the CPU, so that every device draws the same
    return torch.randn(weight.shape, generator=draw).to(weight)


class FloatStep(TrainingStep):
    """Half of a batch clean, without noise, by BN_c; the other attacked, with noise, by BN_a."""

    network: FloatNetwork

    def __init__(self, network: FloatNetwork) -> None:
        self.network = network

    def classifier(self, network: nn.Module, lam: float, width: float, n: int) -> Model:
        return self.attacked(cast(FloatNetwork, network), self.setting.seed, lam)

    def attacked(self, network: FloatNetwork, seed: int, lam: float = 1.0) -> Model:
        """Return the network in eval mode, without gradients, with other noise at each call."""
        with torch.no_grad():
            folded = network.folded(float(lam > 0), 1, network.alpha.device)[1]
        calls = count()

        def logits(x: Tensor) -> Tensor:
            with torch.no_grad():
                weights = network.drawn(generator(seed, _NOISE, next(calls)), lam)
            with evaluating(network), autocast(x.device, self.setting.precision):
                return network.run(x, folded, weights).float()

        return logits

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield half of the clean loss, then half of the attacked one, each a mean."""
        half = (len(batch.x) + 1) // 2
        yield self._loss(batch.x[:half], batch.y[:half], 0.0, {}) / 2
        x, y, ids = batch.x[half:], batch.y[half:], batch.ids[half:]
        model, budget = self.attacked(self.network, batch.seed), vars(batch.budget)
        x_adv = pgd(model, x, y, example_ids=ids, seed=batch.seed, **budget)
        weights = self.network.drawn(generator(batch.seed, _NOISE, -1))
        yield self._loss(x_adv, y, 1.0, weights) / 2

    def _loss(self, x: Tensor, y: Tensor, lam: float, weights: dict[str, Tensor]) -> Tensor:
        _, condition = self.network.condition(lam, len(x), x.device)
        with autocast(x.device, self.setting.precision):
            logits = self.network.run(x, condition, weights)
        return F.cross_entropy(logits.float(), y)


class Noisy(RandomNetwork):
    """A plain network with noise on its weights, given the standard deviation of each."""

    def __init__(self, plain: nn.Module, spreads: dict[str, Tensor]) -> None:
        super().__init__()
        self.plain = plain
        self.buffer_of = {name: f"spread of {name}".replace(".", " ") for name in spreads}
        for name, spread in spreads.items():
            self.register_buffer(self.buffer_of[name], spread)

    def draws(self, count: int, seed: int) -> Drawn:
        networks = [self._drawn(generator(seed, number)) for number in range(count)]
        return Drawn(networks, torch.full((count,), 1 / count))

    @torch.no_grad()
    def _drawn(self, draw: torch.Generator) -> nn.Module:
        network = copy.deepcopy(self.plain)
        for name, spread in self.buffer_of.items():
            weight = network.get_parameter(name)
            weight.add_(self.get_buffer(spread) * _eta(weight, draw))
        return network


class FLOAT(OneNetwork):
    """An ordinary network, lambda the scale of fresh noise on its weights; dual batch norm."""

    network: FloatNetwork
    random = True
    bridged = False

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the ordinary network of the same architecture, with dual batch norm."""
        kept = card.model_dump(include={"architecture", "dropout"})
        return NetworkCard(**kept, encoding="scalar", norm="dual", film="none")

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        """Refuse what its step has no place for."""
        expected = {"order": "attack-first", "standard_share": None, "compile": None}
        expected |= {"loss_sampling": "both"}
        for key, value in expected.items():
            if (found := getattr(training, key)) not in (value, False):
                raise ValueError(
                    f"training.{key} is {found!r}; half of a batch is clean: leave it out"
                )
        if training.objective.loss != "cross-entropy":
            raise ValueError(f'training.objective is "{training.objective.loss}"; expected none')

    @classmethod
    def make(cls, info: ModelInfo) -> FloatNetwork:
        return FloatNetwork(card_of(info), info.num_classes, info.input_shape[0], info.seed)

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build it with fresh weights; trained is lambda 0 and 1, whatever a card samples."""
        own = {"trained_lambdas": LAMBDAS, "lambda_sampling": "list", "interpolation": "none"}
        return super().build(info.model_copy(update=own))

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        return cls(info, load_network(lambda: cls.make(info), info, state))

    def step(self) -> FloatStep:
        return FloatStep(self.network)

    @torch.no_grad()
    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return a plain network at lambda 0, and above a `RandomNetwork`."""
        point = OperatingPoint(lam, width)
        plain = specialize(self.network, float(point.lam > 0), point.width)
        if point.lam == 0:
            return plain
        # folding is linear in the weights: what it makes of deviations are those of its result
        spread = copy.deepcopy(self.network)
        for name, deviation in self.network.spreads().items():
            spread.backbone.get_parameter(name).fill_(point.lam * deviation)
        folded = specialize(spread, 1.0, point.width)
        return Noisy(plain, {name: folded.get_parameter(name).detach() for name in spread.noisy})
