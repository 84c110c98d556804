"""Several attempts at images, each at what still stands, an image left alone once it is broken."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from oat_bench.acceleration import Accelerated

#: what an attempt is given: places of images; what it returns: images, and which are broken
Attempt = Callable[[Tensor], tuple[Tensor, Tensor]]


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit [n] of a class for each image."""
    return logits.gather(1, classes[:, None])[:, 0]


def fooled(
    model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, *, targeted: bool = False
) -> Tensor:
    """Say which images are broken, bool [n]: by their logits, or those in float32 if rounded."""
    broken = (logits.argmax(1) != y) != targeted
    if isinstance(model, Accelerated) and model.precision != "float32" and broken.any():
        broken[broken.clone()] = (model.exact(x[broken]).argmax(1) != y[broken]) != targeted
    return broken


@torch.no_grad()
def in_turn(
    model: nn.Module, x: Tensor, y: Tensor, attempts: Iterable[Attempt], *, targeted: bool = False
) -> Tensor:
    """Return broken images in the place of clean ones; what is broken clean is not attacked."""
    x_adv = x.clone()
    standing = (~fooled(model, x, y, model(x), targeted=targeted)).nonzero()[:, 0]
    for attempt in attempts:
        if len(standing) == 0:
            break
        found, broken = attempt(standing)
        x_adv[standing[broken]] = found[broken]
        standing = standing[~broken]
    return x_adv
