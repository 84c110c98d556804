"""The evaluation grid: every lambda against every attack."""

from collections.abc import Mapping, Sequence
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
from oat_bench.statistics.accuracy import robust_right


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
    Attacks of which the subject has a `Sample` come last, on survivors of those before.
    """
    subject.check(attacks)
    whole = [attack for attack in attacks if attack.label not in subject.samples]
    samples, n = subject.samples, len(subject.ids)
    seen = {attack.label: len(subject.share(attack.card.name)) for attack in attacks}
    seen |= {label: sample.most(n) for label, sample in samples.items() if label in seen}
    passes = len(points) * sum(attack.passes * seen[attack.label] for attack in attacks)
    total = len(points) * sum(seen.values())
    if images is not None:
        images.announce(total, subject.data.images[0])
    frames = []
    with bar("evaluating", total, show=show) as line:
        for point in points:
            at = subject.at(point, passes)
            found: dict[str, pd.DataFrame] = {}
            for chain in chains(whole):
                columns = [
                    _Column(at, attack, subject.share(attack.card.name), images, line)
                    for attack in (whole[place] for place in chain)
                ]
                line.note(f"{at}, {', '.join(column.attack.label for column in columns)}")
                for column in columns:
                    others = [other for other in columns if other is not column]
                    found[column.attack.label] = column.rows(others)
            for attack in (one for one in attacks if one.label in samples):
                line.note(f"{at}, {attack.label}")
                found[attack.label] = _sampled(at, attack, found, line, images)
            frames += [found[attack.label] for attack in attacks if len(found[attack.label])]
    return pd.concat(frames, ignore_index=True)[KEYS]


def outcomes(
    subject: Subject, point: OperatingPoint, attack: Attack, examples: Tensor
) -> pd.DataFrame:
    """Return what `evaluate` says of some examples and one attack, indexed by example."""
    part = replace(subject, examples=examples, fewer={}, samples={}, compile_it=False)
    return evaluate(part, [point], [attack], show=False).set_index("example")


def _sampled(
    at: AtPoint,
    attack: Attack,
    found: Mapping[str, pd.DataFrame],
    line: Bar,
    images: ImageFolder | None,
) -> pd.DataFrame:
    """Attack a sample of what stands after the attacks whose outcomes were ``found``."""
    ids, sample = at.subject.ids, at.subject.samples[attack.label]
    stands = [torch.tensor(robust_right(found[name]).to_numpy()) for name in sample.after]
    standing = ids[torch.stack(stands or [at.right(ids.to(at.device)).cpu()]).all(0)]
    rows, size, hits = pd.DataFrame(), 0, 0
    while (more := sample.size(len(ids), len(standing), size, hits)) > size:
        column = _Column(at, attack, standing[:more], images, line)
        column.count = counter(line, standing[size:more], len(at.data))
        rows = column.rows(())
        size, hits = more, int(robust_right(rows).sum())
    line.advance(sample.most(len(ids)) - size)
    return rows


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
