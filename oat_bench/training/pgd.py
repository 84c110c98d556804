"""The in-house attack of training and evaluation: PGD, and with it FGSM and MI-FGSM."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.cards import Norm
from oat_bench.randomness import normal, uniform

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
#: asks for the gradient at images with labels, as often as it needs one; returns attacked images
Walk = Generator[tuple[Tensor, Tensor], Tensor, Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, summed, so that an example's gradient does not depend on the batch size."""
    return F.cross_entropy(logits, y, reduction="sum")


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    norm: Norm = "Linf",
    random_start: bool = True,
    targeted: bool = False,
    decay: float | None = None,
    start: Tensor | None = None,
    example_ids: Tensor | None = None,
    seed: int = 0,
    loss: Loss = cross_entropy,
) -> Tensor:
    """Projected gradient descent (Madry et al., arXiv:1706.06083).

    One step without random start is FGSM (arXiv:1412.6572); with ``decay`` it is MI-FGSM
    (arXiv:1710.06081). A module is attacked in eval mode; its mode, its ``requires_grad`` flags and
    its gradients are left as they were.

    Args:
        model: from images to logits, [n, num_classes].
        x: images of shape [n, C, H, W] in [0, 1].
        y: labels of shape [n]; the targets if ``targeted``.
        eps: radius of the ball, >= 0, in units of the images.
        step_size: length of a step, in the same units.
        steps: number of steps, >= 0.
        norm: ``Linf`` or ``L2``.
        random_start: start uniformly in the ball, else at x.
        targeted: lower the loss instead of raising it.
        decay: momentum's decay factor mu; each gradient is then divided by its mean absolute value.
        start: start from these images instead (projected onto the ball and the box).
        example_ids: integers of shape [n] that own the random start: an example with the same id
            and seed starts at the same place whatever the batch. 0 ... n - 1 if None.
        seed: of the random start.
        loss: of logits and y, summed over the examples.

    Returns:
        Attacked images: the shape of x, within eps of x, in [0, 1].

    Raises:
        ValueError: if eps, step_size or steps is negative, or the norm is unknown.
    """
    path = walk(
        x,
        y,
        eps=eps,
        step_size=step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        targeted=targeted,
        decay=decay,
        start=start,
        example_ids=example_ids,
        seed=seed,
    )
    return follow(model, [path], loss)[0]


def walk(
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    norm: Norm = "Linf",
    random_start: bool = True,
    targeted: bool = False,
    decay: float | None = None,
    start: Tensor | None = None,
    example_ids: Tensor | None = None,
    seed: int = 0,
) -> Walk:
    """`pgd` as a walk, which `follow` tells its gradients; the arguments are the same."""
    if not (eps >= 0 and step_size >= 0 and steps >= 0):
        raise ValueError(f"negative eps ({eps}), step_size ({step_size}) or steps ({steps})")
    if norm not in ("Linf", "L2"):
        raise ValueError(f"unknown norm {norm!r}; expected Linf or L2")
    x = x.detach()
    if start is None:
        start = x
        if random_start:
            ids = torch.arange(len(x), device=x.device) if example_ids is None else example_ids
            start = x + _random_offset(ids, tuple(x.shape[1:]), eps, norm, seed)
    x_adv = _project(start.detach(), x, eps, norm)
    direction = -1.0 if targeted else 1.0
    momentum = torch.zeros_like(x)
    for _ in range(steps):
        gradient = yield x_adv, y
        if decay is not None:
            gradient = gradient / _per_example(gradient.abs().flatten(1).mean(1))
            gradient = momentum = gradient + decay * momentum
        x_adv = x_adv + direction * step_size * _steepest(gradient, norm)
        x_adv = _project(x_adv, x, eps, norm)
    return x_adv


def follow(model: Model, walks: Sequence[Walk], loss: Loss = cross_entropy) -> list[Tensor]:
    """Go several walks side by side; return the attacked images of each.

    What several ask for at the same images, to the last bit, is computed once: walks from one start
    share their gradients for as long as they are on one path.
    """
    ends: dict[int, Tensor] = {}
    told: dict[int, Tensor | None] = dict.fromkeys(range(len(walks)))
    with evaluating(model):
        while told:
            asked: list[tuple[Tensor, Tensor, Tensor]] = []  # images, labels, gradient
            for number, before in list(told.items()):
                try:
                    x, y = walks[number].send(before)  # type: ignore[arg-type]  # None begins it
                except StopIteration as end:
                    ends[number] = end.value
                    del told[number]
                    continue
                known = (g for a, b, g in asked if torch.equal(a, x) and torch.equal(b, y))
                gradient = next(known, None)
                if gradient is None:
                    gradient = _gradient(model, x, y, loss)
                    asked.append((x, y, gradient))
                told[number] = gradient
    return [ends[number] for number in range(len(walks))]


def _gradient(model: Model, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(x), y), x)
    return gradient


def _per_example(values: Tensor) -> Tensor:
    """Bring [n] to [n, 1, 1, 1], away from zero, to divide by."""
    return values.clamp_min(1e-12)[:, None, None, None]


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The step of length one that raises the loss most."""
    if norm == "Linf":
        return gradient.sign()
    # by the largest entry first: squares of small ones are zero, of large ones infinite
    largest = gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    gradient = gradient / largest[:, None, None, None]
    return gradient / _per_example(gradient.flatten(1).norm(dim=1))


def _project(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """Project onto the ball around x, then onto the box [0, 1], which keeps it in the ball."""
    delta = x_adv - x
    if norm == "Linf":
        delta = delta.clamp(-eps, eps)
    else:
        delta = delta * (eps / _per_example(delta.flatten(1).norm(dim=1))).clamp_max(1.0)
    return (x + delta).clamp(0.0, 1.0)


def _random_offset(
    ids: Tensor, shape: tuple[int, ...], eps: float, norm: Norm, seed: int
) -> Tensor:
    if norm == "Linf":
        return (2.0 * uniform(ids, shape, seed) - 1.0) * eps
    direction = _steepest(normal(ids, shape, seed), norm)
    # in d dimensions the share r**d of the ball lies within r; float32's power depends on the batch
    share = uniform(ids, (1, 1, 1), seed, stream=1).double()
    return direction * eps * share.pow(1 / math.prod(shape)).float()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put a module and its children in eval mode, and each back into its own mode after."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
