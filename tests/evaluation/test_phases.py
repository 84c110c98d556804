"""Accuracies of two phases: counted by hand, and against running the costly attack on all."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from oat_bench.results.points import summarize
from oat_bench.statistics import frontier, pairs
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.pairs import share_drop_p_value
from oat_bench.statistics.phases import Design, Phases, added_by, paired

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


# --- shares, frontiers and pairs, against truth and simulation


def drawn(draw, n, m, p, q, shared=None):
    """Draw what became of n examples: each stands with p, then survives with q; m are sampled.

    ``shared`` [2, n], of normal numbers, is what two models have in common.
    """
    own = draw.standard_normal((2, n))
    luck = own if shared is None else (shared + own) / 2**0.5
    standing, survives = luck < norm.ppf([[p], [min(q, 1 - 1e-12)]])
    sampled = standing & (np.cumsum(standing) <= m)
    return Phases(np.arange(n), standing, sampled, sampled & survives)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_the_mean_of_the_shares_is_the_accuracy(seed, n, m):
    draw = np.random.default_rng(seed)
    found = drawn(draw, n, m, *draw.random(2))
    shares = found.shares()
    assert 100 * shares.mean() == pytest.approx(found.accuracy().value, abs=1e-4)
    assert not shares[~found.standing].any()
    if found.whole:
        assert set(shares) <= {0.0, 1.0}
    some = np.flatnonzero(draw.random(n) < 0.7)
    assert found.among(some).right.tolist() == found.right[some].tolist()


def test_the_variance_of_the_shares_is_that_of_the_estimate():
    draw = np.random.default_rng(0)
    n, m, p, q = 1000, 100, 0.4, 0.8
    runs = [drawn(draw, n, m, p, q).shares() for _ in range(1500)]
    expected = p * (1 - p) / n * q**2 + p**2 * q * (1 - q) / m
    assert np.mean([one.var() / n for one in runs]) == pytest.approx(expected, rel=0.03)
    assert np.var([one.mean() for one in runs]) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
    ("n", "m", "p", "q"),
    [(300, 32, 0.3, 0.9), (300, 40, 0.3, 0.98), (200, 24, 0.6, 0.7), (500, 32, 0.1, 1.0)],
)
def test_the_interval_of_mover_covers(n, m, p, q):
    """Exactly, summed over all that may be counted; where all survive it covers always."""
    left = np.arange(*binom.ppf((1e-6, 1 - 1e-6), n, p))
    covered = 0.0
    for stand in left.astype(int):
        sample = min(stand, m)
        hits = np.arange(*binom.ppf((1e-6, 1 - 1e-6), sample, q)) if q < 1 else np.array([sample])
        hits = np.append(hits, sample).astype(int) if q < 1 else hits
        ends = [Accuracy.two_phase(n, stand, sample, k) for k in hits]
        inside = np.array([one.low <= 100 * p * q <= one.high for one in ends])
        covered += binom.pmf(stand, n, p) * (binom.pmf(hits, sample, q) * inside).sum()
    assert 0.93 < covered < (0.985 if q < 1 else 1)


def test_two_samples_are_compared_by_their_shares():
    """Coverage of the interval of a difference, and the level of its test, each way."""
    draw = np.random.default_rng(0)
    for n, m, ours, theirs in (
        (600, 64, (0.3, 0.9), (0.3, 0.9)),
        (600, 64, (0.3, 0.98), (0.25, 1.0)),
        (600, 32, (0.5, 0.97), (0.5, 0.85)),
    ):
        true, covered, levels, runs = np.prod(ours) - np.prod(theirs), 0, [0, 0], 800
        for _ in range(runs):
            common = draw.standard_normal((2, n))
            a, b = (drawn(draw, n, m, *one, shared=common) for one in (ours, theirs))
            found = paired(a, b)
            assert not found.exact
            covered += found.low <= 100 * true <= found.high
            d, added = a.shares() - b.shares(), added_by([a], [b])
            for side, sign in enumerate((1, -1)):
                levels[side] += share_drop_p_value(sign * d, added, sign * true) <= 0.05
            # the test goes with the interval
            assert (found.p_value <= 0.05) == (not found.low <= 0 <= found.high)
        assert 0.935 < covered / runs < 0.985
        assert max(levels) / runs < 0.075  # 5% and three standard errors


def test_what_is_known_of_every_example_is_compared_exactly():
    draw = np.random.default_rng(1)
    a, b = (drawn(draw, 200, 200, 0.6, 0.9) for _ in range(2))
    assert paired(a, b) == pairs.paired(a.right, b.right)
    assert added_by([a], [b]) == 1


def two_phase_outcomes(draw, n, m, chances):
    """Draw the outcomes of a cheap attack on n examples and a costly one on m that stand."""
    frames = []
    for lam, (clean, p, q) in chances.items():
        right = draw.random(n) < clean
        ends = drawn(draw, n, m, p, q)
        for attack, rows, stands in (
            ("cheap", np.arange(n), ends.standing),
            ("costly", np.flatnonzero(ends.sampled & right), ends.right),
        ):
            columns = {"lam": lam, "width": 1.0, "attack": attack, "example": rows, "label": 1}
            columns["clean_prediction"] = np.where(right, 1, 2)[rows]
            columns["attacked_prediction"] = np.where(right & stands, 1, 2)[rows]
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


COSTLY = Design(["cheap", "costly"], {"costly": ["cheap"]})


def test_a_frontier_of_two_phases_has_the_points_of_the_table():
    chances = {0.0: (0.9, 0.2, 0.5), 0.5: (0.8, 0.5, 0.9), 1.0: (0.7, 0.6, 1.0)}
    rows = two_phase_outcomes(np.random.default_rng(0), 400, 60, chances)
    points = summarize(rows.sample(frac=1, random_state=0), COSTLY)
    for attack in ("cheap", "costly", WORST):
        right = frontier.rightness(rows, attack, COSTLY)
        for place, (sa, ra) in enumerate(right.points()):
            assert sa == pytest.approx(points[place].clean_acc, abs=1e-4)
            assert ra == pytest.approx(points[place].robust[attack].value, abs=1e-4)
            assert right.at(place).accuracy() == points[place].robust[attack]
    last = frontier.summarize(rows, COSTLY)[-1]
    assert last.attack == WORST
    assert last.hypervolume.low < last.hypervolume.value < last.hypervolume.high


def test_the_interval_of_a_frontier_covers_and_has_a_width_where_all_survive():
    """One lambda: its hypervolume is SA times RA, of which the truth is known."""
    draw, covered, runs = np.random.default_rng(0), 0, 150
    for _ in range(runs):
        rows = two_phase_outcomes(draw, 400, 48, {1.0: (0.9, 0.5, 0.9)})
        found = frontier.rightness(rows, "costly", COSTLY).estimate(frontier.hypervolume)
        covered += found.low <= 100 * 0.9 * (0.9 * 0.5 * 0.9) <= found.high
    assert 0.89 < covered / runs <= 1
    rows = two_phase_outcomes(draw, 400, 48, {1.0: (0.9, 0.5, 1.0)})
    right, cheap = (frontier.rightness(rows, name, COSTLY) for name in ("costly", "cheap"))
    ours, all_of = (one.estimate(frontier.hypervolume) for one in (right, cheap))
    assert ours.value == all_of.value
    assert ours.low < all_of.low - 0.3
    # paired with itself there is no difference, but for what the two samples do not tell
    own = right.estimate(frontier.hypervolume, right)
    assert own.low <= own.value == 0 <= own.high
    assert cheap.estimate(frontier.hypervolume, cheap).high == 0


def test_where_nothing_stands_in_a_resample_ra_is_0():
    rows = two_phase_outcomes(np.random.default_rng(0), 40, 1, {1.0: (1.0, 0.1, 1.0)})
    right = frontier.rightness(rows, "costly", COSTLY)
    assert 1 == right.sampled.sum() < right.standing.sum()
    found = right.estimate(frontier.hypervolume)
    assert found.low == 0 < found.value < found.high < 100


def test_an_attack_that_lacks_a_lambda_has_no_frontier():
    rows = two_phase_outcomes(np.random.default_rng(0), 50, 9, {0.5: (1, 0.5, 1), 1.0: (1, 0.5, 1)})
    rows = rows[(rows["attack"] == "cheap") | (rows["lam"] == 1.0)]
    assert [one.attack for one in frontier.summarize(rows, COSTLY)] == ["cheap"]
    with pytest.raises(ValueError, match="no outcomes of costly at width 1"):
        frontier.rightness(rows, "costly", COSTLY)
