"""torchattacks' classes that depart from their authors' code under L2, put right.

``docs/trust.md`` says how release 3.5.1 departs. Under Linf both classes are torchattacks' own.
"""

import math
from functools import partial
from typing import Any

import torch
import torchattacks
from torch import Tensor

_TINY = 1e-12  #: keeps divisors from zero, as in the authors' code


class APGDT(torchattacks.APGDT):  # type: ignore[misc]  # the base has no types
    """APGD-T with a step size for each image, where torchattacks gives all the first one's."""

    loss = "dlr"  #: of the walk that it shares with APGD

    def attack_single_run(self, x_in: Tensor, y_in: Tensor) -> Any:
        """Walk as APGD does, whose steps are right, up the targeted loss (arXiv:2003.01690)."""
        if self.norm != "L2":
            return super().attack_single_run(x_in, y_in)
        target = self.get_logits(x_in).sort(dim=1)[1][:, -self.target_class]
        self.dlr_loss = partial(self.dlr_loss_targeted, y_target=target)
        return torchattacks.APGD.attack_single_run(self, x_in, y_in)


class Square(torchattacks.Square):  # type: ignore[misc]  # the base has no types
    """Square whose windows have a budget for each channel, on images of any size.

    torchattacks takes a window's norm over all channels at once. It and the authors' code fail
    where the tiles of the start overhang the image (12x12, 14x14, ...); here its edge cuts them.
    """

    def attack_single_run(self, x: Tensor, y: Tensor) -> Any:
        """Search at random, one window a query (arXiv:1912.00049, algorithm 3)."""
        if self.norm != "L2":
            return super().attack_single_run(x, y)
        with torch.no_grad():
            best = self._moved(x, self._tiles(x))
            margin, loss = self.margin_and_loss(best, y)
            for query in range(self.n_queries):
                left = (margin > 0).nonzero()[:, 0]
                if len(left) == 0:
                    break
                moved = self._moved(x[left], self._proposal(best[left] - x[left], query))
                new_margin, new_loss = self.margin_and_loss(moved, y[left])
                taken = (new_loss < loss[left]) | (new_margin <= 0)
                loss[left] = torch.minimum(new_loss, loss[left])
                margin[left] = torch.where(taken, new_margin, margin[left])
                best[left] = torch.where(taken[:, None, None, None], moved, best[left])
        return None, best

    def _moved(self, x: Tensor, delta: Tensor) -> Tensor:
        moved: Tensor = x + self.eps * delta / (_norm(delta, 1, 2, 3) + _TINY)
        return moved.clamp(0, 1)

    def _tiles(self, x: Tensor) -> Tensor:
        """Return a start: bumps on a grid of five tiles to the height, the sign of each drawn."""
        n, channels, height, width = x.shape
        side, delta = max(height // 5, 1), torch.zeros_like(x)
        first = max((height - 5 * side) // 2, 0)
        for top in range(first, first + height // side * side, side):
            for left in range(first, first + width // side * side, side):
                tile = self.eta(side) * self.random_choice([n, channels, 1, 1])
                inside = tile[:, :, : max(height - top, 0), : max(width - left, 0)]
                delta[:, :, top : top + side, left : left + side] += inside
        return delta

    def _proposal(self, delta: Tensor, query: int) -> Tensor:
        """Give a window, with a bump in it, its own budget, that of another, and what is left."""
        n, channels, height, width = delta.shape
        side = max(round(math.sqrt(self.p_selection(query) * height * width)), 3)
        side = min(side + (side % 2 == 0), height, width)
        corners = [int(self.random_int(0, size - side)) for size in (height, width) * 2]
        rows, columns, other_rows, other_columns = (slice(at, at + side) for at in corners)
        inside = torch.zeros_like(delta)
        inside[..., rows, columns] = inside[..., other_rows, other_columns] = 1
        unspent = (self.eps**2 - _norm(delta, 1, 2, 3) ** 2).clamp_min(0) / channels
        budget = (unspent + _norm(delta * inside, 2, 3) ** 2).sqrt()
        bump = self.eta(side) * self.random_choice([n, channels, 1, 1])
        bump = bump + _unit(delta[..., rows, columns])
        delta[..., other_rows, other_columns] = 0
        delta[..., rows, columns] = _unit(bump) * budget
        return delta


def _unit(delta: Tensor) -> Tensor:
    return delta / (_norm(delta, 2, 3) + _TINY)


def _norm(delta: Tensor, *dims: int) -> Tensor:
    return delta.square().sum(dims, keepdim=True).sqrt()
