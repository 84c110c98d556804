"""A dial in even turns: equal steps of lambda go equal ways along the frontier."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import AfterValidator, Field
from scipy.optimize import isotonic_regression
from torch import nn

from oat_bench.acceleration import Accelerated, choose_precision
from oat_bench.cards import Fraction
from oat_bench.classifier import ModelInfo
from oat_bench.datasets import Split, nested_order
from oat_bench.methods.trainable import Options
from oat_bench.progress import bar
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import pgd

TURNS = 21  #: at even lambda from 0 to 1; linear between
WORTH = 10.0  #: points of SA that one point of RA is worth at most, at the robust end
STEPS = 5  #: of the attack that places are measured by, each half of eps long
_BATCH = 250


def _ascending(turns: list[float]) -> list[float]:
    if turns[0] < 0 or any(high <= low for low, high in pairwise(turns)):
        raise ValueError("expected places from 0 on, each above the one before")
    return turns


class Turning(Options):
    """How even turns are found, and what was found."""

    reach: Annotated[Fraction, Field(gt=0, le=4)] = Field(
        default=1.75, description="how far the dial may go on the network's own, whose end is at 1"
    )
    images: Annotated[int, Field(ge=100)] = Field(
        default=1000, description="validation images, stratified; all if there are fewer"
    )
    turns: Annotated[list[float], Field(min_length=2), AfterValidator(_ascending)] | None = Field(
        default=None, description="places at even lambda from 0 to 1; absent: found on the images"
    )

    @property
    def places(self) -> list[float]:
        """The turns; lambda itself where none were found."""
        return self.turns or [0.0, 1.0]

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is."""
        return float(np.interp(lam, np.linspace(0, 1, len(self.places)), self.places))


def turned(
    info: ModelInfo,
    options: Turning,
    held_out: Split,
    knots: Sequence[float],
    at: Callable[[float], nn.Module],
) -> tuple[ModelInfo, str]:
    """Find even turns of a classifier ``at`` a place; return it with them, and say how.

    It takes about 200 passes of each image: SA and RA at the knots, at others between, and beyond.
    """
    some = sample(held_out, options.images)
    places = _between([*(knot for knot in knots if knot < options.reach), options.reach])
    points = []
    with bar("measuring even turns", len(places)) as line:
        for place in places:
            points.append(accuracies(at(place), some, info))
            line.advance()
    turns = even_turns(places, points, TURNS)
    return info.model_copy(update={"options": info.options | {"turns": turns}}), (
        f"even turns from {turns[0]:.3g} to {turns[-1]:.3g} of the network's own dial, found on "
        f"{len(some)} validation images"
    )


def _between(knots: Sequence[float]) -> list[float]:
    """Return places to measure: knots, and others between; most after the first, the bridge."""
    places = [knots[-1]]
    for number, (low, high) in enumerate(pairwise(knots)):
        parts = max(1 if number else 4, math.ceil((high - low) / 0.15))
        places += [low + (high - low) * part / parts for part in range(parts)]
    return sorted(places)


def even_turns(places: Sequence[float], points: ArrayLike, count: int) -> list[float]:
    """Return ascending places between which the frontier is equally long.

    Args:
        places: ascending, where it was measured; the first, the accurate end, is the first turn.
        points: SA and RA there, shape [n, 2].
        count: how many turns; the last is where RA + SA / `WORTH` is highest.

    Between the ends SA is made to fall and RA to rise (isotonic regression), against chance.
    """
    sa, ra = np.asarray(points, dtype=np.float64).T
    last = int((ra + sa / WORTH).argmax()) or len(places) - 1
    sa, ra = sa[: last + 1], ra[: last + 1]
    falls, rises = isotonic_regression(sa, increasing=False).x, isotonic_regression(ra).x
    lengths = np.hypot(np.diff(falls), np.diff(rises))
    # a place on a flat part is as good as the next one, but two turns need two places
    lengths = lengths + 1e-3 * max(lengths.sum(), 1e-9) / len(lengths)
    along = np.concatenate([[0.0], lengths.cumsum()])
    turns = np.interp(np.linspace(0, along[-1], count), along, places[: last + 1])
    return turns.tolist()  # type: ignore[no-any-return]


def sample(split: Split, count: int) -> Split:
    """Return so many images of a split, stratified, or all."""
    return split.take(nested_order(split.labels)[:count])


@torch.no_grad()
def accuracies(plain: nn.Module, split: Split, info: ModelInfo) -> tuple[float, float]:
    """Return SA and RA in percent, under the threat of a model."""
    device, eps = split.labels.device, info.threat.eps
    fast = choose_precision("auto", device, math.prod(info.input_shape))
    seen, exact = Accelerated(plain, precision=fast), Accelerated(plain)
    budget = vars(Budget(info.threat.norm, eps, eps / 2, STEPS))
    found = torch.zeros(2, device=device)
    for ids in torch.split(torch.arange(len(split), device=device), _BATCH):
        x, y = split.inputs(ids), split.labels[ids]
        x_adv = pgd(seen, x, y, example_ids=ids, seed=info.seed, **budget)
        found += torch.stack([(exact(images).argmax(1) == y).sum() for images in (x, x_adv)])
    sa, ra = (100 * found / len(split)).tolist()
    return sa, ra
