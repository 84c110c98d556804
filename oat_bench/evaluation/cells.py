"""Cells of the store: a classifier at a point, an attack, and what came of each example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import Attack
from oat_bench.evaluation.subject import AtPoint
from oat_bench.files import sha256
from oat_bench.results.outcomes import COLUMNS


@dataclass(frozen=True)
class Origin:
    """Where images were attacked that are classified elsewhere."""

    kind: str
    source: object  # its repr goes into the fingerprint
    lams: Sequence[float]  # all that decide the images
    place: str  # in the name of the cell
    words: str  # in its description


def cell_name(at: AtPoint, attack: Attack, rules: Sequence[str], origin: Origin | None) -> str:
    """Name a cell by all that decides its outcomes."""
    kind, source = ((origin.kind,), (repr(origin.source),)) if origin else ((), ())
    parts = (*kind, *at.subject.fingerprints, *rules, *source, repr(at.point), attack.fingerprint())
    if origin is None:
        label, where = attack.name, str(at).replace(" ", "").replace(",", "-")
    else:
        label, where = attack.card.name, f"{origin.place}-lambda{at.point.lam:g}"
    return f"{label}-{where}-{sha256(*parts)[:16]}"


def stored_name(at: AtPoint, attack: Attack, origin: Origin | None = None) -> str:
    """Name the cell of the store that holds an attack's outcomes."""
    lams = origin.lams if origin else [at.point.lam]
    return cell_name(at, attack, (*at.subject.classifier.rules(lams), *at.rules), origin)


def describe(at: AtPoint, attack: Attack, part: int = 1, origin: Origin | None = None) -> CellInfo:
    """Say what a cell of an attack, or a file of its images, holds."""
    info = at.subject.classifier.info
    model, data, gradients = at.subject.fingerprints
    return CellInfo(
        dataset=info.dataset,
        data=data,
        method=info.method,
        architecture=info.architecture,
        model=model,
        lam=at.point.lam,
        width=at.point.width,
        attack=attack.label,
        part=part,
        parts=1 if origin else len(attack.chain),
        crafted=origin.words if origin else "",
        engine=attack.engine,
        norm=attack.threat.norm,
        eps=attack.threat.eps,
        seed=attack.seed,
        card=attack.card.fingerprint(),
        gradients=gradients,
    )


class Cell:
    """The outcomes of an attack, or of its part by number from 1, at one point, in the store."""

    def __init__(
        self, at: AtPoint, attack: Attack, part: int = 1, origin: Origin | None = None
    ) -> None:
        self.at, self._store = at, at.subject.store
        self.attack = attack if origin else attack.parts()[part - 1]
        self.name = stored_name(at, self.attack, origin)
        self._about = partial(describe, at, attack, part, origin)
        self._frames = [self._store.read(self.name)]
        self._known = self._among(self._frames[0])

    def _among(self, rows: pd.DataFrame) -> Tensor:
        ids = torch.tensor(rows["example"].to_numpy(), dtype=torch.int64)
        return torch.isin(torch.arange(len(self.at.data)), ids)

    def forget(self, examples: Tensor) -> bool:
        """Compute again what was attacked of some examples; say whether there is any."""
        rows = self._frames[0]
        attacked = self._among(rows[rows["clean_prediction"] == rows["label"]])
        again = examples[attacked[examples]]
        self._known[again] = False
        return len(again) > 0

    def lacks(self, examples: Tensor) -> Tensor:
        """Say which examples there is no outcome of: bool, shape [n]."""
        return ~self._known[examples]

    def to_attack(self, examples: Tensor) -> Tensor:
        """Say which examples are lacking and right: bool, shape [n]; keep what is wrong already."""
        lacking = examples[self.lacks(examples)].to(self.at.device)
        if len(lacking):
            wrong = lacking[~self.at.right(lacking)]
            self.keep(self._outcomes(wrong, self.at.clean(wrong)))
        return self.lacks(examples)

    def classify(self, ids: Tensor, x_adv: Tensor) -> pd.DataFrame:
        """Return the outcomes of what is lacking; ids are on the device of the data."""
        lacking = self.lacks(ids.cpu()).to(ids.device)
        ids = ids[lacking]
        if not len(ids):
            return self._outcomes(ids, ids)
        attacked = self.at.attacked(self.attack, ids, x_adv[lacking])
        return self._outcomes(ids, torch.where(self.at.right(ids), attacked, self.at.clean(ids)))

    def _outcomes(self, ids: Tensor, attacked: Tensor) -> pd.DataFrame:
        columns = (ids, self.at.data.labels[ids], self.at.clean(ids), attacked)
        return pd.DataFrame({k: v.cpu().numpy() for k, v in zip(COLUMNS, columns, strict=True)})

    def keep(self, rows: pd.DataFrame) -> None:
        """Keep outcomes, and what they cost, if it is known: `COLUMNS`, `COSTS`."""
        if len(rows):
            self._store.describe(self.name, self._about)
            self._frames.append(rows)
            self._store.append(self.name, self._frames[-1])
            self._known[torch.tensor(rows["example"].to_numpy())] = True

    def rows(self, examples: Tensor) -> pd.DataFrame:
        """Return the outcomes of examples, in their order: lam, width and `COLUMNS`."""
        rows = pd.concat(self._frames)[COLUMNS].drop_duplicates("example").set_index("example")
        point = self.at.point
        return rows.loc[examples.numpy()].reset_index().assign(lam=point.lam, width=point.width)


def fill(
    cells: Sequence[Cell],
    examples: Tensor,
    craft: Callable[[Tensor], Tensor],
    split: Callable[[Tensor], Sequence[Tensor]],
    needs: Callable[[int], None],
) -> None:
    """Attack, once, what a cell lacks, and classify it at each; ``split`` may add ids.

    ``needs`` is told how many images are attacked.
    """
    missing = examples[torch.stack([cell.lacks(examples) for cell in cells]).any(0)]
    needed = missing[torch.stack([cell.to_attack(missing) for cell in cells]).any(0)]
    batches = split(needed)
    needs(sum(map(len, batches)))
    for batch in batches:
        ids = batch.to(cells[0].at.device)
        x_adv = craft(ids)
        for cell in cells:
            cell.keep(cell.classify(ids, x_adv))
