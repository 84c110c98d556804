"""The evaluation grid: every lambda against every attack."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from oat_bench.acceleration import Precision, accelerate
from oat_bench.attacks import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.evaluation.outcomes import OutcomeStore
from oat_bench.files import sha256
from oat_bench.progress import bar

#: the columns of `evaluate`'s result
KEYS = ["lam", "width", "attack", "example", "label", "clean_prediction", "attacked_prediction"]


def evaluate(
    classifier: TunableClassifier,
    data: Split,
    points: Sequence[OperatingPoint],
    attacks: Sequence[Attack],
    *,
    data_fingerprint: str,
    examples: Tensor | None = None,
    store: OutcomeStore | None = None,
    batch_size: int = 500,
    gradients: Precision = "float32",
    show: bool = True,
) -> pd.DataFrame:
    """Attack a classifier at every operating point with every attack.

    An example that the classifier already gets wrong counts as broken by every attack; it is not
    attacked. Outcomes that the store holds are not computed again.

    Args:
        classifier: on the device of the data.
        data: the test split; an example's id is its place there.
        points: operating points.
        attacks: attacks made ready by `oat_bench.attacks.prepare`.
        data_fingerprint: names the data in the store.
        examples: ids to evaluate; all if None.
        store: where outcomes go; memory if None.
        batch_size: examples an attack sees at a time.
        gradients: precision of the passes that attacks differentiate; predictions are float32.
        show: whether to draw a progress bar.

    Returns:
        One row for each operating point, attack and example: lam, width, attack, example, label,
        clean_prediction, attacked_prediction.
    """
    store = store or OutcomeStore(None)
    wanted = torch.arange(len(data)) if examples is None else examples.cpu()
    model_fingerprint = classifier.fingerprint()
    frames = []
    total = len(points) * len(attacks) * len(wanted)
    with bar("evaluating", total, show=show) as line:
        for point in points:
            model: nn.Module | None = None  # made only where something is missing
            for attack in attacks:
                line.note(f"{_where(point)}, {attack.card.name}")
                cell = _cell(point, attack, gradients, model_fingerprint, data_fingerprint)
                known = store.read(cell)
                missing = wanted[~np.isin(wanted.numpy(), known["example"].to_numpy())]
                line.advance(len(wanted) - len(missing))
                for start in range(0, len(missing), batch_size):
                    batch = missing[start : start + batch_size]
                    model = model or accelerate(
                        classifier.at(point.lam, point.width), gradients=gradients
                    )
                    store.append(cell, _outcomes(model, data, attack, batch))
                    line.advance(len(batch))
                rows = store.read(cell).set_index("example").loc[wanted.numpy()].reset_index()
                frames.append(
                    rows.assign(lam=point.lam, width=point.width, attack=attack.card.name)
                )
    return pd.concat(frames, ignore_index=True)[KEYS]


def _cell(
    point: OperatingPoint, attack: Attack, gradients: Precision, model: str, data: str
) -> str:
    fingerprint = sha256(model, data, repr(point), attack.fingerprint(), gradients)
    where = _where(point).replace(" ", "").replace(",", "-")
    return f"{attack.card.name}-{where}-{fingerprint[:16]}"


def _where(point: OperatingPoint) -> str:
    width = f", width {point.width:g}" if point.width != 1 else ""
    return f"lambda {point.lam:g}{width}"


@torch.no_grad()
def _outcomes(model: nn.Module, data: Split, attack: Attack, ids: Tensor) -> pd.DataFrame:
    device = data.labels.device
    index = ids.to(device)
    x, y = data.inputs(index), data.labels[index]
    clean = model(x).argmax(1)
    attacked = clean.clone()
    right = (clean == y).nonzero()[:, 0]
    if len(right):
        with torch.enable_grad():
            x_adv = attack(model, x[right], y[right], index[right])
        attacked[right] = model(x_adv).argmax(1)
    columns = (index, y, clean, attacked)
    names = ("example", "label", "clean_prediction", "attacked_prediction")
    return pd.DataFrame({k: v.cpu().numpy() for k, v in zip(names, columns, strict=True)})
