"""Summary numbers of a frontier, against closed forms, sampling and scipy."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_bench.results.points import summarize
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST
from oat_bench.statistics.phases import Design

percent = st.floats(0, 100).map(lambda value: round(value, 3))
points = st.lists(st.tuples(percent, percent), min_size=1, max_size=8)
references = st.sampled_from([(0.0, 0.0), (50.0, 10.0), (90.0, 0.0)])


# --- hypervolume


@pytest.mark.parametrize(
    ("values", "reference", "expected"),
    [
        ([(100, 100)], (0, 0), 100),
        ([(0, 0)], (0, 0), 0),
        ([(80, 50)], (0, 0), 40),
        ([(80, 50), (90, 0)], (0, 0), 40),  # no height, no area
        ([(90, 20), (80, 50)], (0, 0), 42),  # 0.9 * 0.2 + 0.8 * 0.3
        ([(90, 20), (80, 50), (70, 10)], (0, 0), 42),
        ([(90, 20), (80, 50)], (60, 10), 100 * (30 * 10 + 20 * 30) / (40 * 90)),
        ([(50, 20), (40, 90)], (60, 10), 0),  # all below the reference
    ],
)
def test_hypervolume_has_these_closed_forms(values, reference, expected):
    assert frontier.hypervolume(values, reference) == pytest.approx(expected)


@given(points, references)
def test_hypervolume_is_the_share_of_a_fine_grid_that_is_dominated(values, reference):
    """An independent way: cut the box at every coordinate, and ask of each cell."""
    xs = sorted({reference[0], 100.0, *(max(x, reference[0]) for x, _ in values)})
    ys = sorted({reference[1], 100.0, *(max(y, reference[1]) for _, y in values)})
    area = 0.0
    for left, right in pairwise(xs):
        for low, high in pairwise(ys):
            if any(x >= right and y >= high for x, y in values):
                area += (right - left) * (high - low)
    box = (100 - reference[0]) * (100 - reference[1])
    assert frontier.hypervolume(values, reference) == pytest.approx(100 * area / box, abs=1e-9)


@given(points, st.tuples(percent, percent), references, st.randoms())
def test_hypervolume_ignores_order_and_grows_with_points(values, more, reference, random):
    whole = frontier.hypervolume(values, reference)
    shuffled = random.sample(values, len(values))
    assert frontier.hypervolume(shuffled, reference) == pytest.approx(whole, abs=1e-9)
    assert frontier.hypervolume([*values, more], reference) >= whole - 1e-9
    best = np.array(values)[frontier.pareto(values)]
    assert frontier.hypervolume(best, reference) == pytest.approx(whole, abs=1e-9)
    assert 0 <= whole <= 100 + 1e-9


# --- Pareto


@given(points)
def test_pareto_is_its_definition(values):
    for (sa, ra), best in zip(values, frontier.pareto(values), strict=True):
        beaten = any((x > sa and y >= ra) or (x >= sa and y > ra) for x, y in values)
        assert best == (not beaten)


def test_equal_points_are_all_optimal():
    assert frontier.pareto([(90, 10), (90, 10), (80, 5)]).tolist() == [True, True, False]


# --- the hole


def test_the_hole_of_a_digitised_curve():
    """CIFAR-10, OATS at full width, from the figures of SOLAR: 90.3/1.0, then 88.1/37.2."""
    hole = frontier.hole([1.0, 0.1, 0.0], [(83.3, 47.3), (88.1, 37.2), (90.3, 1.0)])
    assert hole.lam == 0.1
    assert hole.sa == pytest.approx(2.2)
    assert hole.ra == pytest.approx(36.2)
    assert hole.distance == pytest.approx(np.sqrt(2.2**2 + 36.2**2))


def test_no_hole_without_both_ends():
    assert frontier.hole([0.1, 1.0], [(1, 1), (2, 2)]) is None
    assert frontier.hole([0.0], [(1, 1)]) is None


# --- distance


def test_robustness_between_and_beyond_the_points():
    curve = [(90, 20), (80, 50), (70, 45)]  # the last is beaten
    at = frontier.robustness_at([95, 90, 85, 80, 75, 0], curve)
    assert np.isnan(at[0])
    assert at[1:].tolist() == [20, 35, 50, 50, 50]


def test_a_point_between_two_is_what_drawing_between_them_gives():
    """Mix two classifiers image by image: the mean accuracies lie on the line."""
    ends = np.array([(90.0, 20.0), (80.0, 50.0)])
    draws = np.random.default_rng(0).random(200_000) < 0.3
    sa, ra = np.where(draws[:, None], ends[0], ends[1]).mean(axis=0)
    assert frontier.robustness_at([sa], ends)[0] == pytest.approx(ra, abs=1e-9)


def test_distance_of_these_frontiers():
    distance = frontier.distance([(90, 20), (80, 50)], [(85, 30), (95, 0), (80, 50), (60, 40)])
    # of the reference (60, 40) is beaten; in order of SA: (80, 50), (85, 30), (95, 0)
    assert distance.gaps[:2] == (0, 5)
    assert np.isnan(distance.gaps[2])
    assert distance.unreached == 1
    assert distance.mean_gap == 2.5
    assert distance.epsilon == 5  # SA of (95, 0) is 5 above ours; (85, 30) lacks 5 too


@given(points, st.floats(0, 20))
def test_a_frontier_lowered_by_so_much_is_so_far_away(values, drop):
    higher = np.array(values)
    distance = frontier.distance(higher - drop, higher)
    assert distance.epsilon == pytest.approx(drop, abs=1e-9)
    assert frontier.distance(higher, higher).epsilon == 0
    assert all(gap == pytest.approx(0, abs=1e-9) for gap in frontier.distance(values, values).gaps)


@given(points, points)
def test_epsilon_is_the_least_shift_that_dominates(ours, theirs):
    ours, theirs = np.array(ours), np.array(theirs)
    epsilon = frontier.distance(ours, theirs).epsilon

    def dominates(shift):
        return all(((ours + shift) >= other - 1e-9).all(axis=1).any() for other in theirs)

    assert dominates(epsilon)
    assert not dominates(epsilon - 1e-6)


@given(points, points)
def test_a_gap_is_the_height_above_the_other_curve(ours, theirs):
    distance = frontier.distance(ours, theirs)
    best = np.unique(np.array(theirs)[frontier.pareto(theirs)], axis=0)
    for (sa, ra), gap in zip(best, distance.gaps, strict=True):
        attained = [y for x, y in ours if x >= sa]
        assert np.isnan(gap) == (not attained)
        if attained:
            assert gap >= max(attained) - ra - 1e-9  # interpolation never lowers it


# --- intervals


def test_the_bootstrap_interval_of_an_accuracy_is_near_its_standard_error():
    right = np.arange(400) < 300
    found = frontier.mean_percent(right)
    margin = 196 * np.sqrt(0.75 * 0.25 / 400)
    assert found.value == 75
    assert (found.low, found.high) == pytest.approx((75 - margin, 75 + margin), abs=0.6)
    assert frontier.mean_percent(right) == found
    accuracy = frontier.mean_accuracy(right)
    assert (accuracy.low, accuracy.high, accuracy.n) == (found.low, found.high, None)
    alone = frontier.mean_percent([1.0], (-5, 100))
    assert (alone.value, alone.low, alone.high) == (100, -5, 100)


def test_resampling_distinct_rows_is_resampling_examples():
    """Mean and covariance of the sums are those of drawing n rows, stratum by stratum."""
    draw = np.random.default_rng(0)
    rows = draw.random((300, 3)) < (0.2, 0.5, 0.9)
    rows[:, 1] |= rows[:, 0]
    strata = np.arange(300) < 100
    sums = frontier.resampled(rows, strata)
    assert sums.shape == (frontier.RESAMPLES, 3)
    expected = sum(len(g) * np.cov(g.T, bias=True) for g in (rows[strata], rows[~strata]))
    error = np.sqrt(np.diag(expected))
    assert np.abs(sums.mean(axis=0) - rows.sum(axis=0)).max() < 4 * (error / 1000**0.5).max()
    assert np.cov(sums.T) == pytest.approx(expected, abs=0.2 * error.max() ** 2)
    assert frontier.resampled(rows, np.arange(300) < 1) is None


# --- from outcomes


@pytest.fixture(scope="module")
def outcomes():
    draw = np.random.default_rng(3)
    frames = []
    for width in (0.5, 1.0):
        for lam in (0.0, 0.15, 1.0):
            clean = np.where(draw.random(80) < 0.95 - 0.1 * lam, 1, 2)
            for attack, power in (("fgsm", 0.5), ("pgd-7", 0.7)):
                broken = draw.random(80) < power * (1 - lam)
                frames.append(
                    pd.DataFrame(
                        {
                            "lam": lam,
                            "width": width,
                            "attack": attack,
                            "example": draw.permutation(80),  # in no order
                            "label": 1,
                            "clean_prediction": clean,
                            "attacked_prediction": np.where(broken, 3, clean),
                        }
                    )
                )
    # the clean prediction belongs to the example, not to the attack
    frame = pd.concat(frames, ignore_index=True)
    keys = ["width", "lam", "example"]
    frame["clean_prediction"] = frame.groupby(keys)["clean_prediction"].transform("first")
    return frame


def test_the_points_are_those_of_the_table(outcomes):
    results = summarize(outcomes, Design(["fgsm", "pgd-7"]))
    for result in results:
        for attack, accuracy in result.robust.items():
            right = frontier.rightness(outcomes, attack, Design(["fgsm", "pgd-7"]), result.width)
            sa, ra = right.points()[right.lams.index(result.lam)]
            assert sa == pytest.approx(result.clean_acc, abs=1e-4)
            assert ra == pytest.approx(accuracy.value, abs=1e-4)


def test_a_summary_of_every_width_and_attack_with_the_worst_case_last(outcomes):
    summaries = frontier.summarize(outcomes, Design(["fgsm", "pgd-7"]))
    assert [(s.width, s.attack) for s in summaries] == [
        (width, attack) for width in (1.0, 0.5) for attack in ("fgsm", "pgd-7", WORST)
    ]
    for one in summaries:
        right = frontier.rightness(outcomes, one.attack, Design(["fgsm", "pgd-7"]), one.width)
        volume = one.hypervolume
        assert volume.value == round(frontier.hypervolume(right.points()), 4)
        assert volume.low < volume.value < volume.high
        assert one.reference == (0.0, 0.0)
        assert one.hole.lam == 0.15
    assert [s.attack for s in frontier.summarize(outcomes, Design())] == ["fgsm", "pgd-7"] * 2


def test_an_attack_on_few_examples_is_counted_on_these(outcomes):
    few = outcomes[(outcomes["attack"] == "fgsm") | (outcomes["example"] < 3)]
    right = frontier.rightness(few, "pgd-7", Design(), 1.0)
    assert (len(right.examples), right.attacked.sum()) == (80, 3)
    everything = frontier.rightness(outcomes, "pgd-7", Design(), 1.0)
    assert right.points()[:, 0] == pytest.approx(everything.points()[:, 0])
    assert right.points()[:, 1] == pytest.approx(100 * everything.robust[:3].mean(axis=0))
    # a resample draws three of them, so that RA is in thirds
    drawn = []
    right.estimate(lambda points: drawn.append(points[..., 1]) or points[..., 0, 1])
    thirds = 3 * drawn[-1] / 100
    assert thirds == pytest.approx(thirds.round())


def test_an_attack_that_was_not_run_is_refused(outcomes):
    with pytest.raises(ValueError, match="no outcomes of autoattack at width 1"):
        frontier.rightness(outcomes, "autoattack", Design())


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 1000))
def test_distinct_rows_of_bits_are_those_of_numpy(n, d, seed):
    rows = np.random.default_rng(seed).random((n, d)) < 0.5
    for ours, theirs in zip(
        frontier._distinct(rows), np.unique(rows, axis=0, return_counts=True), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
