"""A defender who draws lambda at random for each query, and the attack that this calls for.

The attack climbs the gradient of the expected loss (expectation over transformation, Athalye et
al., arXiv:1707.07397 and arXiv:1802.00420); over a finite set the expectation is exact, not
sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from oat_bench.acceleration import Precision
from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.grid import Subject, describe
from oat_bench.evaluation.places import Place, fill
from oat_bench.files import sha256
from oat_bench.progress import bar
from oat_bench.results.outcomes import COLUMNS, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy, clean_right, robust_right
from oat_bench.statistics.frontier import bootstrap_interval
from oat_bench.training.pgd import pgd

#: the columns of `evaluate`'s result
KEYS = ["lam", "width", *COLUMNS]


@dataclass(frozen=True)
class Draw:
    """How the defender draws lambda.

    Attributes:
        lams: the set, ascending.
        chances: of each, adding up to 1.
    """

    lams: tuple[float, ...]
    chances: tuple[float, ...]

    @classmethod
    def of(cls, lams: Sequence[float], weights: Sequence[float] | None = None) -> "Draw":
        """Build it from weights above 0, in any unit; all alike if None.

        Raises:
            ValueError: if a lambda comes twice, or a weight is not above 0, or one is missing.
        """
        given = [1.0] * len(lams) if weights is None else list(weights)
        finite = all(0 < weight < float("inf") for weight in given)
        if not lams or len(set(lams)) != len(lams) or len(given) != len(lams) or not finite:
            raise ValueError(
                f"lambda {list(lams)} with weights {given}; expected each lambda once, with a "
                "weight above 0"
            )
        order, total = np.argsort(lams), sum(given)
        return cls(tuple(lams[i] for i in order), tuple(given[i] / total for i in order))

    @property
    def uniform(self) -> bool:
        """Whether every lambda has the same chance."""
        return len(set(self.chances)) == 1


@dataclass(frozen=True)
class RandomLambda:
    """Accuracies in percent of a defender who draws lambda at random.

    Attributes:
        expected_clean: chance that a query with a clean image is answered right.
        expected: the same of an attacked image, and right when clean.
        worst_clean: share of images that are right at every lambda of the set.
        worst: share that is right at every lambda both clean and attacked: who may ask again and
            again, with any attacked image at hand, meets every lambda.
    """

    expected_clean: Accuracy
    expected: Accuracy
    worst_clean: Accuracy
    worst: Accuracy


@dataclass(frozen=True)
class Gain:
    """Expected RA under the attack on the expectation less that under another, in points.

    Attributes:
        value: below 0 where the attack on the expectation breaks more.
        low: lower end of the 95% paired bootstrap interval over examples.
        high: upper end.
    """

    value: float
    low: float
    high: float


class _Members(nn.Module):
    """All networks of the set at once: images to logits [n, L, num_classes]."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks], dim=1)


def _losses(logits: Tensor, y: Tensor, chances: Tensor) -> Tensor:
    """Cross-entropy of each example, the mean over the draw of lambda, [n]."""
    several = y[:, None].expand(logits.shape[:2])
    losses = F.cross_entropy(logits.flatten(0, 1), several.flatten(), reduction="none")
    return losses.view(logits.shape[:2]) @ chances.to(losses)


def expected_loss(logits: Tensor, y: Tensor, chances: Tensor) -> Tensor:
    """Cross-entropy, the mean over the draw of lambda, summed over the examples.

    Args:
        logits: of every lambda, shape [n, L, num_classes].
        y: labels of shape [n].
        chances: of every lambda, shape [L].
    """
    return _losses(logits, y, chances).sum()


def applies(attack: Attack) -> bool:
    """Whether an attack's loss can be replaced by its expectation: in-house PGD's can."""
    runs = [(attack.card.engine, run.class_) for run in attack.chain]
    return runs == [("oat_bench", "PGD")] and not attack.targeted


def check_attack(attack: Attack) -> None:
    """Refuse an attack whose loss cannot be replaced by its expectation.

    Raises:
        UserError: naming the card.
    """
    if not applies(attack):
        raise UserError(
            f"attack {attack.card.name!r} cannot attack the expectation over lambda; expected a "
            "card of engine oat_bench and class PGD that is not targeted, such as pgd-20"
        )


@torch.no_grad()
def attack_expectation(
    networks: Sequence[nn.Module],
    attack: Attack,
    x: Tensor,
    y: Tensor,
    example_ids: Tensor,
    *,
    chances: Sequence[float] | None = None,
    exact: Sequence[nn.Module] | None = None,
) -> Tensor:
    """Attack images that a network drawn at random from several will classify.

    Of several restarts an image keeps the one that is least likely to be answered right; of equal
    ones that with the highest expected loss.

    Args:
        networks: plain, in eval mode.
        attack: see `check_attack`.
        x: images of shape [n, C, H, W] in [0, 1].
        y: labels of shape [n].
        example_ids: shape [n]; they own the random starts.
        chances: of each network, adding up to 1; all alike if None.
        exact: the networks that answer, where the attack's compute in another precision.

    Returns:
        Attacked images, in [0, 1]; x where the attack left the ball of its threat model.
    """
    check_attack(attack)
    given = dict(attack.parameters)
    each = torch.as_tensor(Draw.of(range(len(networks)), chances).chances, device=x.device)
    answering = _Members(networks if exact is None else exact)
    best, least = x.clone(), torch.full(y.shape, 2.0, device=x.device)
    highest = torch.zeros_like(least)
    for restart in range(given.pop("restarts", 1)):
        x_adv = pgd(
            _Members(networks),
            x,
            y,
            **given,
            example_ids=example_ids,
            seed=attack.seed + restart,
            loss=partial(expected_loss, chances=each),
        )
        logits = answering(x_adv)
        # rounded: what is as likely must compare as equal, whatever the order of the sum
        right = torch.round(((logits.argmax(2) == y[:, None]) * each).sum(1), decimals=6)
        loss = _losses(logits, y, each)
        better = (right < least) | ((right == least) & (loss > highest))
        best[better], least[better], highest[better] = x_adv[better], right[better], loss[better]
    return torch.where(attack.allowed(best, x)[:, None, None, None], best, x)


def evaluate(
    classifier: TunableClassifier,
    data: Split,
    draw: Draw,
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
    """Attack the expectation over lambda, and classify what comes out at every lambda of the set.

    An image that is wrong at every lambda of the set is not attacked.

    Args:
        classifier: on the device of the data.
        data: the test split; an example's id is its place there.
        draw: the set that the defender draws from.
        attack: see `check_attack`.
        data_fingerprint: names the data in the store.
        width: share of the channels.
        examples: ids to evaluate; all if None.
        store: where outcomes go; memory if None.
        batch_size: images times lambda seen at a time; what fills the device if None.
        gradients: precision that the attack computes in; predictions are float32.
        show: whether to draw a progress bar.

    Returns:
        One row for each lambda and example: the columns of `KEYS`.

    Raises:
        UserError: if the attack is not of the kind that `check_attack` asks for.
    """
    check_attack(attack)
    store = store or OutcomeStore(None)
    wanted = torch.arange(len(data)) if examples is None else examples.cpu()
    fingerprints = (classifier.fingerprint(), data_fingerprint, gradients)
    blocks, passes = Blocks(data.labels), attack.passes * len(wanted) * len(draw.lams)
    rules = classifier.rules(draw.lams)
    points = [OperatingPoint(lam, width) for lam in draw.lams]
    subjects = [
        Subject(classifier, point, data, blocks, batch_size, gradients, None, passes)
        for point in points
    ]
    places = [
        Place(
            subject,
            _cell(subject.point, draw, attack, (*fingerprints, *rules)),
            store,
            partial(describe, subject, attack, fingerprints, crafted=_words(draw)),
        )
        for subject in subjects
    ]

    def craft(ids: Tensor) -> Tensor:
        return attack_expectation(
            [subject.searched for subject in subjects],
            attack,
            data.inputs(ids),
            data.labels[ids],
            ids,
            chances=draw.chances,
            exact=[subject.exact for subject in subjects],
        )

    def split(ids: Tensor) -> Sequence[Tensor]:
        # all networks of the set see a batch at once
        return torch.split(ids, max(1, subjects[0].batch_size // len(points))) if len(ids) else ()

    with bar("attacking the expectation", len(wanted), show=show) as line:
        fill(places, wanted, craft, split, line)
    return pd.concat([place.rows(wanted) for place in places], ignore_index=True)[KEYS]


def summarize(frames: Sequence[pd.DataFrame], draw: Draw) -> RandomLambda:
    """Sum up accuracies over a draw; intervals are 95%: Wilson's, of means bootstrap ones.

    Args:
        frames: attacks on the same examples, of each image the worst counts: from `evaluate`, or
            rows of `oat_bench.evaluation.transfer.transfer` that were attacked at one lambda.
        draw: its lambda are among those of every frame.
    """
    clean, chances = _rightness(frames[0], draw)[0], np.asarray(draw.chances)
    right = np.stack([_rightness(frame, draw)[1] for frame in frames])
    return RandomLambda(
        _mean(clean @ chances),
        _mean((right @ chances).min(axis=0)),
        Accuracy.of(pd.Series(clean.all(axis=1))),
        Accuracy.of(pd.Series(right.all(axis=(0, 2)))),
    )


def gain(frame: pd.DataFrame, other: pd.DataFrame, draw: Draw) -> Gain:
    """Compare the expected RA under two attacks on the same examples, as in `summarize`."""
    chances = np.asarray(draw.chances)
    ours, theirs = (_rightness(one, draw)[1] @ chances for one in (frame, other))
    found = _mean(ours - theirs, (-100.0, 100.0))
    return Gain(found.value, found.low, found.high)


def _rightness(frame: pd.DataFrame, draw: Draw) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is right clean, and both clean and attacked: [n, L], by example and lambda."""
    table = frame.assign(clean=clean_right(frame), right=robust_right(frame)).pivot(
        index="example", columns="lam", values=["clean", "right"]
    )
    lams = list(draw.lams)
    return table["clean"][lams].to_numpy(np.float64), table["right"][lams].to_numpy(np.float64)


def _mean(shares: NDArray[np.float64], bounds: tuple[float, float] = (0.0, 100.0)) -> Accuracy:
    values = 100 * shares
    low, high = bootstrap_interval(
        lambda i: float(values[i].mean()), [np.arange(len(values))], bounds
    )
    return Accuracy(float(values.mean()), low, high, len(values))


def _words(draw: Draw) -> str:
    chances = "" if draw.uniform else f", drawn {', '.join(f'{c:.3g}' for c in draw.chances)}"
    return f"expectation over lambda {', '.join(f'{lam:g}' for lam in draw.lams)}{chances}"


def _cell(point: OperatingPoint, draw: Draw, attack: Attack, fingerprints: tuple[str, ...]) -> str:
    parts = ("expectation", *fingerprints, repr(draw), repr(point), attack.fingerprint())
    return f"{attack.card.name}-expectation-lambda{point.lam:g}-{sha256(*parts)[:16]}"
