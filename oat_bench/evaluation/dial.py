"""Whether the dial can be trusted: no lambda is worse than another, clean and attacked alike.

A dial trades one accuracy for the other; a lambda that loses both against another lies. Every two
lambda are compared, both ways, on the same examples: McNemar's exact one-sided test of SA and of
RA. Worse in both is only what both tests find (intersection-union: the larger p counts); all
comparisons are corrected by Holm. What a lambda is compared with need not be its neighbour: where
the dial jumps, the accuracies beyond the jump are those that tell.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations

import numpy as np
import pandas as pd

from oat_bench.evaluation.integrity import LEVEL, breaks_more, fewest, percent
from oat_bench.results.checks import Check
from oat_bench.statistics.pairs import holm

#: shares of the way from lambda = 0 to the first trained one above it that are looked at
_NEAR_ZERO = (0.01, 0.25, 0.5, 0.75)


def lambdas(trained: Sequence[float], *, continuous: bool) -> list[float]:
    """Return the lambda of a dial to look at: the trained ones, and many between them.

    Tenths, the middle of every two trained ones, and several close to 0, where the network changes
    its batch norm.

    Args:
        trained: ascending.
        continuous: whether there is anything between.
    """
    if not continuous:
        return list(trained)
    tenths = [tenth for tenth in np.linspace(0, 1, 11) if trained[0] < tenth < trained[-1]]
    middles = [(low + high) / 2 for low, high in pairwise(trained)]
    near = [share * trained[1] for share in _NEAR_ZERO] if len(middles) and not trained[0] else []
    # rounded, so that 0.30000000000000004 and 0.3 are one
    between = {round(float(lam), 6) for lam in (*tenths, *middles, *near)}
    return sorted({*trained, *between})


def check(clean: Mapping[float, pd.Series], robust: Mapping[float, pd.Series]) -> Check:
    """No lambda is beaten by another both clean and attacked, beyond chance.

    Args:
        clean: by lambda, whether each example is right, bool, indexed by example.
        robust: by lambda, whether each is right both clean and attacked.
    """
    pairs = list(permutations(clean, 2))
    tests = [
        max(breaks_more(right[lam], right[other])[2] for right in (clean, robust))
        for lam, other in pairs
    ]
    beaten: dict[float, tuple[float, float]] = {}
    for (lam, other), p in zip(pairs, holm(tests), strict=True):
        if p <= LEVEL and (lam not in beaten or p < beaten[lam][1]):
            beaten[lam] = (other, p)
    listed = ", ".join(f"{percent(clean[lam])}/{percent(robust[lam])} at {lam:g}" for lam in clean)
    complaints = [
        f"lambda {lam:g} is worse than {other:g} in both (SA {_points(clean, lam, other)}, RA "
        f"{_points(robust, lam, other)}; p {p:.2g})"
        for lam, (other, p) in beaten.items()
    ]
    return Check(
        name="dial",
        verdict="fail" if beaten else "pass",
        evidence="; ".join([f"SA/RA {listed}", *complaints]),
        numbers={
            "lambda": list(clean),
            "sa": [100 * float(right.mean()) for right in clean.values()],
            "ra": [100 * float(right.mean()) for right in robust.values()],
            "beaten": list(beaten),
            "detectable": fewest(len(pairs)) if pairs else 0,
        },
    )


def _points(right: Mapping[float, pd.Series], lam: float, other: float) -> str:
    return f"{100 * float(right[lam].mean() - right[other].mean()):+.1f}"
