"""Rows and verdicts, against counts by hand."""

import numpy as np
import pytest
from making import CELLS, first, outcomes
from scipy.stats import norm

from oat_bench.regression.comparison import compare
from oat_bench.statistics import pairs
from oat_bench.statistics.accuracy import WORST
from oat_bench.statistics.phases import Design

BOTH = Design(["fgsm", "pgd-7"])
BEFORE = outcomes({cell: first(300) for cell in CELLS})


def test_every_accuracy_has_a_row_and_every_row_its_counts():
    now = outcomes({cell: first(300) for cell in CELLS} | {("pgd-7", 1.0): first(260)})
    result = compare(BEFORE, now.sample(frac=1, random_state=0), BOTH)
    names = ["SA", "fgsm", "pgd-7", WORST]
    assert [(row.lam, row.measure) for row in result.rows] == [
        (lam, name) for lam in (0.0, 1.0, None) for name in names
    ]
    rows = {(row.lam, row.measure): row for row in result.rows}
    row = rows[1.0, "pgd-7"]
    assert (row.n, row.baseline, row.now, row.change) == (400, 75, 65, -10)
    low, high = pairs.interval(first(260).astype(float) - first(300))
    assert (row.low, row.high) == (100 * low, 100 * high)
    p = pairs.drop_p_value(40, 0, 400, 0.01)
    # Holm: of twelve none has less
    assert row.p_worse == pytest.approx(12 * p)
    assert row.changed == 10
    assert rows[1.0, WORST].change == -10
    mean = rows[None, "pgd-7"]
    assert (mean.baseline, mean.now) == (75, 70)
    lost = (first(300) - first(260).astype(float)) / 2
    # after the two at lambda 1 come the two means
    assert mean.p_worse == pytest.approx(10 * pairs.mean_drop_p_value(lost, 0.01))
    low, high = pairs.mean_interval(-lost)
    assert (mean.low, mean.high) == (100 * low, 100 * high)
    detectable = pairs.detectable_drop(lost, 0.01, 0.05 / 12, mean=True)
    assert mean.detectable == pytest.approx(100 * detectable)
    worse = {(row.lam, row.measure) for row in result.of("worse")}
    assert worse == {(lam, name) for lam in (1.0, None) for name in ("pgd-7", WORST)}
    assert result.verdict == "worse"


def test_a_drop_within_the_tolerance_is_none():
    now = outcomes({cell: first(296) for cell in CELLS})
    result = compare(BEFORE, now, BOTH)
    assert result.verdict == "ok"
    assert {row.p_worse for row in result.rows if row.lam is not None} == {1.0}
    # of nothing but losses eight in 400 are a drop, and one of less than 5 points
    lost_more = outcomes({cell: first(280) for cell in CELLS})
    assert compare(BEFORE, lost_more, BOTH, max_drop=0).verdict == "worse"
    # five points are lost, and more are not excluded
    assert compare(BEFORE, lost_more, BOTH, max_drop=5).verdict == "not excluded"
    assert compare(BEFORE, lost_more, BOTH, max_drop=8).verdict == "ok"


def test_a_strict_check_asks_for_every_interval_within_the_tolerance():
    for lost, tolerance, strict, failed in (
        (0, 1, True, False),  # nothing changed
        (12, 2, False, False),
        (12, 2, True, True),  # a drop of 3 points: 2 are exceeded, though not beyond doubt
        (12, 6, True, False),
    ):
        now = outcomes({cell: first(300 - lost) for cell in CELLS})
        result = compare(BEFORE, now, BOTH, max_drop=tolerance, strict=strict)
        reaching = [row for row in result.rows if -row.low > tolerance]
        assert result.of("not excluded") == [row for row in reaching if strict or row.high < 0]
        assert (result.failed, bool(result.failures)) == (failed, failed)
    # noise alone is not within a fine tolerance
    noisy = {cell: np.roll(first(300), 40) for cell in CELLS}
    assert compare(BEFORE, outcomes(noisy), BOTH, max_drop=1).verdict == "ok"
    assert compare(BEFORE, outcomes(noisy), BOTH, max_drop=1, strict=True).failed


def test_a_rise_is_better_unless_something_is_worse():
    up = {cell: first(340) for cell in CELLS}
    assert compare(BEFORE, outcomes(up), BOTH).verdict == "better"
    both = outcomes(up | {("fgsm", 0.0): first(200)})
    result = compare(BEFORE, both, BOTH)
    assert result.of("better")
    assert result.verdict == "worse"


def test_clean_accuracy_is_checked():
    clean = {lam: first(340) for lam in (0.0, 1.0)}
    now = outcomes({cell: first(300) for cell in CELLS}, clean)
    result = compare(BEFORE, now, BOTH)
    assert {row.measure for row in result.of("worse")} == {"SA"}
    # an example that is wrong without an attack is not robust
    clean = {lam: ~first(100) for lam in (0.0, 1.0)}
    result = compare(
        BEFORE, outcomes({cell: first(300) for cell in CELLS}, clean), Design(["fgsm"])
    )
    assert {row.now for row in result.rows if row.measure == "fgsm"} == {50}


def test_the_worst_case_is_of_the_examples_that_every_attack_saw():
    robust = {("fgsm", lam): first(300) for lam in (0.0, 1.0)} | {
        ("pgd-7", lam): ~first(20, 80) for lam in (0.0, 1.0)
    }
    before = outcomes(robust)
    rows = {r.measure: r for r in compare(before, before, BOTH).rows if r.lam == 0}
    assert [rows[name].n for name in ("SA", "fgsm", "pgd-7", WORST)] == [400, 400, 80, 80]
    assert rows[WORST].baseline == 75
    # one attack has no worst case of its own, one operating point no mean
    one = before[before["lam"] == 0]
    assert [r.measure for r in compare(one, one, Design(["fgsm"])).rows] == ["SA", "fgsm", "pgd-7"]


def test_what_does_not_pair_is_refused():
    for other in (
        BEFORE[BEFORE["attack"] == "fgsm"],
        BEFORE[BEFORE["lam"] == 0],
        BEFORE[BEFORE["example"] > 0],
    ):
        with pytest.raises(ValueError, match="outcomes of different"):
            compare(BEFORE, other, BOTH)


def test_the_tolerance_may_be_finer_than_n_supports():
    few = compare(BEFORE, BEFORE, BOTH)
    assert few.too_fine
    assert all(row.detectable > 2 for row in few.rows)
    assert all(row.needed > 400 for row in few.rows)
    assert not compare(BEFORE, BEFORE, BOTH, max_drop=10).too_fine
    none = compare(BEFORE, BEFORE, BOTH, max_drop=0)
    assert not none.too_fine
    assert {row.needed for row in none.rows} == {None}


def test_what_is_detectable_is_told_of_what_changed_and_of_two_trainings():
    same = compare(BEFORE, BEFORE, BOTH)
    swapped = {cell: np.roll(first(300), 40) for cell in CELLS}  # 40 lost, 40 gained: 20%
    other = compare(BEFORE, outcomes(swapped), BOTH)
    assert {row.changed for row in same.rows} == {0}
    attacked = [row for row in other.rows if row.measure != "SA"]
    assert {row.changed for row in attacked} == {20}
    (expected,) = same.between_trainings()
    assert max(row.detectable for row in same.rows) < expected / 1.5
    for row in attacked:
        if row.lam is not None:
            assert row.detectable == pytest.approx(expected)
    # as many examples at one level: the closed form of a normal test
    deviation = np.sqrt(0.2 + expected / 100 - (expected / 100) ** 2)
    z = norm.isf(0.05 / 12) + norm.ppf(pairs.POWER)
    assert expected == pytest.approx(1 + 100 * z * deviation / np.sqrt(400), rel=0.02)


@pytest.mark.slow
def test_false_alarms_are_rarer_than_one_in_twenty():
    """Two models that differ by chance alone, at a tolerance of nothing: the hardest case."""
    draw = np.random.default_rng(0)
    alarms = 0
    for _ in range(120):
        sides = []
        for _ in range(2):
            base = draw.random(200)
            stands = {cell: base + 0.1 * draw.standard_normal(200) < 0.5 for cell in CELLS}
            sides.append(outcomes(stands, n=200))
        result = compare(*sides, BOTH, max_drop=0)
        alarms += result.verdict == "worse"
    assert alarms <= 12  # 99% quantile of a binomial with 0.05
