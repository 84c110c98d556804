"""The evaluation grid: every lambda against every attack."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from oat_bench.acceleration import spending
from oat_bench.attacks.engines import Attack, chains
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation.cells import Cell, cell_name, counter, describe, fill
from oat_bench.evaluation.cost import shares
from oat_bench.evaluation.images import ImageFolder, Kept
from oat_bench.evaluation.subject import AtPoint, Subject, alike
from oat_bench.progress import Bar, bar
from oat_bench.results.outcomes import COLUMNS, KEYS


def evaluate(
    subject: Subject,
    points: Sequence[OperatingPoint],
    attacks: Sequence[Attack],
    *,
    images: ImageFolder | None = None,
    show: bool = True,
) -> pd.DataFrame:
    """Return a row of `KEYS` for each operating point, attack and example.

    An example that is wrong already is broken and not attacked; what a targeted attack takes for
    another class than the target is written down as right. What the store holds is computed again
    only where ``images`` lacks it; outcomes depend on neither batch size nor order (see `Blocks`).
    """
    subject.check(attacks)
    pairs = [(attack, subject.share(attack.card.name)) for attack in attacks]
    passes = len(points) * sum(attack.passes * len(share) for attack, share in pairs)
    total = len(points) * sum(len(share) for _, share in pairs)
    if images is not None:
        images.announce(total, subject.data.images[0])
    frames = []
    with bar("evaluating", total, show=show) as line:
        for point in points:
            at, found = subject.at(point, passes), {}
            for chain in chains(attacks):
                columns = [_Column(at, *pairs[place], images, line) for place in chain]
                line.note(f"{at}, {', '.join(column.attack.label for column in columns)}")
                for place, column in zip(chain, columns, strict=True):
                    found[place] = column.rows([other for other in columns if other is not column])
            frames += [found[place] for place in range(len(pairs))]
    return pd.concat(frames, ignore_index=True)[KEYS]


def outcomes(
    subject: Subject, point: OperatingPoint, attack: Attack, examples: Tensor
) -> pd.DataFrame:
    """Return what `evaluate` says of some examples and one attack, indexed by example."""
    part = replace(subject, examples=examples, fewer={}, compile_it=False)
    return evaluate(part, [point], [attack], show=False).set_index("example")


class _Column:
    """An attack at one point: the examples it is wanted of, and their images, if these are kept."""

    def __init__(
        self, at: AtPoint, attack: Attack, wanted: Tensor, images: ImageFolder | None, line: Bar
    ) -> None:
        self.at, self.attack, self.wanted = at, attack, wanted
        self.count = counter(line, wanted, len(at.data))
        self.standing = wanted if attack.per_example else at.subject.blocks.whole(wanted)
        self.kept = self.lacking = None
        if images is not None and attack.card.engine != "file":
            self.kept = Kept(images, cell_name(at, attack, (), None))
            self.lacking = None if self.kept.there(wanted).all() else self.kept
        self.cell = self._part(1, self.standing)

    def _part(self, number: int, examples: Tensor) -> Cell:
        cell = Cell(self.at, self.attack, number)
        if self.lacking is not None and cell.forget(examples[~self.lacking.there(examples)]):
            self.lacking.folder.note_again()
        return cell

    def rows(self, others: Sequence["_Column"]) -> pd.DataFrame:
        """Return the outcomes of all examples; ``others`` are attacked along where they lack them.

        Their attacks are of the same `Attack.start`.
        """
        at, attack, wanted, standing = self.at, self.attack, self.wanted, self.standing
        for other in others:
            other.cell.to_attack(other.wanted)
        found, parts = pd.DataFrame(), attack.parts()
        for number, part in enumerate(parts, 1):
            cell = self.cell if number == 1 else self._part(number, standing)
            craft, split = partial(self._craft, cell, others), partial(_split, at, part, standing)
            done = self.count if part is parts[-1] else lambda _ids: None
            fill([cell], standing, craft, split, done)
            rows = cell.rows(standing).set_index("example")
            found = rows if number == 1 else rows.combine_first(found)
            broken = torch.tensor((rows["attacked_prediction"] != rows["label"]).to_numpy())
            self.count(standing[broken])
            standing = standing[~broken]
        if self.lacking is not None:
            # what is wrong already is attacked for its image alone: elsewhere it may be right
            clean = found["clean_prediction"] == found["label"]
            wrong = torch.tensor(found.index[~clean].to_numpy(), dtype=torch.int64)
            if attack.per_example:
                wrong = wrong[~self.lacking.holds(wrong)]
            for batch in at.batches(attack, wrong):
                self._craft(self.cell, others, batch.to(at.device), attack)
        if self.kept is not None:
            self.kept.write(describe(at, attack), wanted, at.data.labels)
        found = found.loc[wanted.numpy()].astype(dict.fromkeys(COLUMNS[1:], "int64"))
        return found.reset_index().assign(attack=attack.label)

    def _craft(
        self, cell: Cell, others: Sequence["_Column"], ids: Tensor, attack: Attack | None = None
    ) -> Tensor:
        """Attack images for a cell, and keep its outcomes and those that others lack."""
        columns, cells = [self, *others], [cell, *(other.cell for other in others)]
        attacks = [attack or cell.attack, *(other.attack for other in others)]
        wanted = [torch.ones(len(ids), dtype=torch.bool), *(o.lacks(ids.cpu()) for o in others)]
        attacked = torch.empty_like(self.at.data.inputs(ids))
        for chosen, places in alike(torch.stack(wanted)):
            here = ids[places]
            with spending() as spent:
                images = self.at.craft([attacks[k] for k in chosen], here)
                found = [cells[k].classify(here, x) for k, x in zip(chosen, images, strict=True)]
            names = ",".join(columns[k].attack.label for k in chosen)
            for k, x_adv, rows in zip(chosen, images, found, strict=True):
                if (kept := columns[k].lacking) is not None:
                    kept.add(here, x_adv)
                cells[k].keep(rows.assign(**shares(spent, len(rows), names, self.at.device)))
                if k > 0:
                    columns[k].count(here.cpu())
            attacked[places] = images[0]
        return attacked

    def lacks(self, examples: Tensor) -> Tensor:
        """Say which examples outcomes or images are wanted of, and lacking: bool, shape [n]."""
        lacking = self.cell.lacks(examples)
        if self.lacking is not None:
            lacking |= ~self.lacking.holds(examples)
        return lacking & torch.isin(examples, self.wanted)


def _split(at: AtPoint, attack: Attack, standing: Tensor, ids: Tensor) -> Sequence[Tensor]:
    # a block as a whole, all of it that is right and stands
    if not attack.per_example and len(ids):
        mates = standing[torch.isin(standing, at.subject.blocks.whole(ids))]
        ids = mates[at.right(mates.to(at.device)).cpu()]
    return at.batches(attack, ids)
