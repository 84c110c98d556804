"""An adversary who attacks at one lambda what is then run at another.

Where images attacked at another lambda break more than those attacked at the lambda itself, its
gradients are masked, and the honest number is that of the worst lambda for each example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from oat_bench.acceleration import Precision
from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.grid import Subject, batches, describe
from oat_bench.evaluation.integrity import LEVEL, breaks_more
from oat_bench.evaluation.places import Place, fill
from oat_bench.files import sha256
from oat_bench.progress import bar
from oat_bench.results.outcomes import COLUMNS, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy, robust_right
from oat_bench.statistics.pairs import holm

#: the columns of `transfer`'s result
KEYS = ["crafted", "lam", "width", *COLUMNS]


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

    An image is attacked where it is already wrong too: it may be right where it is classified. One
    that is wrong everywhere is not attacked, but by attacks of other libraries, which see blocks.

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

    Raises:
        UserError: if the attack is targeted.
    """
    if attack.targeted:
        raise UserError(
            f"attack {attack.card.name!r} is targeted; transfer counts what any class breaks, so "
            "leave out targeted"
        )
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
            subject = subjects[source]
            places = [
                Place(
                    subjects[lam],
                    _cell(
                        subject.point,
                        subjects[lam].point,
                        attack,
                        (*fingerprints, *classifier.rules([source, lam])),
                    ),
                    store,
                    partial(
                        describe, subjects[lam], attack, fingerprints, crafted=f"lambda {source:g}"
                    ),
                )
                for lam in tested
            ]
            fill(
                places,
                wanted,
                partial(subject.craft, attack),
                partial(batches, subject, attack),
                line,
                blocks=None if attack.per_example else blocks,
            )
            frames += [place.rows(wanted).assign(crafted=source) for place in places]
    return pd.concat(frames, ignore_index=True)[KEYS]


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
    return frame.assign(right=robust_right(frame)).pivot(
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


def strongest(frame: pd.DataFrame) -> dict[float, float]:
    """Return the lambda that breaks most at each lambda; of equal ones that lambda itself."""
    cells = matrix(frame)
    lams = sorted({lam for _, lam in cells})
    sources = sorted({source for source, _ in cells})
    return {
        lam: min(sources, key=lambda source: (cells[(source, lam)].value, source != lam))
        for lam in lams
    }


def pairs(frame: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the pairs (attacked at, classified at) of two lambda that `masked` looks at.

    Those that can be compared with images attacked at the lambda that classifies.
    """
    sources, lams = sorted(set(frame["crafted"])), sorted(set(frame["lam"]))
    return [(s, lam) for s, lam in product(sources, lams) if s != lam and lam in sources]


def masked(frame: pd.DataFrame) -> list[Masked]:
    """Find the lambda whose own gradients are not the worst, beyond chance.

    Exact one-sided tests of pairs (McNemar) at the level of `oat_bench.evaluation.integrity`,
    corrected by Holm for all `pairs`.
    """
    right, compared = rightness(frame), pairs(frame)
    tests = [breaks_more(right.loc[lam][source], right.loc[lam][lam]) for source, lam in compared]
    corrected = holm([p for _, _, p in tests])
    return [
        Masked(lam, source, there, here, p)
        for (source, lam), (there, here, _), p in zip(compared, tests, corrected, strict=True)
        if p <= LEVEL
    ]
