"""Auto-PGD, on cross-entropy, on DLR and targeted (Croce and Hein, arXiv:2003.01690).

From the same start it breaks what torchattacks' classes break, in fewer passes: an image is left
alone once it is broken, and the last gradient, which nothing follows, is not computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.attacks.card import Count, Number, Seed, Switch
from oat_bench.attacks.standing import Attempt, fooled, in_turn, logit_of
from oat_bench.cards import Norm
from oat_bench.errors import UserError
from oat_bench.randomness import normal, uniform

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  #: of logits [n, num_classes], y, targets
_TINY = 1e-12  #: keeps divisors from zero


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    norm: Norm = "Linf",
    eps: Number = 8 / 255,
    steps: Count = 10,
    n_restarts: Count = 1,
    seed: Seed = 0,
    loss: Literal["ce", "dlr"] = "ce",
    eot_iter: Literal[1] = 1,
    rho: Number = 0.75,
    verbose: Switch = False,
) -> Tensor:
    """Climb the cross-entropy or the difference of logits ratio, from random starts."""
    climb = partial(_climb, model, norm=norm, eps=eps, steps=steps, rho=rho, loss=_LOSSES[loss])

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        given = x[places], y[places], y[places]
        return climb(*given, _start(x[places], example_ids[places], norm, eps, seed, restart))

    return in_turn(model, x, y, [partial(attempt, restart) for restart in range(n_restarts)])


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    norm: Norm = "Linf",
    eps: Number = 8 / 255,
    steps: Count = 10,
    n_restarts: Count = 1,
    seed: Seed = 0,
    eot_iter: Literal[1] = 1,
    rho: Number = 0.75,
    verbose: Switch = False,
    n_classes: Count = 10,
) -> Tensor:
    """Climb the targeted DLR loss of ``n_classes`` - 1 targets in turn, the likeliest first."""
    climb = partial(_climb, model, norm=norm, eps=eps, steps=steps, rho=rho, loss=_targeted_dlr)
    with torch.no_grad():
        ranks = model(x).argsort(dim=1, descending=False)
    if ranks.shape[1] < 4:
        raise UserError(f"APGD-T compares four logits; the model has {ranks.shape[1]}")

    def attempt(target: int, run: int, places: Tensor) -> tuple[Tensor, Tensor]:
        given = x[places], y[places], ranks[places, -target]
        return climb(*given, _start(x[places], example_ids[places], norm, eps, seed, run))

    runs = [(rank, k) for rank in range(2, n_classes + 1) for k in range(n_restarts)]
    attempts: list[Attempt] = [partial(attempt, rank, i) for i, (rank, _) in enumerate(runs)]
    return in_turn(model, x, y, attempts)


def _start(x: Tensor, ids: Tensor, norm: Norm, eps: float, seed: int, run: int) -> Tensor:
    """Draw a start on the sphere; of Linf on a face of the cube."""
    shape = tuple(x.shape[1:])
    if norm == "Linf":
        t = 2 * uniform(ids, shape, seed, run).to(x) - 1
        return (x + eps * t / t.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)
    t = normal(ids, shape, seed, run).to(x)
    return (x + eps * t / (_length(t) + _TINY)).clamp(0, 1)


def _climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    start: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    rho: float,
    loss: Loss,
) -> tuple[Tensor, Tensor]:
    """Return images, and which are broken; algorithm 1, without what is broken."""
    found, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    s = {"place": torch.arange(len(x), device=x.device), "x": x, "y": y, "target": target}
    s |= {"at": start, "before": start, "best": start, "slope": torch.zeros_like(x)}
    s["best_slope"] = s["slope"]
    s |= {"step": torch.full_like(zeros, 2 * eps)[:, None, None, None]}
    # the first loss is compared with 0, as in the authors' code
    s |= {"loss": zeros, "highest": zeros - torch.inf, "checked": zeros - torch.inf}
    s |= {"rises": zeros, "halved": zeros == 0}
    interval, since, shortest = max(int(0.22 * steps), 1), 0, max(int(0.06 * steps), 1)
    for i in range(steps + 1):
        if i > 0:
            momentum = s["at"] - s["before"] if i > 1 else 0.0
            s["before"], share = s["at"], 0.75 if i > 1 else 1.0
            ahead = _ascend(s["at"], s["x"], s["slope"], s["step"], norm, eps)
            ahead = s["at"] + (ahead - s["at"]) * share + momentum * (1 - share)
            s["at"] = _project(ahead, s["x"], norm, eps)
        at = s["at"].detach().requires_grad_()
        with torch.enable_grad():
            logits = model(at)
            values = loss(logits, s["y"], s["target"])
            total = values.sum()
        down = fooled(model, s["at"], s["y"], logits.detach())
        if down.any():
            broken[s["place"][down]], found[s["place"][down]] = True, s["at"][down]
        if i == steps or down.all():
            break
        (s["slope"],) = torch.autograd.grad(total, at)
        values = values.detach()
        if i > 0:
            s["rises"] = s["rises"] + (values > s["loss"])
            s["loss"], since = values, since + 1
        up = values > s["highest"]
        s["highest"] = torch.where(up, values, s["highest"])
        for best, new in (("best", "at"), ("best_slope", "slope")):
            s[best] = torch.where(up[:, None, None, None], s[new], s[best])
        if i == 0:
            s["checked"] = s["highest"]
        elif since == interval:
            stuck = ~s["halved"] & (s["checked"] >= s["highest"])
            s["halved"] = halve = (s["rises"] <= interval * rho) | stuck
            s["checked"], s["rises"] = s["highest"], torch.zeros_like(s["rises"])
            s["step"] = torch.where(halve[:, None, None, None], s["step"] / 2, s["step"])
            for own, best in (("at", "best"), ("slope", "best_slope")):
                s[own] = torch.where(halve[:, None, None, None], s[best], s[own])
            interval, since = max(interval - max(int(0.03 * steps), 1), shortest), 0
        if down.any():
            s = {name: values[~down] for name, values in s.items()}
    return found, broken


def _ascend(at: Tensor, x: Tensor, slope: Tensor, step: Tensor, norm: Norm, eps: float) -> Tensor:
    if norm == "Linf":
        return _project(at + step * slope.sign(), x, norm, eps)
    return _project(at + step * slope / (_length(slope) + _TINY), x, norm, eps)


def _project(at: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    if norm == "Linf":
        return torch.min(torch.max(at, x - eps), x + eps).clamp(0, 1)
    length = _length(at - x)
    return (x + (at - x) / (length + _TINY) * (length + _TINY).clamp_max(eps)).clamp(0, 1)


def _length(delta: Tensor) -> Tensor:
    return delta.square().sum((1, 2, 3), keepdim=True).sqrt()


def _cross_entropy(logits: Tensor, y: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _dlr(logits: Tensor, y: Tensor, _: Tensor) -> Tensor:
    """The difference of logits ratio, equation 2."""
    ranked, order = logits.sort(dim=1)
    other = torch.where(order[:, -1] == y, ranked[:, -2], ranked[:, -1])
    return (other - logit_of(logits, y)) / (ranked[:, -1] - ranked[:, -3] + _TINY)


def _targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted one, equation 3."""
    ranked = logits.sort(dim=1)[0]
    spread = ranked[:, -1] - 0.5 * ranked[:, -3] - 0.5 * ranked[:, -4]
    return (logit_of(logits, target) - logit_of(logits, y)) / (spread + _TINY)


_LOSSES: dict[str, Loss] = {"ce": _cross_entropy, "dlr": _dlr}
