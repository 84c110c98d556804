"""Where images that were attacked elsewhere are classified, and what the store lacks there."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.grid import Subject
from oat_bench.progress import Bar
from oat_bench.results.outcomes import CellInfo, OutcomeStore


class Place:
    """One operating point, and the cell of what is classified there.

    Args:
        subject: the classifier at the operating point.
        cell: name of the cell.
        store: holds it.
        about: makes its description.
    """

    def __init__(
        self,
        subject: Subject,
        cell: str,
        store: OutcomeStore,
        about: Callable[[], CellInfo],
    ) -> None:
        self.subject, self._cell, self._store, self._about = subject, cell, store, about
        self._known = np.zeros(len(subject.data), dtype=np.bool_)
        self._known[store.read(cell)["example"].to_numpy()] = True

    def lacks(self, examples: Tensor) -> Tensor:
        """Say which examples the cell has no outcome of: bool, shape [n]."""
        return torch.from_numpy(~self._known[examples.numpy()])

    def to_attack(self, examples: Tensor) -> Tensor:
        """Say which examples are lacking and right: bool, shape [n]; keep what is wrong already."""
        lacking = self.lacks(examples)
        if not lacking.any():
            return lacking
        ids = examples[lacking].to(self.subject.data.labels.device)
        clean = self.subject.clean(ids)
        wrong = clean != self.subject.data.labels[ids]
        if wrong.any():
            self._keep(ids[wrong], clean[wrong], clean[wrong])
        return self.lacks(examples)

    @torch.no_grad()
    def classify(self, examples: Tensor, x_adv: Tensor) -> None:
        """Classify the attacked images of the examples that the cell lacks; they are right."""
        lacking = self.lacks(examples)
        if lacking.any():
            where = lacking.to(x_adv.device)
            ids = examples.to(x_adv.device)[where]
            labels = self.subject.data.labels[ids]
            self._keep(ids, labels, self.subject.exact(x_adv[where]).argmax(1))

    def rows(self, examples: Tensor) -> pd.DataFrame:
        """Return the outcomes of examples, in their order: lam, width and `COLUMNS`."""
        point = self.subject.point
        rows = self._store.read(self._cell).set_index("example").loc[examples.numpy()]
        return rows.reset_index().assign(lam=point.lam, width=point.width)

    def _keep(self, ids: Tensor, clean: Tensor, attacked: Tensor) -> None:
        self.subject.keep(self._store, self._cell, self._about, ids, clean, attacked)
        self._known[ids.cpu().numpy()] = True


def fill(
    places: Sequence[Place],
    examples: Tensor,
    craft: Callable[[Tensor], Tensor],
    split: Callable[[Tensor], Sequence[Tensor]],
    line: Bar,
    *,
    blocks: Blocks | None = None,
) -> None:
    """Attack what some place lacks, once, and classify it at each place that lacks it.

    Args:
        places: where images are classified.
        examples: ids.
        craft: from ids, on the device of the data, to attacked images.
        split: into what is attacked at a time.
        line: advances by one for each example.
        blocks: of an attack that draws for its batch: blocks are then attacked as a whole, whatever
            the places have right. None: what is wrong at every place is not attacked.
    """
    missing = examples[torch.stack([place.lacks(examples) for place in places]).any(0)]
    line.advance(len(examples) - len(missing))
    asked = set(missing.tolist())
    if blocks is not None:
        missing = blocks.whole(missing)
    right = torch.stack([place.to_attack(missing) for place in places]).any(0)
    attacked = missing[right] if blocks is None else missing
    line.advance(len(asked.difference(attacked.tolist())))
    for batch in split(attacked):
        x_adv = craft(batch.to(places[0].subject.data.labels.device))
        for place in places:
            place.classify(batch, x_adv)
        line.advance(len(asked.intersection(batch.tolist())))
