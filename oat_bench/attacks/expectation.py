"""The attack on a classifier that is drawn for each query: climb the expected loss (EOT)."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.drawn import Drawn
from oat_bench.training.pgd import pgd

Losses = Callable[[Tensor, Tensor, Tensor], Tensor]  #: of logits [n, L, num_classes], y, chances
_APART = 1 << 20  #: numbers of draws that an attempt has for itself: more than it makes steps


def expected_losses(logits: Tensor, y: Tensor, chances: Tensor) -> Tensor:
    """Return each example's expected cross-entropy [n], of logits [n, L, num_classes]."""
    several = y[:, None].expand(logits.shape[:2])
    losses = F.cross_entropy(logits.flatten(0, 1), several.flatten(), reduction="none")
    return losses.view(logits.shape[:2]) @ chances.to(losses)


def mixture_losses(logits: Tensor, y: Tensor, chances: Tensor) -> Tensor:
    """Return the cross-entropy of each example's mean probabilities, of the same, [n].

    A network that is broken already hardly counts in it, however large its own loss: where one of
    few is not robust, the expected loss would climb that one alone.
    """
    logs = logits.log_softmax(2).movedim(2, 0)
    mean = torch.logsumexp(logs + chances.to(logs).log(), dim=2)
    return F.nll_loss(mean.T, y, reduction="none")


def _stacked(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    return torch.stack([network(x) for network in networks], dim=1)


@torch.no_grad()
def climb(
    draw: Callable[[int], Drawn],
    judges: Drawn,
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    restarts: int = 1,
    losses: Sequence[Losses] = (expected_losses,),
    **walk: Any,
) -> Tensor:
    """Climb the expected loss of what is drawn (Athalye et al., arXiv:1707.07397).

    ``draw`` is given another number at each step. Of several restarts and ``losses`` the one counts
    that the judges are least likely to answer right; ``walk`` is what `pgd` takes.
    """
    judging, weights = judges
    best, least = x.clone(), torch.full(y.shape, 2.0, device=x.device)
    highest = torch.zeros_like(least)
    for attempt, (restart, each) in enumerate(product(range(restarts), losses)):
        x_adv = _climb_once(draw, attempt * _APART, each, x, y, seed=seed + restart, **walk)
        found = _stacked(judging, x_adv)
        # rounded: what is as likely must compare as equal, whatever the order of the sum
        right = torch.round((found.argmax(2) == y[:, None]).float() @ weights.to(x), decimals=6)
        loss = expected_losses(found, y, weights)
        better = (right < least) | ((right == least) & (loss > highest))
        best[better], least[better], highest[better] = x_adv[better], right[better], loss[better]
    return best


def _climb_once(
    draw: Callable[[int], Drawn], number: int, losses: Losses, x: Tensor, y: Tensor, **walk: Any
) -> Tensor:
    chances = torch.empty(0)

    def logits(x: Tensor) -> Tensor:
        nonlocal number, chances
        networks, chances = draw(number)
        number += 1
        return _stacked(networks, x)

    def summed(logits: Tensor, y: Tensor) -> Tensor:
        return losses(logits, y, chances).sum()

    return pgd(logits, x, y, loss=summed, **walk)
