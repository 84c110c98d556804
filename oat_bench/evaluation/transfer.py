"""An adversary who attacks at one lambda what is then run at another.

Where images attacked at another lambda break more than those attacked at the lambda itself, its
gradients are masked, and the honest number is that of the worst lambda for each example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from oat_bench.acceleration import Precision
from oat_bench.attacks import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.grid import Subject, batches, describe
from oat_bench.evaluation.integrity import LEVEL, breaks_more, holm
from oat_bench.evaluation.outcomes import COLUMNS, OutcomeStore
from oat_bench.evaluation.statistics import Accuracy
from oat_bench.files import sha256
from oat_bench.progress import Bar, bar

#: the columns of `transfer`'s result
KEYS = ["crafted", "lam", *COLUMNS]


@dataclass(frozen=True)
class Masked:
    """A lambda at which images attacked elsewhere break more than those attacked there.

    Attributes:
        lam: where the images are classified.
        crafted: where the stronger ones were attacked.
        only_there: examples that only these broke.
        only_here: examples that only those attacked at ``lam`` broke.
        p_value: exact, one-sided, of pairs; corrected by Holm for all pairs of lambda.
    """

    lam: float
    crafted: float
    only_there: int
    only_here: int
    p_value: float


def transfer(
    classifier: TunableClassifier,
    data: Split,
    crafted: Sequence[float],
    tested: Sequence[float],
    attack: Attack,
    *,
    data_fingerprint: str,
    width: float = 1.0,
    examples: Tensor | None = None,
    store: OutcomeStore | None = None,
    batch_size: int | None = None,
    gradients: Precision = "float32",
    show: bool = True,
) -> pd.DataFrame:
    """Attack every image at each lambda of one list, and classify it at each of another.

    An image is attacked where it is already wrong too: it may be right where it is classified.

    Args:
        classifier: on the device of the data.
        data: the test split; an example's id is its place there.
        crafted: the lambda that the adversary attacks at.
        tested: the lambda that the attacked images are classified at.
        attack: made ready by `oat_bench.attacks.prepare`.
        data_fingerprint: names the data in the store.
        width: share of the channels.
        examples: ids to evaluate; all if None.
        store: where outcomes go; memory if None.
        batch_size: examples an in-house attack sees at a time; what fills the device if None.
        gradients: precision that attacks compute in; predictions are float32.
        show: whether to draw a progress bar.

    Returns:
        One row for each pair of lambda and example: the columns of `KEYS`.
    """
    store = store or OutcomeStore(None)
    wanted = torch.arange(len(data)) if examples is None else examples.cpu()
    fingerprints = (classifier.fingerprint(), data_fingerprint, gradients)
    blocks, passes = Blocks(data.labels), attack.passes * len(wanted) * len(crafted)
    subjects = {
        lam: Subject(
            classifier,
            OperatingPoint(lam, width),
            data,
            blocks,
            batch_size,
            gradients,
            None,
            passes,
        )
        for lam in {*crafted, *tested}
    }
    frames = []
    with bar("transferring", len(crafted) * len(wanted), show=show) as line:
        for source in crafted:
            line.note(f"attacked at lambda {source:g}")
            rows = _classified(subjects, source, tested, attack, wanted, store, fingerprints, line)
            frames.append(rows.assign(crafted=source))
    return pd.concat(frames, ignore_index=True)[KEYS]


def _classified(
    subjects: dict[float, Subject],
    source: float,
    tested: Sequence[float],
    attack: Attack,
    wanted: Tensor,
    store: OutcomeStore,
    fingerprints: tuple[str, ...],
    line: Bar,
) -> pd.DataFrame:
    """Return the outcomes of images attacked at one lambda, at each of several."""
    subject = subjects[source]
    names = {lam: _cell(subject.point, subjects[lam].point, attack, fingerprints) for lam in tested}
    known = {lam: store.read(names[lam]) for lam in tested}
    lacking = np.zeros(len(wanted), dtype=np.bool_)
    for rows in known.values():
        lacking |= ~np.isin(wanted.numpy(), rows["example"].to_numpy())
    missing = wanted[lacking]
    line.advance(len(wanted) - len(missing))
    if not attack.per_example:
        missing = subject.blocks.whole(missing)
    asked = set(wanted.tolist())
    for batch in batches(subject, attack, missing):
        ids = batch.to(subject.data.labels.device)
        x_adv, labels = subject.craft(attack, ids), subject.data.labels[ids]
        for lam in tested:
            there = subjects[lam]
            clean = there.clean(ids)
            with torch.no_grad():
                attacked = there.exact(x_adv).argmax(1)
            # what is wrong already stays broken
            attacked = torch.where(clean == labels, attacked, clean)
            columns = (ids, labels, clean, attacked)
            frame = pd.DataFrame(
                {k: v.cpu().numpy() for k, v in zip(COLUMNS, columns, strict=True)}
            )
            if store.folder is not None:
                info = describe(there, attack, fingerprints, crafted=f"lambda {source:g}")
                store.describe(names[lam], info)
            store.append(names[lam], frame)
        line.advance(len(asked.intersection(batch.tolist())))
    frames = []
    for lam in tested:
        rows = store.read(names[lam]) if len(missing) else known[lam]
        rows = rows.set_index("example").loc[wanted.numpy()].reset_index()
        frames.append(rows.assign(lam=lam))
    return pd.concat(frames, ignore_index=True)


def _cell(
    source: OperatingPoint, point: OperatingPoint, attack: Attack, fingerprints: tuple[str, ...]
) -> str:
    parts = ("transfer", *fingerprints, repr(source), repr(point), attack.fingerprint())
    where = f"lambda{source.lam:g}-to-lambda{point.lam:g}"
    return f"{attack.card.name}-{where}-{sha256(*parts)[:16]}"


def rightness(frame: pd.DataFrame) -> pd.DataFrame:
    """Say which examples are right both clean and attacked.

    Args:
        frame: from `transfer`.

    Returns:
        Bool, a row for each (lam, example), a column for each lambda that was attacked at.
    """
    clean = frame["clean_prediction"] == frame["label"]
    right = clean & (frame["attacked_prediction"] == frame["label"])
    return frame.assign(right=right).pivot(
        index=["lam", "example"], columns="crafted", values="right"
    )


def matrix(frame: pd.DataFrame) -> dict[tuple[float, float], Accuracy]:
    """Return RA for each (lambda attacked at, lambda classified at)."""
    right = rightness(frame)
    lams = right.index.unique("lam")
    return {
        (float(source), float(lam)): Accuracy.of(right.loc[lam][source])
        for source, lam in product(right.columns, lams)
    }


def any_lambda(frame: pd.DataFrame) -> dict[float, Accuracy]:
    """Return RA at each lambda where the adversary picks, for each example, the worst lambda."""
    right = rightness(frame).all(axis=1)
    return {float(lam): Accuracy.of(right.loc[lam]) for lam in right.index.unique("lam")}


def masked(frame: pd.DataFrame) -> list[Masked]:
    """Find the lambda whose own gradients are not the worst, beyond chance.

    Exact one-sided tests of pairs (McNemar) at the level of `oat_bench.evaluation.integrity`,
    corrected by Holm for all pairs.
    """
    right = rightness(frame)
    lams = right.index.unique("lam")
    pairs = [(s, lam) for s, lam in product(right.columns, lams) if s != lam and lam in right]
    tests = [breaks_more(right.loc[lam][s], right.loc[lam][lam]) for s, lam in pairs]
    corrected = holm([p for _, _, p in tests])
    return [
        Masked(float(lam), float(source), there, here, p)
        for (source, lam), (there, here, _), p in zip(pairs, tests, corrected, strict=True)
        if p <= LEVEL
    ]
