"""Whether attacks can be trusted: checks of what was measured, each a verdict with its evidence.

The signs that gradients are masked are those of Athalye et al. (arXiv:1802.00420, section 3.1) and
Carlini et al. (arXiv:1902.06705). `oat_bench.evaluation.probes` has the checks of the network
itself, `oat_bench.evaluation.examination` runs what all of them look at.

What chance explains is not held against a model. Attacks are compared on the same examples, by an
exact one-sided test on those that only one of the two broke (McNemar, Psychometrika 12, 1947); a
share is compared with `NEGLIGIBLE` by an exact binomial test; several tests of one check are
corrected by Holm's method (Scandinavian Journal of Statistics 6, 1979).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from oat_bench.results.checks import Check, Verdict
from oat_bench.statistics.pairs import drop_p_value, holm, mcnemar, paired

#: the chance that a check fails an honest model, at most
LEVEL = 0.01
#: the share of examples that is of no account
NEGLIGIBLE = 0.02
#: the share of examples that attacks by gradients may miss, but for chance, and still be trusted
MISSED = 0.05
#: what share of the examples an attack may leave more than the strongest: without masking, networks
#: of adversarial training lose two to five points from PGD-20 to AutoAttack
CLOSE = 0.05
#: beyond this an RA is wrong: by more than 10 points AutoAttack lowered what broken defences had
#: reported (arXiv:2003.01690)
FAR = 0.10


@dataclass(frozen=True)
class Inversion:
    """An attack that broke more than one that should be stronger, beyond chance.

    Attributes:
        weak: the attack that should break less.
        strong: the attack that should break more.
        only_weak: examples that the first alone broke, of those that both saw.
        only_strong: examples that the second alone broke.
        p_value: of the exact one-sided test, corrected by Holm.
    """

    weak: str
    strong: str
    only_weak: int
    only_strong: int
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.weak} breaks more than {self.strong} ({self.only_weak} examples that the other "
            f"does not, against {self.only_strong}; {_p(self.p_value)})"
        )


# --- statistics


def breaks_more(first: pd.Series, second: pd.Series) -> tuple[int, int, float]:
    """Test whether one attack breaks more than another, of the examples that both saw.

    Args:
        first: whether each example stands, bool, indexed by example.
        second: the same under the other attack.

    Returns:
        How many examples only the first broke, how many only the second, and the exact one-sided
        p-value of the first breaking no more than the second.
    """
    seen = first.index.intersection(second.index)
    a, b = first[seen], second[seen]
    only_first, only_second = int((~a & b).sum()), int((a & ~b).sum())
    return only_first, only_second, mcnemar(only_first, only_second, "greater")


def above(share: float, count: int, n: int) -> float:
    """Return the exact one-sided p-value of ``count`` of ``n`` being no more than a share."""
    return float(binomtest(count, n, share, alternative="greater").pvalue) if n else 1.0


def inversions(ladder: Mapping[str, pd.Series]) -> list[Inversion]:
    """Find the pairs out of order, beyond chance.

    Args:
        ladder: by name, the weakest attack first, whether each example stands.
    """
    pairs = list(combinations(ladder, 2))
    tests = [breaks_more(ladder[weak], ladder[strong]) for weak, strong in pairs]
    corrected = holm([p for _, _, p in tests])
    return [
        Inversion(weak, strong, ours, theirs, p)
        for (weak, strong), (ours, theirs, _), p in zip(pairs, tests, corrected, strict=True)
        if p <= LEVEL
    ]


def detectable(n_attacks: int) -> int:
    """Return how many examples, all to one side, it takes for a pair to be out of order."""
    return fewest(n_attacks * (n_attacks - 1) / 2)


def fewest(n_tests: float) -> int:
    """Return how many examples, all to one side, are beyond chance in one of so many tests."""
    return int(np.ceil(np.log2(n_tests / LEVEL)))


# --- outcomes of attacks


def order(clean: pd.Series, ladder: Mapping[str, pd.Series], remark: str = "") -> Check:
    """No attack breaks more than a stronger one.

    Args:
        clean: whether each example is right without an attack, indexed by example.
        ladder: by name, the weakest attack first, whether each example stands.
        remark: to add to the evidence.
    """
    found = inversions(ladder)
    accuracies = {"clean": clean, **ladder}
    listed = ", ".join(
        f"{name} {percent(stands)}" + (f" (n {len(stands)})" if len(stands) < len(clean) else "")
        for name, stands in accuracies.items()
    )
    return Check(
        name="order",
        verdict="fail" if found else "pass",
        evidence="; ".join(part for part in (listed, *map(str, found), remark) if part),
        numbers={name: 100 * float(stands.mean()) for name, stands in accuracies.items()}
        | {"inversions": len(found)},
    )


def estimate(name: str, stands: pd.Series, others: Mapping[str, pd.Series]) -> Check:
    """RA under an attack is close to RA under the strongest one, on the same examples.

    It fails where RA is above the strongest attack's by more than `FAR`, and beyond chance by more
    than `CLOSE`; it warns where RA is above by more than `CLOSE`, and beyond chance above at all.
    Both tests are exact and paired, and corrected for the choice of the strongest by Bonferroni.

    Args:
        name: of the attack.
        stands: whether each example stands under it, indexed by example.
        others: the same by name, of attacks that may be stronger; each may have seen fewer.
    """
    seen = {k: stands.index.intersection(v.index) for k, v in others.items()}
    higher = {
        k: float(stands[ids].mean() - others[k][ids].mean()) for k, ids in seen.items() if len(ids)
    }
    strongest = max(higher, key=higher.__getitem__, default=None)
    if strongest is None or higher[strongest] <= 0:
        return Check(
            name="estimate",
            verdict="pass",
            evidence=f"no attack leaves less than {name}, {percent(stands)}",
            numbers={"difference": 0.0, "n": len(stands)},
        )
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
        f"RA {percent(ours)} under {name}, {percent(theirs)} under {strongest}, on the same "
        f"{len(ids)} images: {test.value:.1f} points too high [{test.low:.1f}, "
        f"{test.high:.1f}]"
    )
    return Check(
        name="estimate",
        verdict=verdict,
        evidence=evidence,
        numbers={
            "difference": test.value,
            "low": test.low,
            "high": test.high,
            "n": len(ids),
            "p_higher": min(1.0, tried * p),
            "p_beyond": p_beyond,
        },
    )


def sweep(clean: pd.Series, stands: Mapping[float, pd.Series]) -> Check:
    """RA equals SA at eps 0, never rises with eps, and vanishes.

    Args:
        clean: whether each example is right without an attack, indexed by example.
        stands: by eps, from 0 on, whether each example stands.
    """
    changed = int((clean != stands[0.0]).sum())
    found = inversions({f"eps {eps:.3g}": series for eps, series in stands.items()})
    largest = max(stands)
    left = stands[largest]
    p = above(NEGLIGIBLE, int(left.sum()), len(left))
    complaints = [f"{changed} predictions change at eps 0"] if changed else []
    complaints += [str(inversion) for inversion in found]
    if p <= LEVEL:
        complaints.append(f"RA does not vanish (above {100 * NEGLIGIBLE:g}%, {_p(p)})")
    listed = ", ".join(f"{percent(series)} at {eps:.3g}" for eps, series in stands.items())
    return Check(
        name="eps sweep",
        verdict="fail" if complaints else "pass",
        evidence="; ".join([f"RA {listed}", *complaints]),
        numbers={
            "eps": list(stands),
            "ra": [100 * float(series.mean()) for series in stands.values()],
            "changed_at_0": changed,
            "inversions": len(found),
            "p_vanishes": p,
        },
    )


def steps(name: str, once: pd.Series, doubled: pd.Series) -> Check:
    """Twice the steps do not lower RA by more than is of no account.

    Args:
        name: of the attack.
        once: whether each example stands, indexed by example.
        doubled: the same with twice the steps.
    """
    test = paired(once, doubled)
    converged = test.low <= 100 * NEGLIGIBLE
    evidence = (
        f"RA under {name} {percent(once)}, with twice the steps {percent(doubled)}: falls by "
        f"{test.value:.1f} points [{test.low:.1f}, {test.high:.1f}]"
    )
    return Check(
        name="steps",
        verdict="pass" if converged else "warn",
        evidence=evidence if converged else f"{evidence}; not converged, use more steps",
        numbers={"difference": test.value, "low": test.low, "high": test.high},
    )


def retry(name: str, broken: int, n: int) -> Check:
    """A longer attack from another start breaks next to none of the images that stood.

    Args:
        name: of the attack, with what it does more.
        broken: how many it breaks.
        n: of so many that every attack before had left standing.
    """
    p = above(NEGLIGIBLE, broken, n)
    return Check(
        name="retry",
        verdict="warn" if p <= LEVEL else "pass",
        evidence=f"{name} breaks {broken} of {n} images that stood",
        numbers={"broken": broken, "n": n, "p_value": p},
    )


def noise(attack: str, random: pd.Series, gradient: pd.Series) -> Check:
    """Random noise does not break more than an attack by gradients.

    Args:
        attack: name of the attack by gradients.
        random: whether each example stands under noise, indexed by example.
        gradient: the same under the attack.
    """
    ours, theirs, p = breaks_more(random, gradient)
    evidence = (
        f"RA {percent(random)} under noise, {percent(gradient)} under {attack}; noise alone "
        f"breaks {ours}, {attack} alone {theirs}"
    )
    masked = p <= LEVEL
    return Check(
        name="noise",
        verdict="fail" if masked else "pass",
        evidence=f"{evidence}; the gradients are masked ({_p(p)})" if masked else evidence,
        numbers={"only_noise": ours, "only_gradient": theirs, "p_value": p},
    )


def gradient_free(attack: str, budget: str, free: pd.Series, gradient: pd.Series) -> Check:
    """An attack without gradients breaks neither more than those by gradients, nor others.

    Args:
        attack: name of the attack without gradients.
        budget: what it was given, in words; may be empty.
        free: whether each example stands under it, indexed by example.
        gradient: whether each stands under all attacks by gradients.
    """
    ours, theirs, p_more = breaks_more(free, gradient)
    n = len(free.index.intersection(gradient.index))
    p_missed = above(MISSED, ours, n)
    p = min(holm([p_more, p_missed]))
    verdict: Verdict = "pass"
    evidence = (
        f"of {n} examples {attack} alone breaks {ours}, gradients alone {theirs}"
        + f" ({attack}: {budget})" * bool(budget)
    )
    if p <= LEVEL:
        verdict = "fail"
        evidence += f"; the gradients are masked ({_p(p)})"
    elif ours > NEGLIGIBLE * n:
        verdict = "warn"
        evidence += "; attacks by gradients are not enough"
    return Check(
        name="gradient-free",
        verdict=verdict,
        evidence=evidence,
        numbers={
            "only_gradient_free": ours,
            "only_gradient": theirs,
            "n": n,
            "p_more": p_more,
            "p_missed": p_missed,
        },
    )


def percent(stands: pd.Series) -> str:
    """Write the share that stands."""
    return f"{100 * float(stands.mean()):.1f}%"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"
