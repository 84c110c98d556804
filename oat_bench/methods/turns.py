"""A dial in even turns: equal steps of lambda go equal ways along the frontier."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from oat_bench.acceleration import Accelerated
from oat_bench.classifier import ModelInfo
from oat_bench.datasets import Split, nested_order
from oat_bench.training.pgd import pgd

STEPS = 5  #: of the attack that places are measured by, each half of eps long
_BATCH = 250


def even_turns(places: Sequence[float], points: ArrayLike, count: int) -> list[float]:
    """Return ascending places between which the frontier is equally long.

    Args:
        places: ascending, where it was measured.
        points: SA and RA there, shape [n, 2].
        count: how many, from the highest SA to the highest RA.

    Between these two SA is made to fall and RA to rise (isotonic regression), against chance.
    """
    sa, ra = np.asarray(points, dtype=np.float64).T
    last = int(ra.argmax())
    first = int(sa[: last + 1].argmax())
    if first == last:  # one point is the best in both
        first, last = 0, len(places) - 1
    sa, ra = sa[first : last + 1], ra[first : last + 1]
    falls, rises = isotonic_regression(sa, increasing=False).x, isotonic_regression(ra).x
    lengths = np.hypot(np.diff(falls), np.diff(rises))
    # a place on a flat part is as good as the next one, but two turns need two places
    lengths = lengths + 1e-3 * max(lengths.sum(), 1e-9) / len(lengths)
    along = np.concatenate([[0.0], lengths.cumsum()])
    turns = np.interp(np.linspace(0, along[-1], count), along, places[first : last + 1])
    return turns.tolist()  # type: ignore[no-any-return]


def sample(split: Split, count: int) -> Split:
    """Return so many images of a split, stratified, or all."""
    return split.take(nested_order(split.labels)[:count])


def attacks(
    plain: nn.Module, split: Split, info: ModelInfo, share: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split's images, attacked within a share of a model's eps (0: not), with labels."""
    model, device, eps = Accelerated(plain), split.labels.device, share * info.threat.eps
    for ids in torch.arange(len(split), device=device).chunk(-(-len(split) // _BATCH)):
        x, y = split.inputs(ids), split.labels[ids]
        if eps:
            how = {"eps": eps, "step_size": eps / 2, "steps": STEPS, "norm": info.threat.norm}
            x = pgd(model, x, y, example_ids=ids, seed=info.seed, **how)
        yield x, y


@torch.no_grad()
def accuracies(plain: nn.Module, split: Split, info: ModelInfo) -> tuple[float, float]:
    """Return SA and RA in percent."""
    found = []
    for share in (0.0, 1.0):
        right = [(plain(x).argmax(1) == y).sum() for x, y in attacks(plain, split, info, share)]
        found.append(100 * float(torch.stack(right).sum()) / len(split))
    return found[0], found[1]
