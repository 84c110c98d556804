"""A defender who draws lambda at random for each query, and the attack that this calls for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oat_bench.attacks.engines import Attack
from oat_bench.attacks.expectation import climb
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation.cells import Cell, Origin, fill
from oat_bench.evaluation.sharing import Job, spread
from oat_bench.evaluation.subject import Subject
from oat_bench.networks.drawn import Drawn
from oat_bench.progress import passes as passes_bar
from oat_bench.results.outcomes import COLUMNS
from oat_bench.statistics.accuracy import Accuracy, Estimate, clean_right, robust_right
from oat_bench.statistics.frontier import mean_accuracy, mean_percent

KEYS = ["lam", "width", *COLUMNS]  # the columns of `evaluate`'s result


@dataclass(frozen=True)
class Draw:
    """How the defender draws lambda: a set, ascending, and the chance of each; they add up to 1."""

    lams: tuple[float, ...]
    chances: tuple[float, ...]

    @classmethod
    def of(cls, lams: Sequence[float], weights: Sequence[float] | None = None) -> "Draw":
        """Build it from a weight above 0 for each lambda, in any unit; all alike if None."""
        given = [1.0] * len(lams) if weights is None else weights
        order, total = np.argsort(lams), sum(given)
        return cls(tuple(lams[i] for i in order), tuple(given[i] / total for i in order))

    def __str__(self) -> str:
        uniform = len(set(self.chances)) == 1
        chances = "" if uniform else f", drawn {', '.join(f'{c:.3g}' for c in self.chances)}"
        return f"lambda {', '.join(f'{lam:g}' for lam in self.lams)}{chances}"


@dataclass(frozen=True)
class RandomLambda:
    """Accuracies of a defender who draws lambda at random; attacked ones are right clean too."""

    expected_clean: Accuracy  # the chance that one query is answered right
    expected: Accuracy
    worst_clean: Accuracy  # right at every lambda: who may ask again and again meets them all
    worst: Accuracy


def applies(attack: Attack) -> bool:
    """Whether an attack's loss can be replaced by its expectation: in-house PGD's can."""
    runs = [(attack.card.engine, run.class_) for run in attack.chain]
    return runs == [("oat_bench", "PGD")] and not attack.targeted


def check_attack(attack: Attack) -> None:
    """Refuse an attack of which `applies` does not hold."""
    if not applies(attack):
        raise UserError(
            f"attack {attack.card.name!r} cannot attack the expectation over lambda; expected a "
            "card of engine oat_bench and class PGD that is not targeted, such as pgd-20"
        )


def attack_expectation(
    networks: Sequence[nn.Module],
    attack: Attack,
    x: Tensor,
    y: Tensor,
    example_ids: Tensor,
    *,
    chances: Sequence[float],
    exact: Sequence[nn.Module],
) -> Tensor:
    """Climb the expected loss of networks drawn with chances; see `climb`.

    Of several restarts the one counts that the ``exact`` networks are least likely to answer right.
    """
    each = torch.as_tensor(chances, device=x.device)
    seen, judges = Drawn(networks, each), Drawn(exact, each)
    given = attack.parameters | {"example_ids": example_ids, "seed": attack.seed}
    best = climb(lambda _: seen, judges, x, y, **given)
    return torch.where(attack.allowed(best, x)[:, None, None, None], best, x)


def evaluate(
    subject: Subject, draw: Draw, attack: Attack, *, width: float = 1.0, show: bool = True
) -> pd.DataFrame:
    """Attack the expectation over lambda; return a row of `KEYS` for each lambda and example.

    There is none in a shard.
    """
    check_attack(attack)
    wanted = subject.ids
    each = (attack.passes.total + 2) * len(draw.lams)  # each network judges, and classifies
    passes = each * len(wanted)
    again = partial(evaluate, draw=draw, attack=attack, width=width, show=False)
    jobs = [Job(f"expectation over {draw}", wanted, each, again)]
    if not spread(subject, jobs, passes):
        return pd.DataFrame(columns=KEYS)
    points = [subject.at(OperatingPoint(lam, width), passes) for lam in draw.lams]
    origin = Origin("expectation", draw, draw.lams, "expectation", f"expectation over {draw}")
    cells = [Cell(at, attack, origin=origin) for at in points]

    def craft(ids: Tensor) -> Tensor:
        x, y = subject.data.inputs(ids), subject.data.labels[ids]
        searched, exact = [at.searched for at in points], [at.exact for at in points]
        return attack_expectation(searched, attack, x, y, ids, chances=draw.chances, exact=exact)

    def split(ids: Tensor) -> Sequence[Tensor]:
        # all networks of the set see a batch at once
        return torch.split(ids, max(1, points[0].batch_size // len(points))) if len(ids) else ()

    with passes_bar("attacking the expectation", {"": passes}, show=show) as line:
        line.begin("", passes, "", each)
        fill(cells, wanted, craft, split, line.needs)
    return pd.concat([cell.rows(wanted) for cell in cells], ignore_index=True)[KEYS]


def summarize(frames: Sequence[pd.DataFrame], draw: Draw) -> RandomLambda:
    """Sum up accuracies over a draw; of several attacks on the same examples the worst counts."""
    clean, chances = _rightness(frames[0], draw)[0], np.asarray(draw.chances)
    right = np.stack([_rightness(frame, draw)[1] for frame in frames])
    return RandomLambda(
        expected_clean=mean_accuracy(clean @ chances),
        expected=mean_accuracy((right @ chances).min(axis=0)),
        worst_clean=Accuracy.of(pd.Series(clean.all(axis=1))),
        worst=Accuracy.of(pd.Series(right.all(axis=(0, 2)))),
    )


def gain(frame: pd.DataFrame, other: pd.DataFrame, draw: Draw) -> Estimate:
    """Return expected RA less that under another attack on the same examples, in points."""
    chances = np.asarray(draw.chances)
    ours, theirs = (_rightness(one, draw)[1] @ chances for one in (frame, other))
    return mean_percent(ours - theirs, (-100.0, 100.0))


def _rightness(frame: pd.DataFrame, draw: Draw) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # what is right clean, and both clean and attacked: [n, L], by example and lambda
    table = frame.assign(clean=clean_right(frame), right=robust_right(frame)).pivot(
        index="example", columns="lam", values=["clean", "right"]
    )
    lams = list(draw.lams)
    return table["clean"][lams].to_numpy(np.float64), table["right"][lams].to_numpy(np.float64)
