"""The training step of networks conditioned on lambda (OAT paper, Algorithms 1 and 2)."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.acceleration import Precision, autocast, compiled, operations_per_image
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import Condition, Folded
from oat_bench.randomness import uniform
from oat_bench.training.objectives import make_objective
from oat_bench.training.pgd import Model
from oat_bench.training.sampling import (
    Losses,
    Sample,
    Some,
    both_losses,
    one_loss,
    sample_lambda,
)
from oat_bench.training.step import Batch, Setting, TrainingStep

_LAMBDA = 2  # draws of lambda take the even streams of the seed from here on,
_LOSS = 3  # draws of which loss the odd ones
_BATCH = -1  # owns what is drawn once for a batch


class ConditionalStep(TrainingStep):
    """Attack first, then one pass of clean and attacked images together, by f(x, lambda)."""

    network: ConditionalNetwork

    def __init__(self, network: ConditionalNetwork) -> None:
        self.network = network

    def ready(self, setting: Setting) -> None:
        super().ready(setting)
        self.network.train_on(setting.card.lambda_sampling)
        self.objective = make_objective(setting.card.objective, setting.threat)
        how = (setting.precision, setting.compiled)
        subnetwork, widths = self.network.subnetwork, self.network.widths
        self._twins = {width: frozen_logits(subnetwork(width), *how) for width in widths}

    def points(self) -> list[tuple[float, float]]:
        lambdas = self.setting.card.lambdas
        return [(lam, width) for width in self.network.widths for lam in lambdas]

    def classifier(self, network: nn.Module, lam: float, width: float, n: int) -> Model:
        return cast(ConditionalNetwork, network).conditioned(lam, n, width=width)

    def operations(self, image: Tensor) -> float:
        network, lam = self.network.eval(), float(self.network.encoding.trained[0])
        return sum(operations_per_image(network, image, lam, w) for w in network.widths)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the loss of each width, attacked on its own sub-network, by their mean (Alg. 2)."""
        widths, sample = self.network.widths, self._sample(batch).at(batch.place)
        for width in widths:
            yield self.loss(batch, sample, width) / len(widths)

    def _sample(self, batch: Batch) -> Sample:
        """Draw lambda for the whole step."""
        # one stream in two: random starts of the in-house attack have streams of their own
        stream = _LAMBDA + 2 * batch.number
        return sample_lambda(self.setting.card, batch.step_ids, self.setting.seed, stream)

    def loss(self, batch: Batch, sample: Sample, width: float) -> Tensor:
        """Attack a batch on a width's sub-network and return its loss there.

        That of an image is (1 - lam) L_c + lam L_a (Eq. 3), L_c its clean cross-entropy; or one of
        the two, which is that on average (``loss_sampling``). One pass carries clean and attacked
        images, so that BN_c sees clean ones at lam = 0 and BN_a both kinds at lam > 0; in the
        published order a pass each, the attack between them.
        """
        x, y, losses = batch.x, batch.y, self.sample_losses(batch, sample, width)
        kept, chosen = losses.clean, losses.attacked
        standard, attacked = replace(sample, index=sample.index[kept]), sample.above(chosen)
        if self.setting.card.order == "published":
            clean = self._logits(x, sample, width)
            x_adv, counts = self.attack(batch, sample, width, chosen)
            logits_adv = self._logits(x_adv, attacked, width)
        else:
            x_adv, counts = self.attack(batch, sample, width, chosen)
            x_all = torch.cat([x[kept], x_adv])
            logits = self._logits(x_all, standard.then(attacked), width)
            clean, logits_adv = logits.tensor_split([len(logits) - len(x_adv)])
        l_c = F.cross_entropy(clean, y[kept], reduction="none")
        beside = clean[chosen] if self.objective.compares else None
        l_a = counts * self.objective.loss(logits_adv, y[chosen], beside)
        return ((losses.clean_weight * l_c).sum() + (losses.attacked_weight * l_a).sum()) / len(x)

    def sample_losses(self, batch: Batch, sample: Sample, width: float) -> Losses:
        """Return which losses the images have on a width; of one each, every width draws anew."""
        if self.setting.card.loss_sampling == "both":
            return both_losses(sample)
        place, stream = self.network.widths.index(width), _LOSS + 2 * batch.number
        # ranks that share a part draw alike for all of it
        part, ids = batch.part, batch.step_ids[batch.part]
        owners = torch.cat([ids, ids.new_tensor([_BATCH])])
        draws = uniform(owners, (place + 1,), self.setting.seed, stream)[:, place]
        if (k := part.step) is not None:  # parts start evenly spread, so that all have one
            draws[-1] = (draws[-1] + part.start / k) % 1
        drawn = self._sample(batch).at(part)
        compares = self.objective.compares
        return one_loss(drawn, draws, keep_clean=compares, share=batch.share)

    def condition(self, sample: Sample, width: float) -> Condition:
        """Return the condition of images sorted by lambda."""
        return self.network.condition_of(sample.values, sample.index, sample.n_standard, width)

    def _logits(self, x: Tensor, sample: Sample, width: float) -> Tensor:
        """Run the network in train mode on images sorted by lambda."""
        with autocast(self.setting.device, self.setting.precision):
            logits: Tensor = self.network.backbone(x, self.condition(sample, width))
        return logits.float()

    def attack(
        self, batch: Batch, sample: Sample, width: float, some: Some
    ) -> tuple[Tensor, Tensor]:
        """Attack some of the images of lambda > 0 at theirs, in eval mode, norm layers folded."""
        x, y, ids = (part[some] for part in (batch.x, batch.y, batch.ids))
        if len(x) == 0:
            return x, torch.ones_like(y, dtype=torch.bool)
        with torch.no_grad():
            folded = self.network.fold(self.condition(sample.above(some), width))
        seen = partial(self.frozen, folded=folded)
        return self.objective.attack(seen, x, y, batch.budget, example_ids=ids, seed=batch.seed)

    def frozen(self, x: Tensor, folded: Folded) -> Tensor:
        """Return logits as the attack sees them."""
        return self._twins[folded.width](x, folded)


def frozen_logits(
    backbone: nn.Module, precision: Precision, compile_it: bool
) -> Callable[[Tensor, Folded], Tensor]:
    """Return a backbone as an attack sees it: in eval mode, without gradients for its weights."""
    twin = copy.deepcopy(backbone).eval().requires_grad_(False)
    for mine, theirs in zip(twin.parameters(), backbone.parameters(), strict=True):
        mine.data = theirs.data  # one storage, so that each optimiser step shows
    device = next(twin.parameters()).device

    def logits(x: Tensor, folded: Folded) -> Tensor:
        with autocast(device, precision):
            result: Tensor = twin(x, folded)
        return result.float()

    return compiled(logits) if compile_it else logits
