"""Accuracies of two phases: cheap attacks on all examples, costly ones on a sample of what is left.

An example is right under a costly attack if the cheap ones, its first phase, leave it standing and
the costly one does too. Of S of N examples that stand after the first phase, m are sampled, of
which k stand in the end: the accuracy is S/N times k/m. (Double sampling: Neyman, JASA 33, 1938.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oat_bench.statistics.accuracy import (
    WORST,
    Accuracy,
    clean_right,
    in_common,
    robust_right,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Over which attacks the worst case is, and which were run on a sample of what others left."""

    worst_over: Sequence[str] = ()
    #: the first phase of an attack; empty: a sample of what is right clean
    after: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Phases:
    """What became of n examples at one operating point; of one phase where all are sampled."""

    examples: pd.Index
    standing: Bools  # after the first phase, shape [n]
    sampled: Bools  # of these, for the second
    right: Bools  # of these, in the end

    def accuracy(self, usual_n: int | None = None) -> Accuracy:
        """Estimate the accuracy with its 95% interval; say n where it is not the usual one."""
        n, m = len(self.examples), int(self.sampled.sum())
        found = Accuracy.two_phase(n, int(self.standing.sum()), m, int(self.right.sum()))
        return found if usual_n in (None, n) else found.model_copy(update={"n": n})

    def shares(self) -> Floats:
        """Return a number an example, shape [n], whose mean is the accuracy, as a share.

        Its variance over n is that of the estimate (linearised: Cochran, Sampling Techniques,
        1977, sec. 12.2): of a sampled example q + (S/m)(right - q), of others that stand q = k/m.
        """
        stands, m = int(self.standing.sum()), int(self.sampled.sum())
        if not m:
            return self.standing.astype(np.float64) * 0.0
        q = self.right.sum() / m
        own = self.standing * q + self.sampled * (stands / m) * (self.right - q)
        return np.asarray(own, dtype=np.float64)


def phases(rows: pd.DataFrame, attack: str, design: Design) -> Phases | None:
    """Sort the outcomes of one operating point, under an attack or `WORST`; None if it has none."""
    names = list(design.worst_over) if attack == WORST else [attack]
    drawn = [name for name in names if name in design.after]
    if not drawn:
        right = _all_right(in_common(rows, names))
        everything = np.ones(len(right), dtype=np.bool_)
        found = right.to_numpy(dtype=np.bool_)
        return Phases(right.index, everything, everything, found) if len(right) else None
    whole = [name for name in names if name not in drawn]
    first = list(dict.fromkeys([*whole, *(one for name in drawn for one in design.after[name])]))
    if not set(first) <= set(rows["attack"]):
        return None
    clean = rows.drop_duplicates("example").set_index("example").sort_index()
    standing = _all_right(in_common(rows, first)) if first else clean_right(clean)
    index = standing.index
    stands = standing.to_numpy(dtype=np.bool_)
    last = _all_right(in_common(rows, drawn))
    if not len(index) or (last.empty and stands.any()):  # where nothing stands, none is attacked
        return None
    sampled = stands & index.isin(last.index)
    return Phases(
        index, stands, sampled, sampled & last.reindex(index, fill_value=False).to_numpy(np.bool_)
    )


def _all_right(rows: pd.DataFrame) -> "pd.Series[bool]":
    # by example, ascending
    return robust_right(rows).groupby(rows["example"]).all()
