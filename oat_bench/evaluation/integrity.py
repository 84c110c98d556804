"""Whether attacks can be trusted: checks of what was measured, each a verdict with its evidence.

The signs that gradients are masked are those of Athalye et al. (arXiv:1802.00420, section 3.1) and
Carlini et al. (arXiv:1902.06705). Every series says of examples, by id, whether they stand: are
right both clean and attacked. What chance explains is not held against a model: attacks are
compared by McNemar's exact test, shares by an exact binomial test, several tests by Holm's method.
"""

from collections.abc import Mapping
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from oat_bench.results.checks import Check, Verdict
from oat_bench.statistics.pairs import drop_p_value, holm, mcnemar, paired

Stands = Mapping[str, "pd.Series[bool]"]

LEVEL = 0.01  # the chance that a check fails an honest model, at most
NEGLIGIBLE = 0.02  # the share of examples that is negligible
MISSED = 0.05  # the share that trusted attacks by gradients may miss, but for chance
#: the share that an attack may leave more than the strongest: without masking, networks of
#: adversarial training lose two to five points from PGD-20 to AutoAttack
CLOSE = 0.05
FAR = 0.10  # beyond this an RA is wrong, as those of broken defences were (arXiv:2003.01690)


def breaks_more(first: pd.Series, second: pd.Series) -> tuple[int, int, float]:
    """Say how many only the first attack broke, how many only the second, and the exact p-value."""
    seen = first.index.intersection(second.index)
    a, b = first[seen], second[seen]
    only_first, only_second = int((~a & b).sum()), int((a & ~b).sum())
    return only_first, only_second, mcnemar(only_first, only_second, "greater")


def above(share: float, count: int, n: int) -> float:
    """Return the exact one-sided p-value of ``count`` of ``n`` being no more than a share."""
    return float(binomtest(count, n, share, alternative="greater").pvalue) if n else 1.0


def inversions(ladder: Stands) -> list[str]:
    """Say which attacks broke significantly more than one that comes later in the ladder."""
    pairs = list(combinations(ladder, 2))
    tests = [breaks_more(ladder[weak], ladder[strong]) for weak, strong in pairs]
    corrected = holm([p for _, _, p in tests])
    return [
        f"{weak} breaks more than {strong} ({ours} examples that the other does not, against "
        f"{theirs}; {_p(p)})"
        for (weak, strong), (ours, theirs, _), p in zip(pairs, tests, corrected, strict=True)
        if p <= LEVEL
    ]


def fewest(n_tests: int) -> int:
    """Return how many examples, all to one side, are significant in one of so many tests."""
    return int(np.ceil(np.log2(n_tests / LEVEL))) if n_tests else 0


def checked(
    name: str, verdict: Verdict | bool, evidence: str, **numbers: int | float | list[float]
) -> Check:
    """Return a check; its verdict may be whether it passed."""
    if isinstance(verdict, bool):
        verdict = "pass" if verdict else "fail"
    return Check(name=name, verdict=verdict, evidence=evidence, numbers=numbers)


def order(clean: pd.Series, ladder: Stands, remark: str = "") -> Check:
    """No attack breaks more than a stronger one; the ladder begins with the weakest."""
    found = inversions(ladder)
    accuracies = {"clean": clean, **ladder}
    listed = ", ".join(
        f"{name} {_percent(stands)}" + (f" (n {len(stands)})" if len(stands) < len(clean) else "")
        for name, stands in accuracies.items()
    )
    evidence = "; ".join(part for part in (listed, *found, remark) if part)
    ra = {name: _value(stands) for name, stands in accuracies.items()}
    return checked("order", not found, evidence, **ra, inversions=len(found))


def estimate(name: str, stands: pd.Series, others: Stands) -> Check:
    """RA under an attack is close to RA under the strongest; p by Bonferroni for the choice."""
    seen = {k: stands.index.intersection(v.index) for k, v in others.items()}
    higher = {
        k: float(stands[ids].mean() - others[k][ids].mean()) for k, ids in seen.items() if len(ids)
    }
    strongest = max(higher, key=higher.__getitem__, default=None)
    if strongest is None or higher[strongest] <= 0:
        evidence = f"no attack leaves less than {name}, {_percent(stands)}"
        return checked("estimate", True, evidence, difference=0.0, n=len(stands))
    ids, tried = seen[strongest], len(higher)
    ours, theirs = stands[ids], others[strongest][ids]
    only, without, p = breaks_more(theirs, ours)
    p_beyond = min(1.0, tried * drop_p_value(only, without, len(ids), CLOSE))
    test = paired(ours, theirs)
    verdict: Verdict = "pass"
    if test.value > 100 * FAR and p_beyond <= LEVEL:
        verdict = "fail"
    elif test.value > 100 * CLOSE and tried * p <= LEVEL:
        verdict = "warn"
    evidence = (
        f"RA {_percent(ours)} under {name}, {_percent(theirs)} under {strongest}, on the same "
        f"{len(ids)} images: {test.value:.1f} points too high [{test.low:.1f}, {test.high:.1f}]"
    )
    numbers = {"difference": test.value, "low": test.low, "high": test.high, "n": len(ids)}
    p_higher = min(1.0, tried * p)
    return checked("estimate", verdict, evidence, **numbers, p_higher=p_higher, p_beyond=p_beyond)


def sweep(clean: pd.Series, stands: Mapping[float, pd.Series]) -> Check:
    """RA equals SA at eps 0, never rises with eps, and vanishes; by eps, from 0 on."""
    changed = int((clean != stands[0.0]).sum())
    found = inversions({f"eps {eps:.3g}": series for eps, series in stands.items()})
    left = stands[max(stands)]
    p = above(NEGLIGIBLE, int(left.sum()), len(left))
    complaints = [f"{changed} predictions change at eps 0"] * (changed > 0) + found
    complaints += [f"RA does not vanish (above {100 * NEGLIGIBLE:g}%, {_p(p)})"] * (p <= LEVEL)
    listed = ", ".join(f"{_percent(series)} at {eps:.3g}" for eps, series in stands.items())
    evidence = "; ".join([f"RA {listed}", *complaints])
    curve = {"eps": list(stands), "ra": [_value(series) for series in stands.values()]}
    numbers = {"changed_at_0": changed, "inversions": len(found), "p_vanishes": p}
    return checked("eps sweep", not complaints, evidence, **curve, **numbers)


def steps(name: str, once: pd.Series, doubled: pd.Series) -> Check:
    """Twice the steps of an attack lower RA by a negligible share at most."""
    test = paired(once, doubled)
    verdict: Verdict = "warn" if test.low > 100 * NEGLIGIBLE else "pass"
    evidence = (
        f"RA under {name} {_percent(once)}, with twice the steps {_percent(doubled)}: falls by "
        f"{test.value:.1f} points [{test.low:.1f}, {test.high:.1f}]"
    )
    evidence += "; not converged, use more steps" * (verdict == "warn")
    return checked("steps", verdict, evidence, difference=test.value, low=test.low, high=test.high)


def retry(name: str, broken: int, n: int) -> Check:
    """A longer attack from another start breaks next to none of the n images that stood."""
    p = above(NEGLIGIBLE, broken, n)
    evidence = f"{name} breaks {broken} of {n} images that stood"
    verdict: Verdict = "warn" if p <= LEVEL else "pass"
    return checked("retry", verdict, evidence, broken=broken, n=n, p_value=p)


def noise(attack: str, random: pd.Series, gradient: pd.Series) -> Check:
    """Random noise does not break more than an attack by gradients."""
    ours, theirs, p = breaks_more(random, gradient)
    evidence = (
        f"RA {_percent(random)} under noise, {_percent(gradient)} under {attack}; noise alone "
        f"breaks {ours}, {attack} alone {theirs}"
    )
    evidence += f"; the gradients are masked ({_p(p)})" * (p <= LEVEL)
    return checked("noise", p > LEVEL, evidence, only_noise=ours, only_gradient=theirs, p_value=p)


def gradient_free(attack: str, budget: str, free: pd.Series, gradient: pd.Series) -> Check:
    """An attack without gradients breaks neither more than all those by gradients, nor others."""
    ours, theirs, p_more = breaks_more(free, gradient)
    n = len(free.index.intersection(gradient.index))
    p_missed = above(MISSED, ours, n)
    p = min(holm([p_more, p_missed]))
    verdict: Verdict = "pass"
    evidence = f"of {n} examples {attack} alone breaks {ours}, gradients alone {theirs}"
    evidence += f" ({attack}: {budget})" * bool(budget)
    if p <= LEVEL:
        verdict, evidence = "fail", f"{evidence}; the gradients are masked ({_p(p)})"
    elif ours > NEGLIGIBLE * n:
        verdict, evidence = "warn", f"{evidence}; attacks by gradients are not enough"
    numbers = {"only_gradient_free": ours, "only_gradient": theirs, "n": n}
    return checked("gradient-free", verdict, evidence, **numbers, p_more=p_more, p_missed=p_missed)


def dial(clean: Mapping[float, pd.Series], robust: Mapping[float, pd.Series]) -> Check:
    """No lambda is significantly worse than another both clean and attacked."""
    pairs = list(permutations(clean, 2))
    tests = [  # worse in both is only what both find (intersection-union)
        max(breaks_more(right[lam], right[other])[2] for right in (clean, robust))
        for lam, other in pairs
    ]
    beaten: dict[float, tuple[float, float]] = {}
    for (lam, other), p in zip(pairs, holm(tests), strict=True):
        if p <= LEVEL and (lam not in beaten or p < beaten[lam][1]):
            beaten[lam] = (other, p)
    sa, ra = ({lam: _value(s) for lam, s in right.items()} for right in (clean, robust))
    listed = ", ".join(f"{sa[lam]:.1f}%/{ra[lam]:.1f}% at {lam:g}" for lam in clean)
    complaints = [
        f"lambda {lam:g} is worse than {other:g} in both (SA {sa[lam] - sa[other]:+z.1f}, RA "
        f"{ra[lam] - ra[other]:+z.1f}; p {p:.2g})"
        for lam, (other, p) in beaten.items()
    ]
    evidence, least = "; ".join([f"SA/RA {listed}", *complaints]), fewest(len(pairs))
    curves = {"lambda": list(clean), "sa": list(sa.values()), "ra": list(ra.values())}
    return checked("dial", not beaten, evidence, **curves, beaten=list(beaten), detectable=least)


def _value(stands: pd.Series) -> float:
    return 100 * float(stands.mean())


def _percent(stands: pd.Series) -> str:
    return f"{_value(stands):.1f}%"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"
