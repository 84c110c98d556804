"""Blocks of examples: what an attack of another library draws its random numbers for.

Such an attack draws for a batch, so that the batch decides the outcomes. Its batches are therefore
those of a fixed partition of the data set: the first 128 examples of the nested order, the next
128, then 256 each. A first n of the order cuts one block at most, and what that block has more
stays in the store. Smaller blocks would save nothing: a query of a few images takes as long.
"""

import torch
from torch import Tensor

from oat_bench.datasets.splits import nested_order

_FIRST, _LARGEST = 128, 256


class Blocks:
    """The partition of the data set that has these labels, shape [n]."""

    def __init__(self, labels: Tensor) -> None:
        self._order = nested_order(labels)
        places = torch.arange(len(labels))
        number = torch.where(places < _LARGEST, places // _FIRST, 1 + places // _LARGEST)
        self._number = torch.empty(len(labels), dtype=torch.int64)
        self._number[self._order] = number

    def whole(self, examples: Tensor) -> Tensor:
        """Return all examples of the blocks that hold some of ``examples``, in nested order."""
        held = torch.isin(self._number, self._number[examples])
        return self._order[held[self._order]]

    def split(self, examples: Tensor) -> list[Tensor]:
        """Split examples into those of each block; they keep their order."""
        numbers = self._number[examples]
        return [examples[numbers == number] for number in torch.unique(numbers)]
