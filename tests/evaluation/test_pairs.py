"""Paired statistics, against closed forms, enumeration, simulation and published examples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, bootstrap, multinomial, norm
from scipy.stats import t as student

from oat_bench.statistics import pairs

#: Cavo et al., Blood 120 (2012), complete response before and after consolidation therapy: of 161
#: patients 6 and 16 changed; the values of R's contingencytables 3.0 (Fagerland, Lydersen and
#: Laake, Statistical Analysis of Contingency Tables, 2017, chapter 8)
CAVO = (6, 16, 161)
#: Bentur et al., Pediatric Blood and Cancer 53 (2009), from the same book
BENTUR = (1, 7, 21)


def drops(lost, gained, n):
    return np.array([1.0] * lost + [-1.0] * gained + [0.0] * (n - lost - gained))


def test_mcnemar_is_the_binomial_of_the_discordant_pairs():
    first = [True] * 9 + [False] * 2 + [True] * 30
    second = [False] * 9 + [True] * 2 + [True] * 30
    result = pairs.paired(first, second)
    assert result.p_value == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert result.value == pytest.approx(100 * 7 / 41, abs=5e-5)
    assert result.low < result.value < result.high
    assert result.n == 41


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (0, 5), (7, 3), (3, 7)])
def test_mcnemars_test_of_one_side(only_first, only_second):
    n = only_first + only_second
    assert pairs.mcnemar(only_first, only_second, "greater") == pytest.approx(
        binom.sf(only_first - 1, n, 0.5)
    )
    least = min(only_first, only_second)
    two_sided = min(1.0, 2 * binom.cdf(least, n, 0.5))
    assert pairs.mcnemar(only_first, only_second) == pytest.approx(two_sided)


def test_equal_classifiers_do_not_differ():
    right = np.arange(100) % 3 > 0
    result = pairs.paired(right, right)
    assert (result.value, result.p_value) == (0, 1)
    assert result.low < 0 < result.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_other_way_round_is_the_negative(examples):
    first, second = zip(*examples, strict=True)
    one, other = pairs.paired(first, second), pairs.paired(second, first)
    assert one.value == -other.value
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == other.p_value
    assert -100 <= one.low <= one.high <= 100


def test_the_interval_of_a_difference_agrees_with_the_bootstrap():
    draw = np.random.default_rng(1)
    first = draw.random(3000) < 0.8
    second = np.where(draw.random(3000) < 0.2, draw.random(3000) < 0.5, first)
    result = pairs.paired(first, second)
    difference = first.astype(float) - second
    interval = bootstrap((difference,), np.mean, rng=draw).confidence_interval
    assert result.low == pytest.approx(100 * interval.low, abs=0.15)
    assert result.high == pytest.approx(100 * interval.high, abs=0.15)


def test_the_interval_of_a_difference_covers_it():
    draw = np.random.default_rng(2)
    covered = 0
    for _ in range(500):
        first, second = draw.random(100) < 0.9, draw.random(100) < 0.8
        result = pairs.paired(first, second)
        covered += result.low <= 10 <= result.high
    assert 0.93 <= covered / 500 <= 0.99


def test_different_examples_are_refused():
    with pytest.raises(ValueError, match="same"):
        pairs.paired([True], [True, False])
    with pytest.raises(ValueError, match="n >= 1"):
        pairs.paired([], [])


def test_the_interval_is_that_of_the_published_example():
    low, high = pairs.interval(drops(*CAVO))
    assert (round(low, 4), round(high, 4)) == (-0.1182, -0.0045)


# --- the score


@pytest.mark.parametrize(
    ("counts", "low", "high"), [(CAVO, -0.1240, -0.0054), (BENTUR, -0.5172, -0.0260)]
)
def test_inverted_the_score_is_tangos_published_interval(counts, low, high):
    lost, gained, n = counts
    z = norm.ppf(0.975)
    ends = [
        brentq(lambda d, z=z: float(pairs.score(lost, gained, n, d)) - z, -0.9, 0.9)
        for z in (z, -z)
    ]
    assert [round(end, 4) for end in ends] == [low, high]


def test_the_score_of_tangos_own_example():
    # contact lenses (Statistics in Medicine 17, 1998): none gained, one lost of 44, margin 0.1
    z = -float(pairs.score(1, 0, 44, 0.1))
    assert z == pytest.approx(1.709, abs=5e-4)
    assert norm.sf(z) == pytest.approx(0.044, abs=5e-4)


@given(st.integers(0, 40), st.integers(0, 40))
def test_at_tolerance_0_the_score_is_mcnemars(lost, gained):
    expected = (lost - gained) / np.sqrt(lost + gained) if lost + gained else 0.0
    assert float(pairs.score(lost, gained, 90, 0.0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "tolerance"),
    [(12, 2, 50, 0.1), (3, 20, 100, 0.05), (5, 5, 30, 0.2), (0, 9, 40, 0.3), (7, 1, 20, 0.4)],
)
def test_the_error_is_that_of_the_likelihood_under_the_hypothesis(gained, lost, n, tolerance):
    def loss(share):  # share gained; share lost is then share + tolerance
        cells = (share, share + tolerance, 1 - 2 * share - tolerance)
        counts = (gained, lost, n - gained - lost)
        return -sum(c * math.log(max(p, 1e-300)) for c, p in zip(counts, cells, strict=True) if c)

    bounds, options = (0.0, (1 - tolerance) / 2), {"xatol": 1e-12}
    share = minimize_scalar(loss, bounds=bounds, method="bounded", options=options).x
    variance = n * (2 * share + tolerance - tolerance**2)
    expected = (lost - gained - n * tolerance) / math.sqrt(variance)
    assert float(pairs.score(lost, gained, n, tolerance)) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 25), st.sampled_from([0.0, 0.01, 0.05, 0.3]))
def test_the_score_grows_with_the_lost_and_falls_with_the_gained(n, tolerance):
    # with it the exact test need only look at the edge of its hypothesis
    for gained in range(n):
        lost = np.arange(n - gained + 1)
        assert (np.diff(pairs.score(lost, gained, n, tolerance)) >= -1e-9).all()
    for lost in range(n):
        gained = np.arange(n - lost + 1)
        assert (np.diff(pairs.score(lost, gained, n, tolerance)) <= 1e-9).all()


# --- the exact test


def enumerated(lost, gained, n, tolerance, shares):
    """Sum the trinomial over every table with a score as high; an independent way."""
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = b + c <= n
    b, c = b[possible], c[possible]
    high = pairs.score(b, c, n, tolerance) >= float(pairs.score(lost, gained, n, tolerance)) - 1e-9
    tables = np.stack([b, c, n - b - c], axis=1)[high]
    return max(
        multinomial.pmf(tables, n, [q + tolerance, q, max(0.0, 1 - 2 * q - tolerance)]).sum()
        for q in shares
    )


@pytest.mark.parametrize(
    ("lost", "gained", "n", "tolerance"),
    [(5, 1, 20, 0.1), (9, 2, 30, 0.05), (6, 0, 25, 0.0), (12, 5, 40, 0.02), (3, 0, 12, 0.1)],
)
def test_the_p_value_is_the_largest_sum_over_tables(lost, gained, n, tolerance):
    shares = np.linspace(0, (1 - tolerance) / 2, 400)
    # those that the data rule out but for a chance of 1e-6 do not count
    shares = shares[
        np.minimum(binom.cdf(gained, n, shares), binom.sf(gained - 1, n, shares)) > 5e-7
    ]
    largest = enumerated(lost, gained, n, tolerance, shares)
    p = pairs.drop_p_value(lost, gained, n, tolerance)
    assert p <= 1.005 * largest + 3e-6
    assert p == pytest.approx(largest, rel=0.02)


def test_at_tolerance_0_it_is_the_published_unconditional_mcnemar_test():
    gained, lost, n = CAVO
    # two-sided there
    assert 2 * pairs.drop_p_value(lost, gained, n) == pytest.approx(0.034053, rel=0.01)


@pytest.mark.parametrize(("n", "tolerance"), [(25, 0.1), (40, 0.0), (40, 0.05)])
def test_the_level_is_kept_wherever_the_hypothesis_holds(n, tolerance):
    table = np.ones((n + 1, n + 1))
    for b in range(n + 1):
        for c in range(n + 1 - b):
            table[b, c] = pairs.drop_p_value(b, c, n, tolerance)
    b, c = np.arange(n + 1)[:, None], np.arange(n + 1)[None]
    for drop in {0.0, tolerance / 2, tolerance}:
        for q in np.linspace(0, (1 - drop) / 2, 41):
            chances = binom.pmf(c, n, q) * binom.pmf(b, n - c, min(1.0, (q + drop) / (1 - q)))
            for level in (0.05, 0.01, 0.001):
                assert chances[table <= level].sum() <= level


def test_the_normal_approximation_would_not_keep_it():
    # why the test is exact: 500 examples, none gained, a true drop of the tolerance
    lost = np.arange(501)
    rejected = pairs.score(lost, 0, 500, 0.01) >= norm.isf(0.05)
    assert binom.pmf(lost, 500, 0.01)[rejected].sum() > 0.06
    exact = [pairs.drop_p_value(b, 0, 500, 0.01) <= 0.05 for b in range(40)]
    assert binom.pmf(lost[:40], 500, 0.01)[exact].sum() <= 0.05


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 400), st.sampled_from([0, 0.01, 0.1]))
@settings(max_examples=60)
def test_p_values_are_probabilities_and_fall_with_the_lost(lost, gained, rest, tolerance):
    n = lost + gained + rest + 1
    p, more = (pairs.drop_p_value(b, gained, n, tolerance) for b in (lost, lost + 1))
    assert 0 < more <= 1
    assert 0 < p <= 1
    assert more <= p + 1e-5
    if lost - gained <= n * tolerance:
        assert p == 1


def test_many_examples_take_no_time_and_agree_with_the_normal_approximation():
    p = pairs.drop_p_value(2200, 1900, 50_000, 0.003)
    assert p == pytest.approx(norm.sf(float(pairs.score(2200, 1900, 50_000, 0.003))), rel=0.05)


# --- means, families


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 0.01, 0.1, 0.4]))
def test_of_all_or_nothing_the_test_of_a_mean_is_the_binomial_test(lost, gained, tolerance):
    d = drops(lost, gained, lost + gained)
    expected = binom.sf(lost - 1, len(d), (1 + tolerance) / 2)
    assert pairs.mean_drop_p_value(d, tolerance) == pytest.approx(expected, rel=1e-6)


def test_and_its_interval_is_clopper_and_pearsons():
    expected = binomtest(61, 100).proportion_ci(0.9, method="exact")
    low, high = pairs.mean_interval(drops(61, 39, 100), 0.9)
    assert (1 + low) / 2 == pytest.approx(expected.low)
    assert (1 + high) / 2 == pytest.approx(expected.high)


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_the_p_value_of_a_mean_is_the_chance_that_defines_it(tolerance):
    draw = np.random.default_rng(0)
    d = np.array([0.5, 0.0, 0.25, -0.5, 0.75, 0.25, 0.0, 1 / 3, 0.0])
    weights = draw.standard_exponential((200_000, len(d) + 1))
    above = weights[:, 1:] @ (d - tolerance)
    chance = (above <= (1 + tolerance) * weights[:, 0]).mean()
    assert pairs.mean_drop_p_value(d, tolerance) == pytest.approx(chance, abs=0.004)


def test_the_interval_of_a_mean_is_what_its_test_does_not_reject():
    d = np.repeat([-1.0, -1 / 6, 0.0, 0.5, 1.0], [3, 20, 60, 12, 5])
    low, high = pairs.mean_interval(d)
    assert low < d.mean() < high
    assert pairs.mean_drop_p_value(d, low) == pytest.approx(0.025)
    assert pairs.mean_drop_p_value(-d, -high) == pytest.approx(0.025)
    assert pairs.mean_interval(-d) == pytest.approx((-high, -low))
    assert pairs.mean_interval([1.0] * 3)[1] == -pairs.mean_interval([-1.0] * 3)[0] == 1


def test_where_nothing_changes_no_mean_drops():
    assert pairs.mean_drop_p_value(np.zeros(200)) == pairs.mean_drop_p_value([]) == 1
    low, high = pairs.mean_interval(np.zeros(200))
    assert -0.03 < low == -high < 0


def test_of_many_examples_the_test_of_a_mean_agrees_with_the_normal_approximation():
    d = np.repeat([-1.0, -0.5, 0.0, 0.25, 1.0], [2000, 2000, 38_000, 6000, 2000])
    for tolerance in (0.005, 0.008, 0.01, 0.02):
        z = (d.mean() - tolerance) / d.std() * math.sqrt(len(d))
        expected = norm.sf(z)
        assert pairs.mean_drop_p_value(d, tolerance) == pytest.approx(expected, rel=0.15)


#: an example's mean may be lost at all operating points and gained at one of six, and so on
SHAPES = [(-1.0, 1 / 6), (-1 / 6, 1.0), (-1.0, 1.0), (-1.0, 0.5), (-0.5, 1 / 6)]


def levels(p_value, gain, loss, n, tolerance, changed):
    """Sum the trinomial over the tables that a test rejects, at three levels, by share changed."""
    lost, gained = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    lost, gained = lost[lost + gained <= n], gained[lost + gained <= n]
    tables = np.stack([lost, gained, n - lost - gained], axis=1)
    p = np.array([p_value(np.repeat([loss, gain, 0.0], table), tolerance) for table in tables])
    for share in changed:
        # shares lost and gained at which the mean drop is the tolerance
        lose = (tolerance - share * gain) / (loss - gain)
        if 0 <= lose <= share:
            chances = multinomial.pmf(tables, n, [lose, share - lose, 1 - share])
            yield [chances[p <= level].sum() for level in (0.05, 0.01, 0.001)]


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
@pytest.mark.parametrize(("gain", "loss"), SHAPES)
def test_the_test_of_a_mean_keeps_its_level_whatever_changes(gain, loss, tolerance):
    changed = [0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
    found = list(levels(pairs.mean_drop_p_value, gain, loss, 40, tolerance, changed))
    assert len(found) >= 5
    assert (np.array(found) <= [0.05, 0.01, 0.001]).all()


def test_students_t_would_not_keep_it():
    # why it is not Student's t, with the two examples more of `interval`
    def by_t(d, tolerance):
        more = np.array([*d, 0.0, 0.0])
        error = math.sqrt((((more**2).sum() + 1) / len(more) - more.mean() ** 2) / len(more))
        return student.sf((more.mean() - tolerance) / error, len(d) - 1)

    ((five, _, tenth),) = levels(by_t, -1.0, 1 / 6, 80, 0.0, [0.35])
    assert five > 1.2 * 0.05
    assert tenth > 5 * 0.001


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.0, 0.01])
@pytest.mark.parametrize(("n", "together"), [(200, 0.0), (200, 0.5), (1000, 0.5)])
def test_the_level_of_the_test_of_a_mean_over_six_lambda(n, together, tolerance):
    """Outcomes that change independently at each lambda, or half of them at every lambda."""
    draw, size, samples = np.random.default_rng(0), 6, 1500
    p = np.empty(samples)
    for i in range(samples):
        one = draw.choice([1.0, -1.0, 0.0], p=[0.1 + tolerance, 0.1, 0.8 - tolerance], size=n)
        each = draw.choice(
            [1.0, -1.0, 0.0], p=[0.1 + tolerance, 0.1, 0.8 - tolerance], size=(n, size)
        )
        same = draw.random((n, 1)) < together
        p[i] = pairs.mean_drop_p_value(np.where(same, one[:, None], each).mean(axis=1), tolerance)
    for level in (0.05, 0.01, 0.001):
        assert (p <= level).sum() <= binom.ppf(0.999, samples, level)
    assert (p <= 0.05).mean() > 0.01  # not by never rejecting


def test_holm_is_that_of_his_method():
    # sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, never falling
    assert pairs.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert pairs.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert pairs.holm([0.9, 0.8]) == [1.0, 1.0]
    assert pairs.holm([0.4]) == [0.4]
    assert pairs.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis(p_values):
    corrected = pairs.holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) or q == pytest.approx(p)
    assert min(corrected) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= 0)


# --- what n can tell


@pytest.mark.parametrize(
    ("n", "both", "tolerance", "level"),
    [
        (500, 0.1, 0.01, 0.001),
        (500, 0.04, 0.0, 0.05),
        (500, 0.2, 0.01, 0.05 / 42),
        (2000, 0.1, 0.01, 0.05),
        (300, 0, 0.01, 0.05),
    ],
)
def test_the_detectable_drop_is_found_four_times_in_five(n, both, tolerance, level):
    seen = drops(int(n * both / 2), int(n * both / 2), n)
    drop = pairs.detectable_drop(seen, tolerance, level)
    draw = np.random.default_rng(0)
    tables = draw.multinomial(n, [both / 2 + drop, both / 2, 1 - both - drop], size=250)
    found = np.mean([pairs.drop_p_value(b, c, n, tolerance) <= level for b, c, _ in tables])
    # where nothing changes both ways the approximation asks for more than it takes
    assert 0.72 <= found <= (0.88 if both else 0.97)


@pytest.mark.parametrize(("lost", "gained"), [(75, 25), (60, 0), (20, 80)])
def test_no_fewer_examples_are_assumed_to_change_than_did(lost, gained):
    n, level = 500, 0.001
    drop = pairs.detectable_drop(drops(lost, gained, n), 0.01, level)
    changed = max((lost + gained) / n, (lost + gained - abs(lost - gained)) / n + drop)
    chances = [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]
    tables = np.random.default_rng(0).multinomial(n, chances, size=250)
    found = np.mean([pairs.drop_p_value(b, c, n, 0.01) <= level for b, c, _ in tables])
    assert 0.72 <= found <= 0.88


@pytest.mark.parametrize(("each_way", "level"), [(50, 0.01), (100, 0.001), (10, 0.05)])
def test_the_detectable_drop_of_a_mean_is_found_four_times_in_five(each_way, level):
    draw = np.random.default_rng(0)
    values, n = [0, 0.5, -0.5], 500
    seen = np.repeat(values, [n - 2 * each_way, each_way, each_way])
    drop = pairs.detectable_drop(seen, 0.01, level, mean=True)
    share = each_way / n
    samples = draw.multinomial(n, [1 - 2 * share - 2 * drop, share + 2 * drop, share], size=500)
    p = [pairs.mean_drop_p_value(np.repeat(values, counts), 0.01) for counts in samples]
    assert 0.73 <= np.mean(np.array(p) <= level) <= 0.9
    needed = pairs.examples_needed(seen, drop, 0.01, level, mean=True)
    assert needed == pytest.approx(n, abs=2)


def test_more_examples_find_smaller_drops_and_the_numbers_agree():
    seen = drops(10, 10, 400)
    drop = pairs.detectable_drop(seen, 0.01, 0.01)
    assert pairs.examples_needed(seen, drop, 0.01, 0.01) in (400, 401)
    assert pairs.examples_needed(seen, drop / 2, 0.01, 0.01) > 800
    assert pairs.detectable_drop(np.repeat(seen, 4), 0.01, 0.01) < 0.75 * drop
    assert pairs.detectable_drop(drops(0, 0, 4), 0.01, 0.001) == float("inf")
