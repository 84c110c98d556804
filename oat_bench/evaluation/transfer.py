"""An adversary who attacks at one lambda what is run at another, where gradients may be masked."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from torch import Tensor

from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation.cells import Cell, Origin, fill
from oat_bench.evaluation.integrity import LEVEL, breaks_more
from oat_bench.evaluation.sharing import Job, spread
from oat_bench.evaluation.subject import AtPoint, Subject
from oat_bench.progress import passes as passes_bar
from oat_bench.results.outcomes import COLUMNS
from oat_bench.results.transfer import MaskedGradients
from oat_bench.statistics.accuracy import Accuracy, robust_right
from oat_bench.statistics.pairs import holm

KEYS = ["crafted", "lam", "width", *COLUMNS]  # the columns of `transfer`'s result


def transfer(
    subject: Subject,
    crafted: Sequence[float],
    tested: Sequence[float],
    attack: Attack,
    *,
    width: float = 1.0,
    show: bool = True,
) -> pd.DataFrame:
    """Attack at each lambda of ``crafted``, classify at each of ``tested``; return rows of `KEYS`.

    An image is attacked where it is wrong too: it may be right where it is classified. There is no
    row in a shard.
    """
    if attack.targeted:
        raise UserError(
            f"attack {attack.card.name!r} is targeted; transfer counts what any class breaks, so "
            "leave out targeted"
        )
    subject.check([attack])
    wanted = subject.ids
    each = attack.passes.total + len(tested)
    passes = each * len(wanted) * len(crafted)
    one: dict[str, Any] = {"tested": tested, "attack": attack, "width": width, "show": False}
    jobs = [
        Job(f"from lambda {lam:g}", wanted, each, partial(transfer, crafted=[lam], **one))
        for lam in crafted
    ]
    if not spread(subject, jobs, passes):
        return pd.DataFrame(columns=KEYS)
    at = {lam: subject.at(OperatingPoint(lam, width), passes) for lam in {*crafted, *tested}}
    frames = []
    with passes_bar("transferring", {"": passes}, show=show) as line:
        for lam in crafted:
            line.begin("", each * len(wanted), f"attacked at lambda {lam:g}", each)
            cells = []
            for other in tested:
                place, words = f"lambda{lam:g}-to", f"lambda {lam:g}"
                origin = Origin("transfer", at[lam].point, [lam, other], place, words)
                cells.append(Cell(at[other], attack, origin=origin))
            craft, split = partial(_craft, at[lam], attack), partial(_split, at[lam], attack)
            fill(cells, wanted, craft, split, line.needs)
            frames += [cell.rows(wanted).assign(crafted=lam) for cell in cells]
    return pd.concat(frames, ignore_index=True)[KEYS]


def _craft(source: AtPoint, attack: Attack, ids: Tensor) -> Tensor:
    return source.craft([attack], ids)[0]


def _split(source: AtPoint, attack: Attack, ids: Tensor) -> Sequence[Tensor]:
    # a block is attacked as a whole, whatever is right where it is classified
    whole = ids if attack.per_example else source.subject.blocks.whole(ids)
    return source.batches(attack, whole)


def rightness(frame: pd.DataFrame) -> pd.DataFrame:
    """Say what is right both clean and attacked: by (lam, example), and lambda attacked at."""
    return frame.assign(right=robust_right(frame)).pivot(
        index=["lam", "example"], columns="crafted", values="right"
    )


def matrix(frame: pd.DataFrame) -> dict[tuple[float, float], Accuracy]:
    """Return RA for each (lambda attacked at, lambda classified at)."""
    right = rightness(frame)
    return {
        (float(source), float(lam)): Accuracy.of(right.loc[lam][source])
        for source, lam in product(right.columns, right.index.unique("lam"))
    }


def any_lambda(frame: pd.DataFrame) -> dict[float, Accuracy]:
    """Return RA at each lambda where the adversary picks, for each example, the worst lambda."""
    right = rightness(frame).all(axis=1)
    return {float(lam): Accuracy.of(right.loc[lam]) for lam in right.index.unique("lam")}


def strongest(frame: pd.DataFrame) -> dict[float, float]:
    """Return the lambda that breaks most at each lambda; of equal ones that lambda itself."""
    cells = matrix(frame)
    sources, lams = (sorted(set(part)) for part in zip(*cells, strict=True))
    return {
        lam: min(sources, key=lambda source: (cells[source, lam].value, source != lam))
        for lam in lams
    }


def pairs(frame: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the pairs (attacked at, classified at) of two lambda values that `masked` looks at."""
    sources, lams = sorted(set(frame["crafted"])), sorted(set(frame["lam"]))
    return [(s, lam) for s, lam in product(sources, lams) if s != lam and lam in sources]


def masked(frame: pd.DataFrame) -> list[MaskedGradients]:
    """Find the lambda whose own gradients are not the worst: McNemar, by Holm for all `pairs`."""
    right, compared = rightness(frame), pairs(frame)
    tests = [breaks_more(right.loc[lam][source], right.loc[lam][lam]) for source, lam in compared]
    corrected = holm([p for _, _, p in tests])
    return [
        MaskedGradients(lam=lam, crafted=source, only_there=there, only_here=here, p_value=p)
        for (source, lam), (there, here, _), p in zip(compared, tests, corrected, strict=True)
        if p <= LEVEL
    ]
