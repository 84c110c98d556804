"""Accuracies of two phases: cheap attacks on all examples, costly ones on a sample of what is left.

An example is right under a costly attack if the cheap ones, its first phase, leave it standing and
the costly one does too. Of S of N examples that stand after the first phase, m are sampled, of
which k stand in the end: the accuracy is S/N times k/m. (Double sampling: Neyman, JASA 33, 1938.)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oat_bench.statistics import pairs
from oat_bench.statistics.accuracy import WORST, Accuracy, clean_right, robust_right
from oat_bench.statistics.pairs import Floats, Paired

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Over which attacks the worst case is, and which were run on a sample of what others left."""

    worst_over: Sequence[str] = ()
    #: the first phase of an attack; empty: a sample of what is right clean
    after: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Phases:
    """What became of n examples at one operating point; of one phase where all are sampled."""

    examples: Ints  # shape [n], ascending
    standing: Bools  # after the first phase, shape [n]
    sampled: Bools  # of these, for the second
    right: Bools  # of these, in the end

    @property
    def whole(self) -> bool:
        """Whether the end of every example is known, as all that stood were attacked."""
        return bool((self.standing == self.sampled).all())

    @property
    def weight(self) -> float:
        """How many examples each sampled one stands for; 0 where the end of all is known."""
        return 0.0 if self.whole else float(self.standing.sum() / self.sampled.sum())

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
        if self.whole:
            return self.right.astype(np.float64)
        q = float(self.right.sum() / self.sampled.sum())
        own = self.standing * q + self.sampled * self.weight * (self.right - q)
        return np.asarray(own, dtype=np.float64)

    def among(self, examples: Ints) -> "Phases":
        """Keep some examples, each of which is here."""
        kept = np.isin(self.examples, examples)
        ends = (one[kept] for one in (self.standing, self.sampled, self.right))
        return Phases(self.examples[kept], *ends)


@dataclass(frozen=True)
class Ends:
    """What became of n examples at each of k operating points of one width, lambda ascending."""

    lams: list[float]
    examples: Ints  # shape [n], ascending
    labels: Ints  # shape [n]
    predicted: Bools  # whether there are outcomes, shape [n, k]
    clean: Bools  # right clean, shape [n, k]
    seen: Mapping[str, Bools]  # by attack, whether it was run, shape [n, k]
    right: Mapping[str, Bools]  # by attack, right both clean and attacked, shape [n, k]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self:
        """Sort the outcomes of one width."""
        (row, examples), (column, lams) = (
            pd.factorize(rows[key].to_numpy(), sort=True) for key in ("example", "lam")
        )
        codes, names = pd.factorize(rows["attack"])
        shape, labels = (len(examples), len(lams)), np.zeros(len(examples), dtype=np.int64)
        labels[row] = rows["label"].to_numpy()

        def where(chosen: Bools) -> Bools:
            found = np.zeros(shape, dtype=np.bool_)
            found[row[chosen], column[chosen]] = True
            return found

        ran = {str(name): codes == code for code, name in enumerate(names)}
        stands = robust_right(rows).to_numpy(dtype=np.bool_)
        return cls(
            [float(lam) for lam in lams],
            np.asarray(examples, dtype=np.int64),
            labels,
            where(np.ones(len(rows), dtype=np.bool_)),
            where(clean_right(rows).to_numpy(dtype=np.bool_)),
            {name: where(here) for name, here in ran.items()},
            {name: where(here & stands) for name, here in ran.items()},
        )

    def phases(self, attack: str, design: Design) -> list[Phases | None]:
        """Return what became of the examples under an attack or `WORST`, by lambda."""
        entered, *found = (one.T for one in self.under(attack, design))
        return [
            Phases(self.examples[seen], *(one[place][seen] for one in found))
            if seen.any()
            else None
            for place, seen in enumerate(entered)
        ]

    def under(self, attack: str, design: Design) -> tuple[Bools, Bools, Bools, Bools]:
        """Say of an attack or `WORST` what each example went through, each of shape [n, k].

        That is: whether it was in the first phase, and the three of `Phases`. An attack that was
        not run at an operating point, or on no example that stood, leaves none in the first phase.
        """
        names = design.worst_over if attack == WORST else [attack]
        drawn = [name for name in names if name in design.after]
        first = [name for name in names if name not in drawn]
        cheap = [name for one in drawn for name in design.after[one]]
        entered, standing = self._together([*first, *cheap] if drawn else first)
        if not drawn:
            ran = self._ran(first).any(axis=0)
            return entered & ran, entered & ran, entered & ran, standing & ran
        seen, right = self._together(drawn)
        sampled = standing & seen & self._ran(drawn).any(axis=0)
        complete = self._ran(cheap).all(axis=0) & (sampled.any(axis=0) | ~standing.any(axis=0))
        entered, standing, sampled = entered & complete, standing & complete, sampled & complete
        return entered, standing, sampled, sampled & right

    def _ran(self, names: Collection[str]) -> Bools:
        # at which points each attack was run at all, [attacks, k]
        ran = [self.seen[n].any(axis=0) if n in self.seen else False for n in names]
        rows = [np.broadcast_to(one, len(self.lams)) for one in ran]
        return np.array(rows, dtype=np.bool_).reshape(len(names), len(self.lams))

    def _together(self, names: Collection[str]) -> tuple[Bools, Bools]:
        # the examples that each attack saw of those that were run at a point, and what stood
        seen, right = self.predicted.copy(), self.clean.copy()
        for name, ran in zip(names, self._ran(names), strict=True):
            if ran.any():
                seen &= self.seen[name] | ~ran
                right &= self.right[name] | ~ran
        return seen, right & seen


def phases(rows: pd.DataFrame, attack: str, design: Design) -> Phases | None:
    """Sort the outcomes of one operating point, under an attack or `WORST`; None if it has none."""
    (found,) = Ends.of(rows).phases(attack, design)
    return found


def paired(first: Phases, second: Phases) -> Paired:
    """Compare two classifiers on the same examples: exact if the end of each is known in both.

    Else by `pairs.interval` of the differences of shares, and p of the test that goes with it.
    """
    if first.whole and second.whole:
        return pairs.paired(first.right, second.right)
    d, added = first.shares() - second.shares(), added_by([first], [second])
    low, high = (100 * end for end in pairs.interval(d, added=added))
    p = 2 * min(pairs.share_drop_p_value(one, added) for one in (d, -d))
    return Paired(
        value=100 * d.mean(), low=low, high=high, p_value=min(p, 1.0), n=len(d), exact=False
    )


def added_by(*sides: Sequence[Phases]) -> float:
    """Return what `pairs.interval` adds to the squares of mean differences over operating points.

    An example, and of each side's samples one that changes, at all of the points alike.
    """
    return 1.0 + sum(float(np.mean([one.weight for one in side])) ** 2 for side in sides)
