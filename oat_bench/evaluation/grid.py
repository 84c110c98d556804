"""The evaluation grid: every lambda against every attack."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from oat_bench.acceleration import spending
from oat_bench.attacks.engines import Attack, chains
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import stages
from oat_bench.evaluation.cells import Cell, cell_name, describe, fill
from oat_bench.evaluation.cost import shares
from oat_bench.evaluation.images import ImageFolder, Kept
from oat_bench.evaluation.sharing import Job, spread
from oat_bench.evaluation.stages import Stage
from oat_bench.evaluation.subject import AtPoint, Subject, alike
from oat_bench.progress import Bar
from oat_bench.progress import passes as passes_bar
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
    """Return a row of `KEYS` for each operating point, attack and example; none in a shard.

    An example that is wrong already is broken and not attacked; what a targeted attack takes for
    another class than the target is written down as right. What the store holds is computed again
    only where ``images`` lacks it; outcomes depend on neither batch size nor order (see `Blocks`).
    Attacks of which the subject has a `Sample` come last, on survivors of those before.
    """
    subject.check(attacks)
    planned = stages.of(subject, points, attacks)
    passes = sum(stage.most.total for stage in planned)
    if not _shared_out(subject, points, attacks, passes):
        return pd.DataFrame(columns=KEYS)
    whole, sampled = _phases(subject, attacks)
    if images is not None:
        most = [subject.samples[attack.label].most(len(subject.ids)) for attack in sampled]
        each = sum(len(subject.share(attack.card.name)) for attack in whole) + sum(most)
        images.announce(len(points) * each, subject.data.images[0])
    frames = []
    with passes_bar("evaluating", stages.by_kind(planned), show=show) as line:
        for point in points:
            at, found = subject.at(point, passes), dict[str, pd.DataFrame]()
            parts = {a.label: [one for one in planned if one.of(point, a)] for a in attacks}
            for chain in chains(whole):
                columns = [
                    _Column(at, a, subject.share(a.card.name), images, parts[a.label], line)
                    for a in (whole[place] for place in chain)
                ]
                for column in columns:
                    others = [other for other in columns if other is not column]
                    found[column.attack.label] = column.rows(others)
            for attack in sampled:
                how = images, parts[attack.label], line
                found[attack.label] = _sampled(at, attack, attacks, *how)
            frames += [found[attack.label] for attack in attacks if len(found[attack.label])]
    if not frames:  # no example is asked for, or none stands
        return pd.DataFrame(columns=KEYS)
    return pd.concat(frames, ignore_index=True)[KEYS]


def _phases(subject: Subject, attacks: Sequence[Attack]) -> tuple[list[Attack], list[Attack]]:
    """Return the attacks that run on all their examples, and those on samples of survivors."""
    sampled = [attack for attack in attacks if attack.label in subject.samples]
    return [attack for attack in attacks if attack.label not in subject.samples], sampled


def _shared_out(
    subject: Subject, points: Sequence[OperatingPoint], attacks: Sequence[Attack], passes: float
) -> bool:
    """Have the subject's executor fill the store; say whether it holds all outcomes now."""
    if subject.executor is None:
        return True
    whole, sampled = _phases(subject, attacks)
    pairs = [(attack, subject.share(attack.card.name)) for attack in whole]
    done, jobs = spread(subject, _jobs(points, pairs), passes), []
    for point, attack in product(points, sampled):
        standing = left_standing(subject.at(point, passes), attack, attacks)
        if standing is None:
            subject.executor.wait()
            return False
        jobs.append(_sample_job(subject, point, attack, standing, attacks))
    return spread(subject, jobs, passes) if sampled else done


def _jobs(
    points: Sequence[OperatingPoint], pairs: Sequence[tuple[Attack, Tensor]]
) -> Iterator[Job]:
    """Return a job for each point and attack; attacks of one chain on as many examples are one."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, chain in enumerate(chains([attack for attack, _ in pairs])):
        for place in chain:
            groups.setdefault((number, len(pairs[place][1])), []).append(place)
    for point in points:
        for group in groups.values():
            attacks, examples = [pairs[place][0] for place in group], pairs[group[0]][1]
            words = f"{point}, {', '.join(attack.label for attack in attacks)}"
            # a chain costs what its longest walk does; operations go with the square of the width
            each = max(attack.passes.total for attack in attacks)
            compute = partial(evaluate, points=[point], attacks=attacks, show=False)
            yield Job(words, examples, each, compute, size=point.width**2)


def _sample_job(
    subject: Subject,
    point: OperatingPoint,
    attack: Attack,
    standing: Tensor,
    attacks: Sequence[Attack],
) -> Job:
    """Return the job of an attack on a sample of what stands; one that grows is not divided."""
    sample, grows = subject.samples[attack.label], subject.samples[attack.label].examples is None
    run = [*_before(subject, attack, attacks), attack] if grows else [attack]
    examples = subject.ids if grows else standing[: sample.most(len(standing))]
    compute = partial(evaluate, points=[point], attacks=run, show=False)
    words, each = f"{point}, {attack.label}", attack.passes.total
    return Job(words, examples, each, compute, size=point.width**2, whole=grows)


def _before(subject: Subject, attack: Attack, attacks: Sequence[Attack]) -> list[Attack]:
    after = subject.samples[attack.label].after
    return [other for other in attacks if other.label in after]


def left_standing(at: AtPoint, attack: Attack, attacks: Sequence[Attack]) -> Tensor | None:
    """Return the ids that those before an attack leave, by the store; None where it lacks some."""
    ids, before = at.subject.ids, _before(at.subject, attack, attacks)
    if not before:
        return ids[at.right(ids.to(at.device)).cpu()]
    for other in before:
        for number in range(1, 1 + len(other.parts())):
            cell = Cell(at, other, number)
            if cell.lacks(ids).any():
                return None
            ids = ids[torch.tensor(robust_right(cell.rows(ids)).to_numpy())]
    return ids


def outcomes(
    subject: Subject, point: OperatingPoint, attack: Attack, examples: Tensor
) -> pd.DataFrame:
    """Return what `evaluate` says of some examples and one attack, indexed by example."""
    known: dict[str, Any] = {"fewer": {}, "samples": {}, "compile_it": False, "executor": None}
    part = replace(subject, examples=examples, **known)
    return evaluate(part, [point], [attack], show=False).set_index("example")


def _sampled(
    at: AtPoint,
    attack: Attack,
    attacks: Sequence[Attack],
    images: ImageFolder | None,
    parts: Sequence[Stage],
    line: Bar,
) -> pd.DataFrame:
    """Attack a sample of what those before the attack, which were run, leave standing."""
    sample, n = at.subject.samples[attack.label], len(at.subject.ids)
    standing = left_standing(at, attack, attacks)
    assert standing is not None
    rows, size, hits = pd.DataFrame(), 0, 0
    while (more := sample.size(n, len(standing), size, hits)) > size:
        look = [replace(part, images=more - size, usual=1.0) for part in parts]
        column = _Column(at, attack, standing[:more], images, look, line)
        at.subject.store.sampled(column.cell.name, sample.after)
        rows = column.rows(())
        size, hits = more, int(robust_right(rows).sum())
    for part in parts:
        line.drop(part.kind, part.expected.total - size * part.each.total)
    return rows


class _Column:
    """An attack at one point: the examples it is wanted of, and their images, if these are kept."""

    def __init__(
        self,
        at: AtPoint,
        attack: Attack,
        wanted: Tensor,
        images: ImageFolder | None,
        parts: Sequence[Stage],
        line: Bar,
    ) -> None:
        self.at, self.attack, self.wanted = at, attack, wanted
        self.parts, self.line = parts, line
        self.standing = stages.attacked(at.subject, attack, wanted)
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
        found, line = pd.DataFrame(), self.line
        for number, stage in enumerate(self.parts, 1):
            line.begin(stage.kind, stage.expected.total, f"{at}, {stage.kind}", stage.each.total)
            cell = self.cell if number == 1 else self._part(number, standing)
            craft = partial(self._craft, cell, others)
            fill([cell], standing, craft, partial(_split, at, stage.part, standing), line.needs)
            rows = cell.rows(standing).set_index("example")
            found = rows if number == 1 else rows.combine_first(found)
            broken = (rows["attacked_prediction"] != rows["label"]).to_numpy()
            standing = standing[torch.tensor(~broken)]
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
