"""A defender who draws lambda at random for each query, and the attack that this calls for.

The attack climbs the gradient of the expected loss (expectation over transformation, Athalye et
al., arXiv:1707.07397); over a finite set the expectation is exact, not sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.acceleration import Precision
from oat_bench.attacks import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.frontier import bootstrap_interval
from oat_bench.evaluation.grid import Subject, describe
from oat_bench.evaluation.outcomes import COLUMNS, OutcomeStore
from oat_bench.evaluation.statistics import Accuracy
from oat_bench.files import sha256
from oat_bench.progress import bar
from oat_bench.training.pgd import pgd

#: the columns of `evaluate`'s result
KEYS = ["lam", *COLUMNS]


@dataclass(frozen=True)
class RandomLambda:
    """Accuracies in percent of a defender who draws lambda uniformly from a set.

    Attributes:
        lams: the set.
        expected_clean: chance that a query with a clean image is answered right.
        expected: the same of an attacked image, and right when clean.
        worst_clean: share of images that are right at every lambda of the set.
        worst: share that is right at every lambda both clean and attacked: who may ask again and
            again meets every lambda.
    """

    lams: list[float]
    expected_clean: Accuracy
    expected: Accuracy
    worst_clean: Accuracy
    worst: Accuracy


class _Draw(nn.Module):
    """All networks of the set at once: images to logits [n, L, num_classes]."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks], dim=1)


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each example, the mean over the draw of lambda, [n]."""
    several = y[:, None].expand(logits.shape[:2])
    return (
        F.cross_entropy(logits.flatten(0, 1), several.flatten(), reduction="none")
        .view(logits.shape[:2])
        .mean(1)
    )


def expected_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, the mean over the draw of lambda, summed over the examples.

    Args:
        logits: of every lambda, shape [n, L, num_classes].
        y: labels of shape [n].
    """
    return _losses(logits, y).sum()


def check_attack(attack: Attack) -> None:
    """Refuse an attack whose loss cannot be replaced by its expectation.

    Raises:
        UserError: naming the card.
    """
    if attack.card.engine != "oat_bench" or attack.card.class_ != "PGD":
        raise UserError(
            f"attack {attack.card.name!r} cannot attack the expectation over lambda; expected a "
            "card of engine oat_bench and class PGD, such as pgd-20"
        )


@torch.no_grad()
def attack_expectation(
    networks: Sequence[nn.Module], attack: Attack, x: Tensor, y: Tensor, example_ids: Tensor
) -> Tensor:
    """Attack images that a network drawn at random from several will classify.

    Of several restarts an image keeps the one that fewest networks get right; of equal ones that
    with the highest expected loss.

    Args:
        networks: plain, in eval mode; each is drawn with the same chance.
        attack: see `check_attack`.
        x: images of shape [n, C, H, W] in [0, 1].
        y: labels of shape [n].
        example_ids: shape [n]; they own the random starts.

    Returns:
        Attacked images: the shape of x, within the ball of the attack's threat, in [0, 1].
    """
    check_attack(attack)
    model, given = _Draw(networks), dict(attack.parameters)
    restarts = given.pop("restarts", 1)
    best, fewest = x.clone(), torch.full_like(y, len(networks) + 1)
    highest = torch.zeros(len(y), device=x.device)
    for restart in range(restarts):
        x_adv = pgd(
            model,
            x,
            y,
            **given,
            example_ids=example_ids,
            seed=attack.seed + restart,
            loss=expected_loss,
        )
        logits = model(x_adv)
        right, loss = (logits.argmax(2) == y[:, None]).sum(1), _losses(logits, y)
        better = (right < fewest) | ((right == fewest) & (loss > highest))
        best[better], fewest[better], highest[better] = x_adv[better], right[better], loss[better]
    return best


def evaluate(
    classifier: TunableClassifier,
    data: Split,
    lams: Sequence[float],
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

    Args:
        classifier: on the device of the data.
        data: the test split; an example's id is its place there.
        lams: the set that the defender draws from, each with the same chance.
        attack: see `check_attack`.
        data_fingerprint: names the data in the store.
        width: share of the channels.
        examples: ids to evaluate; all if None.
        store: where outcomes go; memory if None.
        batch_size: examples seen at a time; what fills the device if None.
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
    blocks, passes = Blocks(data.labels), attack.passes * len(wanted) * len(lams)
    points = [OperatingPoint(lam, width) for lam in sorted(set(lams))]
    subjects = [
        Subject(classifier, point, data, blocks, batch_size, gradients, None, passes)
        for point in points
    ]
    cells = [_cell(point, points, attack, fingerprints) for point in points]
    known = [set(store.read(cell)["example"].tolist()) for cell in cells]
    complete = set.intersection(*known)
    missing = torch.tensor([i for i in wanted.tolist() if i not in complete], dtype=torch.int64)
    with bar("attacking the expectation", len(wanted), show=show) as line:
        line.advance(len(wanted) - len(missing))
        # all networks of the set see a batch at once
        size = max(1, subjects[0].batch_size // len(points)) if len(missing) else 1
        for batch in torch.split(missing, size) if len(missing) else ():
            ids = batch.to(data.labels.device)
            x, y = data.inputs(ids), data.labels[ids]
            searched = [subject.searched for subject in subjects]
            x_adv = attack_expectation(searched, attack, x, y, ids)
            for subject, cell in zip(subjects, cells, strict=True):
                clean = subject.clean(ids)
                with torch.no_grad():
                    attacked = subject.exact(x_adv).argmax(1)
                columns = (ids, y, clean, torch.where(clean == y, attacked, clean))
                values = {k: v.cpu().numpy() for k, v in zip(COLUMNS, columns, strict=True)}
                if store.folder is not None:
                    store.describe(
                        cell, describe(subject, attack, fingerprints, crafted=_set(points))
                    )
                store.append(cell, pd.DataFrame(values))
            line.advance(len(batch))
    frames = [
        store.read(cell)
        .set_index("example")
        .loc[wanted.numpy()]
        .reset_index()
        .assign(lam=point.lam)
        for point, cell in zip(points, cells, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)[KEYS]


def summarize(frame: pd.DataFrame) -> RandomLambda:
    """Sum up what `evaluate` returned; intervals are 95%: Wilson's, of means bootstrap ones."""
    clean = frame["clean_prediction"] == frame["label"]
    right = clean & (frame["attacked_prediction"] == frame["label"])
    both = frame.assign(clean=clean, right=right)
    each = both.groupby("example")[["clean", "right"]]
    mean, every = each.mean(), each.all()
    return RandomLambda(
        [float(lam) for lam in sorted(frame["lam"].unique())],
        _mean(mean["clean"]),
        _mean(mean["right"]),
        Accuracy.of(every["clean"]),
        Accuracy.of(every["right"]),
    )


def _mean(shares: pd.Series) -> Accuracy:
    values = 100 * shares.to_numpy()
    low, high = bootstrap_interval(lambda i: float(values[i].mean()), len(values), (0.0, 100.0))
    return Accuracy(float(values.mean()), low, high, len(values))


def _set(points: Sequence[OperatingPoint]) -> str:
    return "expectation over lambda " + ", ".join(f"{point.lam:g}" for point in points)


def _cell(
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    attack: Attack,
    fingerprints: tuple[str, ...],
) -> str:
    parts = ("expectation", *fingerprints, repr(points), repr(point), attack.fingerprint())
    return f"{attack.card.name}-expectation-lambda{point.lam:g}-{sha256(*parts)[:16]}"
