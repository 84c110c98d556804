"""Accuracies of two phases: counted by hand, and against running the costly attack on all."""

import numpy as np
import pandas as pd
import pytest

from oat_bench.results.points import summarize
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.phases import Design

DESIGN = Design(["fgsm", "pgd-7", "costly"], {"costly": ["fgsm", "pgd-7"]})


def frame(n=40, sampled=None, breaks=(), lam=0.5):
    """Outcomes of n examples of class 1: a tenth is wrong; fgsm breaks thirds, pgd-7 fifths.

    The costly attack was run on ``sampled`` and breaks ``breaks``.
    """
    rows = []
    for attack in ("fgsm", "pgd-7", "costly"):
        for example in range(n):
            if attack == "costly" and sampled is not None and example not in sampled:
                continue
            clean = 2 if example % 10 == 9 else 1
            broken = {
                "fgsm": example % 3 == 0,
                "pgd-7": example % 3 == 0 or example % 5 == 0,
                "costly": example in breaks,
            }
            rows.append((lam, 1.0, attack, example, 1, clean, 2 if broken[attack] else clean))
    names = ["lam", "width", "attack", "example", "label", "clean_prediction"]
    return pd.DataFrame(rows, columns=[*names, "attacked_prediction"])


def standing(n=40):
    return [i for i in range(n) if i % 10 != 9 and i % 3 and i % 5]


def test_the_accuracy_is_the_share_that_stands_times_that_of_the_sample():
    left = standing()
    sample, breaks = left[:8], left[1:4]
    (point,) = summarize(frame(sampled=sample, breaks=breaks), DESIGN)
    assert (point.n, point.clean_acc) == (40, 90.0)
    assert point.robust["pgd-7"].value == 100 * len(left) / 40
    found = point.robust["costly"]
    assert (found.n, found.left, found.sampled) == (None, len(left), 8)
    assert found.value == pytest.approx(100 * len(left) / 40 * 5 / 8, abs=1e-4)
    assert point.robust[WORST] == found
    # the product of two shares is no surer than the first alone, and surer than the sample alone
    p, q = Accuracy.counted(len(left), 40), Accuracy.counted(5, 8)
    assert p.value * q.low / 100 >= found.low > p.low * q.low / 100
    assert p.value * q.high / 100 <= found.high < p.high * q.high / 100


def test_a_sample_of_all_that_stands_is_the_attack_on_all():
    breaks = standing()[::3]
    (plain,) = summarize(frame(breaks=breaks), Design(DESIGN.worst_over))
    for sampled in (standing(), None):  # rows of what had fallen before change nothing
        (point,) = summarize(frame(sampled=sampled, breaks=breaks), DESIGN)
        assert point.robust[WORST] == plain.robust[WORST]
        assert point.robust["costly"] == plain.robust[WORST]


def test_where_nothing_stands_the_accuracy_is_0_and_no_attack_is_needed():
    fallen = frame(sampled=())
    fallen["attacked_prediction"] = 2
    elsewhere = frame(sampled=standing()[:8], lam=1.0)
    low, high = summarize(pd.concat([fallen, elsewhere]), DESIGN)
    assert low.robust["costly"] == low.robust[WORST] == Accuracy.counted(0, 40)
    assert list(low.robust) == list(high.robust)
    # where some stand and the attack was not run, nothing is known of it
    (unknown,) = summarize(frame(sampled=()), DESIGN)
    assert list(unknown.robust) == ["fgsm", "pgd-7"]


def test_without_a_first_phase_the_sample_is_of_what_is_right_clean():
    right = [i for i in range(40) if i % 10 != 9]
    rows = frame(sampled=right[:12], breaks=right[:3])
    (point,) = summarize(rows, Design(["fgsm"], {"costly": []}))
    found = point.robust["costly"]
    assert (found.left, found.sampled) == (36, 12)
    assert found.value == pytest.approx(90 * 9 / 12, abs=1e-4)


def test_the_interval_covers():
    """Of examples drawn anew each time, in about 95 of 100 runs."""
    n, m, runs, p, q = 2000, 128, 400, 0.35, 0.85
    draw = np.random.default_rng(0)
    left = draw.binomial(n, p, runs)
    hits = draw.binomial(m, q, runs)
    found = [Accuracy.two_phase(n, int(s), m, int(k)) for s, k in zip(left, hits, strict=True)]
    covered = np.mean([one.low <= 100 * p * q <= one.high for one in found])
    assert 0.92 < covered < 0.98
