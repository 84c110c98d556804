"""Tango's score test against closed forms and against the likelihood maximised numerically."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from oat_bench.evaluation import pairs


@given(gained=st.integers(0, 40), lost=st.integers(0, 40))
def test_at_no_difference_it_is_mcnemars_statistic(gained, lost):
    expected = (gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
    assert pairs.score(gained, lost, 100, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "difference"),
    [(12, 2, 50, 0.1), (3, 20, 100, -0.05), (5, 5, 30, -0.2), (0, 9, 40, -0.3), (7, 1, 20, 0.4)],
)
def test_the_variance_is_that_of_the_constrained_likelihood(gained, lost, n, difference):
    def loss(share):  # share lost; share gained is then share + difference
        cells = (share + difference, share, 1 - 2 * share - difference)
        counts = (gained, lost, n - gained - lost)
        return -sum(c * math.log(max(p, 1e-300)) for c, p in zip(counts, cells, strict=True) if c)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * share + difference - difference**2)
    expected = (gained - lost - n * difference) / math.sqrt(variance)
    assert pairs.score(gained, lost, n, difference) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(12, 2, 50), (0, 0, 50), (3, 40, 200), (0, 5, 5)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_holds_what_the_test_does_not_refuse(gained, lost, n, confidence):
    low, high = pairs.interval(gained, lost, n, confidence)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    z = 1.959964 if confidence == 0.95 else 1.281552
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) < 0.999:
            assert pairs.score(gained, lost, n, end) == pytest.approx(sign * z, abs=1e-4)


def test_of_no_discordant_pair_the_interval_is_a_wilson_interval_of_none():
    """Tango: z^2 / (n + z^2)."""
    low, high = pairs.interval(0, 0, 50)
    z = 1.959964
    assert (-low, high) == pytest.approx((z**2 / (50 + z**2),) * 2, rel=1e-4)


@pytest.mark.parametrize(("drop", "discordant"), [(0.01, 0.03), (0.01, 0.1), (0.05, 0.2)])
def test_a_tolerated_drop_is_refused_no_more_often_than_the_level_says(drop, discordant):
    draw = np.random.default_rng(0)
    lost, gained = (discordant + drop) / 2, (discordant - drop) / 2
    counts = draw.multinomial(500, [gained, lost, 1 - discordant], size=4000)
    refused = [pairs.drop_p_value(int(g), int(b), 500, drop) <= 0.05 for g, b, _ in counts]
    assert np.mean(refused) == pytest.approx(0.05, abs=0.016)


@pytest.mark.parametrize(
    "arguments", [(-1, 0, 5, 0.0), (3, 3, 5, 0.0), (0, 0, 0, 0.0), (1, 1, 5, 1.0)]
)
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=r"of|expected"):
        pairs.score(*arguments)
