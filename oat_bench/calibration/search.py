"""Where to look for operating points: a search whose outcome is a sequence of points to test.

Clean images are predicted at every point; attacks run on nested shares of the examples, only at
points that may still be the one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from typing import Literal, Protocol

import numpy as np
from scipy.special import bdtr, bdtrc

from oat_bench.calibration.guarantee import Count
from oat_bench.classifier import OperatingPoint
from oat_bench.statistics.frontier import Bools, Ints, pareto

#: the accuracy that has a bar, by the kind of goal
BARRED: Mapping[str, Literal["SA", "RA"]] = {"min-sa": "SA", "min-ra": "RA"}

COARSE, FINE = 0.25, 0.02  # the distance of lambda values, at first at most, at last at least
REFINEMENTS = 4  # times that the neighbourhood of the best point is looked at more closely
ROUNDS = (0.25, 0.5, 1.0)  # shares of the examples after which points are dropped
DROP = 0.05  # level of the tests that drop points; no guarantee rests on it
SAFER, BOLDER = 3, 2  # points of a sequence before the best one, and behind it


class Probe(Protocol):
    """What answers whether a classifier is right."""

    def clean(self, point: OperatingPoint, examples: Ints) -> Bools:
        """Say which clean images are right at a point."""

    def robust(self, point: OperatingPoint, examples: Ints) -> Bools:
        """Say which images are right at a point both clean and attacked."""


@dataclass(frozen=True)
class Goal:
    """What an operating point is to be the best in, and the bar that it must not break.

    ``min-sa``: the highest RA whose SA is at least ``value``, a share in (0, 1); ``min-ra``: the
    highest SA whose RA is; ``sa-weight``: the highest ``value * SA + (1 - value) * RA``, in [0, 1].
    """

    kind: Literal["min-sa", "min-ra", "sa-weight"]
    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1 or (self.barred and self.value in (0, 1)):
            ends = "(0, 1)" if self.barred else "[0, 1]"
            raise ValueError(f"{self.kind} is {self.value}; expected a number in {ends}")

    @property
    def barred(self) -> Literal["SA", "RA"] | None:
        """The accuracy that has a bar."""
        return BARRED.get(self.kind)

    def score(self, sa: float, ra: float, wanted: float) -> tuple[float, float, float]:
        """Return what is higher for the better of two points; ``wanted`` is what the bar takes."""
        if self.barred is None:
            return (self.value * sa + (1 - self.value) * ra, sa, ra)
        own, other = (sa, ra) if self.barred == "SA" else (ra, sa)
        return (1.0, other, own) if own >= wanted else (0.0, own, other)


@dataclass(eq=False)
class Candidate:
    """An operating point, and what the search knows of it."""

    point: OperatingPoint
    clean: Bools  # of all examples of the search
    robust: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))  # of the first; grows
    dropped: str = ""  # why it is not looked at any more

    @cached_property
    def sa(self) -> Count:
        """Right clean images."""
        return Count.among(self.clean)

    @property
    def ra(self) -> Count | None:
        """Right attacked images; None before an attack."""
        return Count.among(self.robust) if len(self.robust) else None

    @property
    def measured(self) -> bool:
        """Whether it was attacked on all examples of the search."""
        return len(self.robust) == len(self.clean)


def starting_lambdas(trained: Iterable[float], *, continuous: bool) -> list[float]:
    """Return the lambda to begin with: the trained ones, and some where there is a gap."""
    ends = sorted(trained)
    if not continuous:
        return ends
    lams = ends[:1]
    for low, high in pairwise(ends):
        pieces = int(np.ceil((high - low) / COARSE - 1e-9))
        lams += [round(low + (high - low) * k / pieces, 4) for k in range(1, pieces)] + [high]
    return lams


def search(
    probe: Probe,
    goal: Goal,
    lambdas: Sequence[float],
    widths: Sequence[float],
    examples: Ints,
    wanted: float,
    *,
    continuous: bool,
    said: Callable[[str], None] = lambda _text: None,
) -> list[Candidate]:
    """Look at points, then more closely around the best one; the bar takes a share ``wanted``."""
    found: list[Candidate] = []
    points = [OperatingPoint(lam, width) for width in widths for lam in lambdas]
    for _ in range(1 + REFINEMENTS if continuous else 1):
        said(f"lambda {', '.join(dict.fromkeys(f'{point.lam:g}' for point in points))}")
        found += [Candidate(point, probe.clean(point, examples)) for point in points]
        _race(probe, goal, found, examples)
        points = _between(best(found, goal, wanted), found)
        if not points:
            break
    return sorted(found, key=lambda one: (-one.point.width, one.point.lam))


def best(found: Sequence[Candidate], goal: Goal, wanted: float) -> Candidate:
    """Return the best point of those that were attacked; of equal ones the cheapest."""

    def rank(one: Candidate) -> tuple[float, ...]:
        ra = one.ra.share if one.ra is not None else 0.0
        return (*goal.score(one.sa.share, ra, wanted), -one.point.width, -one.point.lam)

    return max([one for one in found if one.measured] or found, key=rank)


def sequence(found: Sequence[Candidate], goal: Goal, wanted: float) -> list[Candidate]:
    """Return the points to test, the safest first, each next one better and less safe.

    In the order of lambda, which says more of safety than few examples do: the safest at the
    widest; of the frontier that the search saw (Pareto testing; Laufer-Goldshtein et al.,
    arXiv:2210.07913) some before the best point, not below ``wanted``, that, and some beyond it.
    Without a bar: the best point alone.
    """
    target = best(found, goal, wanted)
    if goal.barred is None:
        return [target]
    sign = 1 if goal.barred == "SA" else -1

    def place(one: Candidate) -> tuple[float, float]:
        return (sign * one.point.lam, -one.point.width)

    widest = max(one.point.width for one in found)
    anchor = min([one for one in found if one.point.width == widest], key=place)
    known = {one: (one.sa.share, one.ra.share) for one in found if one.measured and one.ra}
    good = pareto(list(known.values())) if known else ()
    front = sorted((one for one, optimal in zip(known, good, strict=True) if optimal), key=place)
    own = ("SA", "RA").index(goal.barred)
    safe = [one for one in front if place(one) < place(target) and known[one][own] >= wanted]
    if len(safe) > SAFER:
        safe = [safe[k] for k in np.linspace(0, len(safe) - 1, SAFER).round().astype(int)]
    bold = [one for one in front if place(one) > place(target)][:BOLDER]
    return list(dict.fromkeys([anchor, *safe, target, *bold]))


def _between(target: Candidate, found: Sequence[Candidate]) -> list[OperatingPoint]:
    """Return the middles between a point and its neighbours in lambda that are far apart."""
    width = target.point.width
    lams = sorted({one.point.lam for one in found if one.point.width == width})
    return [
        OperatingPoint(round((low + high) / 2, 4), width)
        for low, high in pairwise(lams)
        if target.point.lam in (low, high) and high - low > FINE + 1e-9
    ]


def _race(probe: Probe, goal: Goal, found: list[Candidate], examples: Ints) -> None:
    """Attack the points that may be the best one on more and more examples, and drop others."""
    _drop_hopeless(goal, found)
    for share in ROUNDS:
        size = max(1, round(share * len(examples)))
        for one in found:
            if not one.dropped and len(one.robust) < size:
                more = probe.robust(one.point, examples[len(one.robust) : size])
                one.robust = np.concatenate([one.robust, more])
        _drop_hopeless(goal, found)
        _drop_beaten(found)


def _drop_hopeless(goal: Goal, found: Sequence[Candidate]) -> None:
    """Drop the points that are significantly below the bar; the safest one stays."""
    counts = {one: one.sa if goal.barred == "SA" else one.ra for one in found if goal.barred}
    known = {one: count for one, count in counts.items() if count is not None}
    safest = max(known, key=lambda one: known[one].share, default=None)
    for one, count in known.items():
        if one.dropped or one is safest:
            continue
        if bdtr(count.right, count.n, goal.value) <= DROP:
            one.dropped = "below the bar"


def _drop_beaten(found: Sequence[Candidate]) -> None:
    """Drop the points that another beats significantly in RA (McNemar), and equals in SA."""
    for one, other in product(found, found):
        if one.dropped or other.dropped or other.sa.right < one.sa.right:
            continue
        both = min(len(one.robust), len(other.robust))
        gained = int((other.robust[:both] & ~one.robust[:both]).sum())
        lost = int((one.robust[:both] & ~other.robust[:both]).sum())
        if gained > lost and bdtrc(gained - 1, gained + lost, 0.5) <= DROP:
            at = f"lambda {other.point.lam:g}"
            if other.point.width != one.point.width:
                at += f", width {other.point.width:g}"
            one.dropped = f"beaten by {at}"
