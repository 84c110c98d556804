"""Statistics against their formulas and against counting by hand."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.results.points import summarize
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Accuracy, Spread
from oat_bench.statistics.phases import Design

#: the 97.5% quantile of the normal distribution
Z = 1.959963984540054


def wilson(hits, n):
    """Wilson's interval, from his formula of 1927, in percent."""
    p = hits / n
    centre = p + Z**2 / (2 * n)
    spread = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return 100 * (centre - spread) / (1 + Z**2 / n), 100 * (centre + spread) / (1 + Z**2 / n)


def accuracy(hits, n):
    return Accuracy.of(pd.Series([True] * hits + [False] * (n - hits)))


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_wilsons(case):
    hits, n = case
    got, (low, high) = accuracy(hits, n), wilson(hits, n)
    assert got.value == pytest.approx(100 * hits / n, abs=1e-4)
    assert got.low == pytest.approx(low, abs=1e-4)
    assert got.high == pytest.approx(high, abs=1e-4)
    # the figure draws these differences: none may be below zero, not by rounding either
    assert 0 <= got.low <= got.value <= got.high <= 100


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # textbook values, e.g. Newcombe, Statistics in Medicine 17 (1998), table I
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_published_intervals(hits, n, low, high):
    got = accuracy(hits, n)
    assert (got.low, got.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_two_seeds_have_the_spread_of_their_formula():
    # Student's t with one degree of freedom is Cauchy's: its 97.5% quantile is tan(0.475 pi)
    got = Spread.of([40.0, 44.0])
    assert (got.value, got.n) == (42.0, 2)
    assert got.std == pytest.approx(math.sqrt(8), abs=1e-4)
    half = math.tan(0.475 * math.pi) * math.sqrt(8) / math.sqrt(2)
    assert (got.low, got.high) == pytest.approx((42 - half, 42 + half), abs=1e-4)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3))
def test_three_seeds_have_the_spread_of_their_formula(values):
    # with two degrees of freedom the p quantile is (2p - 1) sqrt(2 / (4p (1 - p)))
    t = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    mean = sum(values) / 3
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    got = Spread.of(values)
    assert got.value == pytest.approx(mean, abs=1e-4)
    assert got.std == pytest.approx(std, abs=1e-4)
    assert got.high - got.value == pytest.approx(t * std / math.sqrt(3), abs=2e-4)
    assert got.value - got.low == pytest.approx(t * std / math.sqrt(3), abs=2e-4)


def test_one_seed_has_no_spread():
    for values in ([], [50.0]):
        with pytest.raises(ValueError, match="expected at least 2"):
            Spread.of(values)


def outcomes(table):
    """Build outcomes from {(lam, attack): [(label, clean, attacked), ...]}."""
    rows = [
        {
            "lam": lam,
            "width": 1.0,
            "attack": attack,
            "example": example,
            "label": label,
            "clean_prediction": clean,
            "attacked_prediction": attacked,
        }
        for (lam, attack), triples in table.items()
        for example, (label, clean, attacked) in enumerate(triples)
    ]
    return pd.DataFrame(rows)


def test_robust_means_right_clean_and_right_attacked():
    triples = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 2, 1)]
    (point,) = summarize(outcomes({(0.5, "a"): triples}), Design(["a"]))
    assert point.lam == 0.5
    assert point.width == 1.0
    assert point.clean_acc == 50
    assert point.robust["a"].value == 25
    assert point.robust[WORST].value == 25
    assert (point.n, point.robust["a"].n) == (4, None)


def test_the_worst_case_is_per_example():
    # each attack breaks another example of three; together they leave one
    (point,) = summarize(
        outcomes(
            {
                (1.0, "a"): [(0, 0, 0), (0, 0, 1), (0, 0, 0)],
                (1.0, "b"): [(0, 0, 2), (0, 0, 0), (0, 0, 0)],
            }
        ),
        Design(["a", "b"]),
    )
    assert point.robust["a"].value == pytest.approx(200 / 3, abs=1e-4)
    assert point.robust["b"].value == pytest.approx(200 / 3, abs=1e-4)
    assert point.robust[WORST].value == pytest.approx(100 / 3, abs=1e-4)
    assert list(point.robust) == ["a", "b", WORST]


def test_the_worst_case_leaves_out_other_threat_models():
    frame = outcomes({(0.0, "a"): [(0, 0, 0)], (0.0, "wider"): [(0, 0, 1)]})
    (point,) = summarize(frame, Design(["a"]))
    assert point.robust["wider"].value == 0
    assert point.robust[WORST].value == 100
    (alone,) = summarize(frame, Design())
    assert WORST not in alone.robust


def test_the_worst_case_is_of_the_examples_that_every_attack_saw():
    table = {
        (0.5, "weak"): [(1, 1, 1), (1, 1, 0), (1, 1, 1), (1, 0, 0)],
        (0.5, "long"): [(1, 1, 0), (1, 1, 1)],
    }
    (result,) = summarize(outcomes(table), Design(["weak", "long"]))
    assert (result.n, result.clean_acc) == (4, 75.0)
    assert (result.robust["weak"].n or result.n, result.robust["weak"].value) == (4, 50.0)
    assert (result.robust["long"].n, result.robust["long"].value) == (2, 50.0)
    assert (result.robust[WORST].n, result.robust[WORST].value) == (2, 0.0)
    (same,) = [
        s
        for s in frontier.summarize(outcomes(table), Design(["weak", "long"]))
        if s.attack == WORST
    ]
    assert same.hypervolume.value == 0.0  # SA 100 and RA 0 of those two


def test_points_come_by_lambda_and_attacks_in_the_order_of_the_columns():
    triples = [(0, 0, 0)]
    frame = outcomes({(lam, a): triples for lam in (1.0, 0.0, 0.15) for a in ("z", "b", "m")})
    points = summarize(frame, Design(["z"]))
    assert [point.lam for point in points] == [0.0, 0.15, 1.0]
    assert all(list(point.robust) == ["z", "b", "m", WORST] for point in points)


def test_widths_are_points_of_their_own():
    frame = outcomes({(0.5, "a"): [(0, 0, 0), (0, 0, 1)]})
    narrow = frame.assign(width=0.5, attacked_prediction=1)
    points = summarize(pd.concat([frame, narrow]), Design(["a"]))
    assert [(p.width, p.lam, p.robust["a"].value) for p in points] == [
        (0.5, 0.5, 0.0),
        (1.0, 0.5, 50.0),
    ]


@settings(max_examples=60)
@given(st.data())
def test_any_outcomes_are_counted_as_by_hand(data):
    lambdas = data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, unique=True))
    attacks = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    n = data.draw(st.integers(1, 8))
    classes = st.integers(0, 2)
    label = data.draw(st.lists(classes, min_size=n, max_size=n))
    clean = {lam: data.draw(st.lists(classes, min_size=n, max_size=n)) for lam in lambdas}
    attacked = {
        (lam, a): data.draw(st.lists(classes, min_size=n, max_size=n))
        for lam in lambdas
        for a in attacks
    }
    frame = outcomes(
        {key: list(zip(label, clean[key[0]], attacked[key], strict=True)) for key in attacked}
    )
    shuffled = frame.sample(frac=1, random_state=data.draw(st.integers(0, 99)))
    for table in (frame, shuffled):
        points = summarize(table, Design(attacks))
        assert [point.lam for point in points] == sorted(lambdas)
        for point in points:
            lam = point.lam
            right = [clean[lam][i] == label[i] for i in range(n)]
            stands = {
                a: [right[i] and attacked[lam, a][i] == label[i] for i in range(n)] for a in attacks
            }
            assert point.clean_acc == pytest.approx(100 * sum(right) / n, abs=1e-4)
            for a in attacks:
                assert point.robust[a].value == pytest.approx(100 * sum(stands[a]) / n, abs=1e-4)
            worst = sum(all(stands[a][i] for a in attacks) for i in range(n))
            assert point.robust[WORST].value == pytest.approx(100 * worst / n, abs=1e-4)
            assert point.robust[WORST].value <= min(point.robust[a].value for a in attacks)
            assert max(point.robust[a].value for a in attacks) <= point.clean_acc
