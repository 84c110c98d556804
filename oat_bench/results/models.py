"""Models as they are compared: the curve of each, and which examples it has right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from oat_bench.errors import UserError
from oat_bench.results.curves import Curve, curves
from oat_bench.results.records import Record
from oat_bench.statistics import frontier
from oat_bench.statistics.frontier import Bools, Floats, Rightness


@dataclass(frozen=True)
class Model:
    """One model at one width.

    Attributes:
        curve: what was measured.
        right: which examples are right under one attack; None where outcomes are not there.
    """

    curve: Curve
    right: Rightness | None

    def points(self, attack: str) -> Floats:
        """Return (SA, RA) in percent at each lambda, shape [k, 2]: the entry's, not rounded."""
        if self.right is not None:
            return self.right.points()
        accuracies = zip(self.curve.clean(), self.curve.robust(attack), strict=True)
        return np.array([(clean.value, robust.value) for clean, robust in accuracies])

    def n(self, attack: str) -> int:
        """Return the number of examples that were attacked, the least where it differs."""
        robust = self.curve.robust(attack)
        return min(ra.n or point.n for ra, point in zip(robust, self.curve.points, strict=True))


def models_of(records: Sequence[Record], attack: str) -> list[Model]:
    """Return a model for each entry and width, the widest first.

    Raises:
        UserError: if a file of outcomes is damaged.
    """
    outcomes = [record.outcomes() for record in records]
    return [
        Model(curve, _right(records[curve.entry], outcomes[curve.entry], curve, attack))
        for curve in curves([record.entry for record in records])
    ]


def common(model: Model, base: Model) -> tuple[Rightness, Rightness] | None:
    """Return both on the examples that both have; None if none was attacked in both.

    Raises:
        UserError: if the examples of the two are not the same images.
    """
    if model.right is None or base.right is None:
        return None
    _, here, there = np.intersect1d(
        model.right.examples, base.right.examples, assume_unique=True, return_indices=True
    )
    if not np.array_equal(model.right.labels[here], base.right.labels[there]):
        raise UserError(
            f"{model.curve.label} and {base.curve.label} give the same example two labels; their "
            "outcomes are of different images"
        )
    attacked = model.right.attacked[here] & base.right.attacked[there]
    if not attacked.any():
        return None
    return _take(model.right, here, attacked), _take(base.right, there, attacked)


def _right(
    record: Record, outcomes: pd.DataFrame | None, curve: Curve, attack: str
) -> Rightness | None:
    """Return which examples are right at the lambda of a curve; None without their outcomes."""
    if outcomes is None:
        return None
    try:
        right = frontier.rightness(outcomes, attack, record.worst_over(), width=curve.width)
    except ValueError:
        return None
    return right if right.lams == curve.lambdas() else None


def _take(right: Rightness, index: np.ndarray, attacked: Bools) -> Rightness:
    return Rightness(
        right.lams,
        right.examples[index],
        right.labels[index],
        attacked,
        right.clean[index],
        right.robust[index] & attacked[:, None],
    )
