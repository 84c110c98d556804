"""A line of weights whose dial is the radius of the attack, in even turns.

Lines of networks: Wortsman et al., ICML 2021, arXiv:2102.10472. docs/dial.md says what was tried.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from oat_bench.acceleration import Accelerated, autocast, operations_per_image
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.datasets import Dataset
from oat_bench.methods.trainable import OneNetwork, Options, card_of
from oat_bench.methods.turns import accuracies, attacks, even_turns, sample
from oat_bench.methods.weights import estimate
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.line import KNOTS, TURNS, LineInput, LineNetwork
from oat_bench.randomness import uniform
from oat_bench.training.card import TrainingCard
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import Model, pgd
from oat_bench.training.step import Batch, TrainingStep

LOW_EDGE, HIGH_EDGE = 0.1, 0.1  #: draws of t go so far beyond the ends, where they stay at the end
POWER = 1.0
FEW = False
MIX = False
CLEAN = 0.0  #: share of a batch that is at the place 0, beside what draws bring there
_DRAW = 2  #: draws of t take the streams of the seed from here on
PLACES = tuple(np.arange(KNOTS[0], KNOTS[-1] + 1e-9, 0.125).tolist())  #: that are measured


class LineOptions(Options):
    """What the dial is made on, once the network is trained."""

    images: Annotated[int, Field(ge=100)] = Field(
        default=1000, description="validation images, stratified, that even turns are found on"
    )
    statistics: Annotated[int, Field(ge=100)] = Field(
        default=2000, description="training images, stratified, for batch norm at each knot"
    )


def radius(t: float) -> float:
    """Return the share of eps that a place is attacked within."""
    return float(min(max(t, 0.0), 1.0) ** POWER)


def scaled(budget: Budget, share: float) -> Budget:
    """Return what an attack within a share of eps may do: fewer steps of the same length."""
    steps, size = budget.steps, budget.step_size
    if FEW:
        steps = max(1, math.ceil(share * budget.steps))
        size = max(size, min(size * budget.steps / steps, 1.25 * budget.eps))
    return replace(budget, eps=share * budget.eps, step_size=share * size, steps=steps)


class LineStep(TrainingStep):
    """Two halves of a batch, each at a place t of its own, attacked within t eps."""

    network: LineNetwork

    def __init__(self, network: LineNetwork) -> None:
        self.network = network

    def classifier(self, network: nn.Module, lam: float, width: float, n: int) -> Model:
        return self._fast(cast(LineNetwork, network).at(lam))

    def operations(self, image: Tensor) -> float:
        return operations_per_image(self.network.eval(), image, 0.5)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the loss of attacked images of each half, by its share of the batch."""
        n, drawn = (
            len(batch.x),
            uniform(torch.zeros(1), (2,), self.setting.seed, _DRAW + batch.number),
        )
        low, high = drawn[0].tolist()
        clean = round(CLEAN * n)
        half = clean + (n - clean + 1) // 2
        low, high = low * (0.5 + LOW_EDGE) - LOW_EDGE, 0.5 + high * (0.5 + HIGH_EDGE)
        for t, some in ((0.0, slice(0, clean)), (low, slice(clean, half)), (high, slice(half, n))):
            if len(batch.x[some]):
                yield self._loss(batch, min(max(t, 0.0), 1.0), some) * (len(batch.x[some]) / n)

    def _loss(self, batch: Batch, t: float, some: slice) -> Tensor:
        x, y, ids = (part[some] for part in (batch.x, batch.y, batch.ids))
        attacked = slice(0, round(t**POWER * len(x)) if MIX else len(x))
        if t > 0 and len(x[attacked]):
            share = 1.0 if MIX else radius(t)
            model, budget = self._fast(self.network.at(t)), scaled(batch.budget, share)
            own = (part[attacked] for part in (x, y))
            x_adv = pgd(model, *own, example_ids=ids[attacked], seed=batch.seed, **vars(budget))
            x = torch.cat([x_adv, x[attacked.stop :]])
        with autocast(self.setting.device, self.setting.precision):
            logits = self.network(x, t)
        return F.cross_entropy(logits.float(), y)

    def _fast(self, plain: nn.Module) -> Model:
        return Accelerated(plain, precision=self.setting.precision)


class WeightLine(OneNetwork):
    """One network on a line of weights; lambda turns it from clean to attacked images, evenly.

    At the place t of the line training sees images attacked within t eps, and nothing else. Once it
    is done, batch norm's statistics are estimated at knots, some beyond the ends, and the places of
    even lambda are chosen on validation images: equal turns go equal ways along the frontier.
    """

    Options = LineOptions
    network: LineNetwork

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the ordinary network of the same architecture."""
        kept = card.model_dump(include={"architecture", "dropout"})
        return NetworkCard(**kept, encoding="scalar", norm="single", film="none")

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        """Refuse what its step has no place for."""
        expected: dict[str, Any] = {"order": "attack-first", "standard_share": None}
        expected |= {"sampling": "per-image"}
        for key, value in expected.items():
            if (found := getattr(training, key)) != value:
                raise ValueError(
                    f"training.{key} is {found!r}; two halves of a batch have a place "
                    "each: leave it out"
                )
        if training.objective.loss != "cross-entropy":
            raise ValueError(f'training.objective is "{training.objective.loss}"; expected none')
        if (training.lambdas[0], training.lambdas[-1]) != (0, 1):
            raise ValueError(
                "training.lambdas go from "
                f"{training.lambdas[0]:g} to {training.lambdas[-1]:g}; expected 0 to 1"
            )

    @classmethod
    def make(cls, info: ModelInfo) -> LineNetwork:
        return LineNetwork(card_of(info), info.num_classes, info.input_shape[0], info.seed)

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build it with fresh weights; every lambda is trained."""
        own = {"lambda_sampling": "uniform", "interpolation": "none"}
        return super().build(info.model_copy(update=own))

    def step(self) -> LineStep:
        return LineStep(self.network)

    def place(self, lam: float) -> float:
        """Return where on the line a lambda in [0, 1] is."""
        return self.network.turned(lam)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at lambda; there is one width."""
        return self.network.at(self.place(OperatingPoint(lam, width).lam))

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        return self.network.unfolded(self.place(lam))

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        return LineInput(self.network)

    def fit(self, data: Dataset) -> str:
        """Estimate batch norm at its knots, then find the places of even turns."""
        options, network = LineOptions.model_validate(self.info.options), self.network
        known = sample(data.train, options.statistics).to(self.device)
        for number, t in enumerate(KNOTS):
            inner = min(max(t, 0.0), 1.0)  # beyond the ends there are no statistics yet
            found = attacks(network.at(inner), known, self.info, radius(inner))
            estimated = network.unfolded(t)
            estimate(estimated, [x for x, _ in found])
            network.restate(number, estimated)
        held_out = sample(data.validation, options.images).to(self.device)
        if not len(held_out):
            return f"batch norm estimated on {len(known)} images"
        points = [accuracies(network.at(t), held_out, self.info) for t in PLACES]
        network.turns.copy_(torch.tensor(even_turns(PLACES, points, TURNS)))
        ends = " to ".join(f"{place:.3g}" for place in network.turns[[0, -1]].tolist())
        return (
            f"batch norm estimated on {len(known)} images, even turns from place {ends} found on "
            f"{len(held_out)} validation images"
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.knots.device
