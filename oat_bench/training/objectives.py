"""What training minimises at lambda: (1 - lam) L_c + lam L_a (OAT paper, Eq. 1 to 3).

L_c is the cross-entropy of the clean image. The forms of L_a differ in how an image is attacked and
in what is then asked of the network.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_bench.cards import Norm, Threat
from oat_bench.errors import UserError
from oat_bench.randomness import normal
from oat_bench.training.card import ObjectiveCard
from oat_bench.training.pgd import Model, pgd

_TRADES_START = 1e-3  #: standard deviation of TRADES' start around the image, in its authors' code
_BISECTIONS = 10  #: halvings of the segment that MMA searches, in its authors' code


@dataclass(frozen=True)
class Budget:
    """What the attack of a training step may do, lengths in units of the images."""

    norm: Norm
    eps: float
    step_size: float
    steps: int


class CrossEntropy:
    """PGD-AT (Madry et al., arXiv:1706.06083): cross-entropy where PGD raises it most (Eq. 2)."""

    compares: ClassVar[bool] = False  #: whether L_a needs the clean image's logits

    def attack(
        self, model: Model, x: Tensor, y: Tensor, budget: Budget, example_ids: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Attack images of a model in eval mode; return them, and which count in L_a, bool [n]."""
        x_adv = pgd(model, x, y, example_ids=example_ids, seed=seed, **vars(budget))
        return x_adv, torch.ones_like(y, dtype=torch.bool)

    def loss(self, attacked: Tensor, y: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return L_a of each image, shape [n]; ``clean`` is what it is compared with, if it is."""
        return F.cross_entropy(attacked, y, reduction="none")


@dataclass(frozen=True)
class Trades(CrossEntropy):
    """TRADES (Zhang et al., arXiv:1901.08573): beta times the KL divergence of the predictions.

    TRADES as published, CE + beta KL, is lambda = 0.5 here but for a factor of two; lambda = 1 is
    the divergence alone, which a constant prediction minimises. Their paper: beta = 1 / lambda.
    """

    beta: float
    compares = True

    def attack(
        self, model: Model, x: Tensor, y: Tensor, budget: Budget, example_ids: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Raise the divergence from the clean prediction, by PGD from close to the image."""
        with torch.no_grad():
            clean = model(x).log_softmax(1)
        start = x + _TRADES_START * normal(example_ids, tuple(x.shape[1:]), seed)

        def divergence(logits: Tensor, clean: Tensor) -> Tensor:
            return kl(clean, logits.log_softmax(1)).sum()

        x_adv = pgd(model, x, clean, start=start, loss=divergence, **vars(budget))
        return x_adv, torch.ones_like(y, dtype=torch.bool)

    def loss(self, attacked: Tensor, y: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return beta KL(clean prediction || attacked prediction); both get gradients."""
        assert clean is not None
        return self.beta * kl(clean.log_softmax(1), attacked.log_softmax(1))


@dataclass(frozen=True)
class MMA(CrossEntropy):
    """Max-margin adversarial training (Ding et al., arXiv:1812.02637).

    An image's margin is the length of the shortest perturbation that makes it wrong; to lower the
    loss there enlarges it (their section 2). Margins longer than eps_max do not count (their
    hinge); an image that is classified wrong counts with its clean cross-entropy.
    """

    reach: float = 1.0  #: eps_max in units of the threat's eps

    def attack(
        self, model: Model, x: Tensor, y: Tensor, budget: Budget, example_ids: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Attack by PGD within eps_max, then bisect for the shortest success on the way there."""
        eps, step_size = self.reach * budget.eps, self.reach * budget.step_size
        far = replace(budget, eps=eps, step_size=step_size)
        x_far, _ = super().attack(model, x, y, far, example_ids=example_ids, seed=seed)
        return shortest_success(model, x, x_far, y)


@torch.no_grad()
def shortest_success(
    model: Model, x: Tensor, x_far: Tensor, y: Tensor, bisections: int = _BISECTIONS
) -> tuple[Tensor, Tensor]:
    """Bisect the segment from each image to an attacked one for where it turns wrong.

    Returns x where x is wrong, x_far where that is right, else the nearest image found wrong; and
    whether it is wrong, bool of shape [n].
    """

    def wrong(images: Tensor) -> Tensor:
        return model(images).argmax(1) != y

    def at(share: Tensor) -> Tensor:
        return torch.lerp(x, x_far, share[:, None, None, None])

    at_start, at_end = wrong(x), wrong(x_far)
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(bisections):
        middle = (low + high) / 2
        broken = wrong(at(middle))
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    share = torch.where(at_start, 0.0, torch.where(at_end, high, 1.0))
    return at(share), at_start | at_end


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of each row, shape [n], from log probabilities [n, num_classes]."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def make_objective(card: ObjectiveCard, threat: Threat) -> CrossEntropy:
    """Make the objective of a card ready; refuse one that does not go with the threat model."""
    if card.loss == "trades":
        return Trades(card.beta)
    if card.loss == "mma":
        if threat.eps == 0:
            raise UserError('training.objective "mma" needs a threat.eps above 0')
        return MMA(1.0 if card.eps_max is None else card.eps_max / threat.eps)
    return CrossEntropy()
