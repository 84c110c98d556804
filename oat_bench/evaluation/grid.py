"""The evaluation grid: every lambda against every attack."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation.cells import Cell, Done, cell_name, counter, describe, fill
from oat_bench.evaluation.images import ImageFolder, Kept
from oat_bench.evaluation.subject import AtPoint, Subject
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
            for attack in sorted(attacks, key=lambda attack: attack.label in samples):
                line.note(f"{at}, {attack.label}")
                if attack.label in samples:
                    rows = _sampled(at, attack, found, line, images)
                else:
                    share = subject.share(attack.card.name)
                    count = counter(line, share, len(subject.data))
                    rows = _attacked(at, attack, share, count, images)
                found[attack.label] = rows.assign(attack=attack.label)
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
        count = counter(line, standing[size:more], len(at.data))
        rows = _attacked(at, attack, standing[:more], count, images)
        size, hits = more, int(robust_right(rows).sum())
    line.advance(sample.most(len(ids)) - size)
    return rows


def _attacked(
    at: AtPoint, attack: Attack, wanted: Tensor, count: Done, images: ImageFolder | None
) -> pd.DataFrame:
    standing = wanted if attack.per_example else at.subject.blocks.whole(wanted)
    kept = lacking = None
    if images is not None and attack.card.engine != "file":
        kept = Kept(images, cell_name(at, attack, (), None))
        lacking = None if kept.there(wanted).all() else kept
    found = pd.DataFrame()
    parts = attack.parts()
    for number, part in enumerate(parts, 1):
        cell = Cell(at, attack, number)
        if lacking is not None and cell.forget(standing[~lacking.there(standing)]):
            lacking.folder.note_again()
        craft, split = partial(_craft, at, part, lacking), partial(_split, at, part, standing)
        fill([cell], standing, craft, split, count if part is parts[-1] else lambda _ids: None)
        rows = cell.rows(standing).set_index("example")
        found = rows if number == 1 else rows.combine_first(found)
        broken = torch.tensor((rows["attacked_prediction"] != rows["label"]).to_numpy())
        count(standing[broken])
        standing = standing[~broken]
    if lacking is not None:
        # what is wrong already is attacked for its image alone: elsewhere it may be right
        wrong = found.index[found["clean_prediction"] != found["label"]].to_numpy()
        for batch in at.batches(attack, torch.tensor(wrong, dtype=torch.int64)):
            _craft(at, attack, lacking, batch.to(at.device))
    if kept is not None:
        kept.write(describe(at, attack), wanted, at.data.labels)
    return found.loc[wanted.numpy()].astype(dict.fromkeys(COLUMNS[1:], "int64")).reset_index()


def _craft(at: AtPoint, attack: Attack, kept: Kept | None, ids: Tensor) -> Tensor:
    x_adv = at.craft(attack, ids)
    if kept is not None:
        kept.add(ids, x_adv)
    return x_adv


def _split(at: AtPoint, attack: Attack, standing: Tensor, ids: Tensor) -> Sequence[Tensor]:
    # a block as a whole, all of it that is right and stands
    if not attack.per_example and len(ids):
        mates = standing[torch.isin(standing, at.subject.blocks.whole(ids))]
        ids = mates[at.right(mates.to(at.device)).cpu()]
    return at.batches(attack, ids)
