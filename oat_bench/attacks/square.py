"""Square, a random search with squares (Andriushchenko et al., arXiv:1912.00049).

By the same draws it breaks what torchattacks' class breaks under Linf, and what the authors' code
breaks under L2 (see ``docs/trust.md``); each image has draws of its own. A proposal that clipping
undoes is not asked about. Edges of images of any size cut the tiles of L2's start.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.attacks.card import Count, Number, Seed, Switch
from oat_bench.attacks.standing import fooled, in_turn, logit_of
from oat_bench.cards import Norm
from oat_bench.randomness import uniform

_SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  #: after so many of 10,000 queries
_TINY = 1e-12  #: keeps divisors from zero, as in the authors' code
Draw = Callable[..., Tensor]  #: numbers of a shape in [0, 1), for each image


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    targeted: bool = False,
    norm: Norm = "Linf",
    eps: Number = 8 / 255,
    n_queries: Count = 5000,
    n_restarts: Count = 1,
    p_init: Number = 0.8,
    loss: Literal["margin", "ce"] = "margin",
    resc_schedule: Switch = True,
    seed: Seed = 0,
    verbose: Switch = False,
) -> Tensor:
    """Search the ball without gradients, one square of an image at a time."""

    def side(query: int, area: int) -> float:
        if resc_schedule:
            query = int(query / n_queries * 10000)
        return math.sqrt(p_init / 2 ** sum(query > after for after in _SHRINKS) * area)

    def losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much an image stands, and what the search lowers: [n] each."""
        own = logit_of(logits, y)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        margin = others - own if targeted else own - others
        if loss == "margin":
            return margin, margin
        entropy = F.cross_entropy(logits, y, reduction="none")
        return margin, entropy if targeted else -entropy

    start, propose = (_stripes, _square) if norm == "Linf" else (_tiles, _window)

    def attempt(restart: int, places: Tensor) -> tuple[Tensor, Tensor]:
        clean, label, ids = x[places], y[places], example_ids[places]
        area, place = clean[0, 0].numel(), torch.arange(len(places), device=x.device)
        found, broken = clean.clone(), torch.zeros_like(place, dtype=torch.bool)
        best = lowest = torch.empty(0)
        for query in range(-1, n_queries):
            stream = restart * (n_queries + 1) + query + 1
            draw = partial(uniform, ids, seed=seed, stream=stream)
            if query < 0:
                moved, asked = start(clean, draw, eps), torch.arange(len(place), device=x.device)
            else:
                moved = propose(clean, best, draw, side(query, area), eps)
                asked = (moved != best).flatten(1).any(1).nonzero()[:, 0]
                if len(asked) == 0:
                    continue
                moved = moved[asked]
            logits = model(moved)
            margin, value = losses(logits, label[asked])
            if query < 0:
                best, lowest = moved, value
            taken = (value < lowest[asked]) | (margin <= 0)
            best[asked[taken]] = moved[taken]
            lowest[asked] = torch.minimum(value, lowest[asked])
            down = (margin <= 0).nonzero()[:, 0]
            down = down[
                fooled(model, moved[down], label[asked[down]], logits[down], targeted=targeted)
            ]
            if len(down):
                gone = place[asked[down]]
                broken[gone], found[gone] = True, moved[down]
                left = torch.ones_like(place, dtype=torch.bool)
                left[asked[down]] = False
                clean, label, ids, place = clean[left], label[left], ids[left], place[left]
                best, lowest = best[left], lowest[left]
            if len(place) == 0:
                break
        return found, broken

    attempts = [partial(attempt, restart) for restart in range(n_restarts)]
    return in_turn(model, x, y, attempts, targeted=targeted)


def _sign(draws: Tensor) -> Tensor:
    return (2 * draws - 1).sign()


def _stripes(x: Tensor, draw: Draw, eps: float) -> Tensor:
    """Return the start under Linf: columns, each up or down by eps."""
    return (x + eps * _sign(draw((x.shape[1], 1, x.shape[3]))).to(x)).clamp(0, 1)


def _square(x: Tensor, best: Tensor, draw: Draw, side: float, eps: float) -> Tensor:
    """Move a square, each channel to one end or the other of what is allowed (algorithm 2)."""
    u = draw((2 + x.shape[1],))
    at = _pixels(x, u[:, :2], min(max(round(side), 1), *x.shape[2:]))
    near, flat = x.flatten(2).gather(2, at), best.flatten(2)
    moved = flat.gather(2, at) + 2 * eps * _sign(u[:, 2:, None]).to(x)
    moved = torch.min(torch.max(moved, near - eps), near + eps).clamp(0, 1)
    return flat.scatter(2, at, moved).view_as(x)


def _pixels(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Return the places [n, C, side * side], in flattened images, of a square drawn for each."""
    within = torch.arange(side, device=x.device)
    first = [(corner[:, k] * (size - side)).long() for k, size in enumerate(x.shape[2:])]
    rows, columns = (start[:, None] + within for start in first)
    places = rows[:, :, None] * x.shape[3] + columns[:, None]
    return places.flatten(1)[:, None].expand(-1, x.shape[1], -1)


def _tiles(x: Tensor, draw: Draw, eps: float) -> Tensor:
    """Return the start under L2: bumps on a grid of five tiles to the height."""
    _, channels, height, width = x.shape
    side, delta = max(height // 5, 1), torch.zeros_like(x)
    first = max((height - 5 * side) // 2, 0)
    across, down = width // side, height // side
    u = draw((down * across, 1 + channels))
    for k in range(down * across):
        top, left = (first + side * place for place in divmod(k, across))
        tile = _bumps(u[:, k], side, x).view(-1, channels, side, side)
        inside = tile[:, :, : max(height - top, 0), : max(width - left, 0)]
        delta[:, :, top : top + side, left : left + side] += inside
    return _moved(x, delta.flatten(2), eps)


def _window(x: Tensor, best: Tensor, draw: Draw, side: float, eps: float) -> Tensor:
    """Give a window, with a bump in it, its budget, that of another, and what is left (3)."""
    odd = max(round(side), 3)
    odd = min(odd + (odd % 2 == 0), *x.shape[2:])
    delta, u = (best - x).flatten(2), draw((5 + x.shape[1],))
    at, other = _pixels(x, u[:, :2], odd), _pixels(x, u[:, 2:4], odd)
    inside = torch.zeros_like(delta).scatter(2, at, 1.0).scatter(2, other, 1.0)
    unspent = (eps**2 - _norm(delta, 1, 2) ** 2).clamp_min(0) / x.shape[1]
    budget = (unspent + _norm(delta * inside, 2) ** 2).sqrt()
    bump = _unit(_bumps(u[:, 4:], odd, x) + _unit(delta.gather(2, at)))
    return _moved(x, delta.scatter(2, other, 0.0).scatter(2, at, bump * budget), eps)


def _moved(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (x + (eps * delta / (_norm(delta, 1, 2) + _TINY)).view_as(x)).clamp(0, 1)


def _bumps(u: Tensor, side: int, x: Tensor) -> Tensor:
    """Return a bump [n, C, side * side] for each image: upright or turned, its signs drawn."""
    bump = _bump(side).to(x)
    turned = torch.where(u[:, :1] > 0.5, bump.T.flatten(), bump.flatten())
    return turned[:, None] * _sign(u[:, 1:, None]).to(x)


@lru_cache(maxsize=64)
def _bump(side: int) -> Tensor:
    """Return a pyramid over one that is turned down, of norm 1 (section 3.4)."""
    bump = torch.cat([_pyramid(side // 2, side), -_pyramid(side - side // 2, side)])
    return bump / bump.square().sum().sqrt()


def _pyramid(height: int, width: int) -> Tensor:
    steps, middle = torch.zeros(height, width, dtype=torch.float64), (height // 2, width // 2)
    for k in range(max(height, width) // 2 + 1):
        rows, columns = (slice(max(at - k, 0), at + k + 1) for at in middle)
        steps[rows, columns] += 1 / (k + 1) ** 2
    return steps / steps.square().sum().sqrt()


def _unit(delta: Tensor) -> Tensor:
    return delta / (_norm(delta, 2) + _TINY)


def _norm(delta: Tensor, *dims: int) -> Tensor:
    return delta.square().sum(dims, keepdim=True).sqrt()
