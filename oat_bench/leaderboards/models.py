"""Models as they are compared: the curve of each, and which examples it has right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from oat_bench.errors import UserError
from oat_bench.evaluation import frontier
from oat_bench.evaluation.frontier import Floats, Rightness
from oat_bench.leaderboards.curves import Curve, curves
from oat_bench.leaderboards.records import Record


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
        """Return (SA, RA) in percent at each lambda, shape [k, 2].

        Both are over the examples that were attacked; without outcomes as the entry has them.
        """
        if self.right is not None:
            return self.right.points()
        accuracies = zip(self.curve.clean(), self.curve.robust(attack), strict=True)
        return np.array([(clean.value, robust.value) for clean, robust in accuracies])

    def n(self, attack: str) -> int:
        """Return the number of examples behind the points, the least where it differs."""
        if self.right is not None:
            return len(self.right.examples)
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
    """Return both on the examples that both have; None if there is none.

    Raises:
        UserError: if the examples of the two are not the same images.
    """
    if model.right is None or base.right is None:
        return None
    ids, here, there = np.intersect1d(
        model.right.examples, base.right.examples, assume_unique=True, return_indices=True
    )
    if not len(ids):
        return None
    if not np.array_equal(model.right.labels[here], base.right.labels[there]):
        raise UserError(
            f"{model.curve.label} and {base.curve.label} give the same example two labels; their "
            "outcomes are of different images"
        )
    return _take(model.right, here), _take(base.right, there)


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


def _take(right: Rightness, index: np.ndarray) -> Rightness:
    return Rightness(
        right.lams,
        right.examples[index],
        right.labels[index],
        right.clean[index],
        right.robust[index],
    )
