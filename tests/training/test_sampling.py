"""The draws of lambda: their distribution, their shapes, what they depend on."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.training.card import TrainingCard
from oat_bench.training.sampling import (
    Sample,
    describe_lambdas,
    one_loss,
    passes,
    sample_lambda,
    standard_share,
)

S1 = [0, 0.1, 0.2, 0.3, 0.4, 1]
MANY = torch.arange(30_001)


def card(**values):
    return TrainingCard(**({"epochs": 1, "lr": 0.1, "lambdas": S1} | values))


def draw(recipe, ids=MANY, seed=0, stream=3):
    sample = sample_lambda(recipe, ids, seed, stream)
    lam = sample.lam
    assert lam.shape == (len(ids),)
    # those of lambda = 0 come first, and are counted
    assert (lam == 0).sum() == sample.n_standard == (lam[: sample.n_standard] == 0).sum()
    return sample


def per_batch(recipe, batches=4000):
    """The lambda of many batches, each of which must have one."""
    samples = [draw(recipe, torch.arange(5), stream=stream) for stream in range(batches)]
    assert all(len(torch.unique(sample.lam)) == 1 for sample in samples)
    return torch.stack([sample.lam[0] for sample in samples])


# --- per image


@pytest.mark.parametrize("lambdas", [[0, 0.2, 1], S1, [0.3, 0.7, 1], [0.5], [0]])
def test_a_list_is_drawn_uniformly(lambdas):
    lam = draw(card(lambdas=lambdas)).lam
    counts = [int((lam == torch.tensor(float(value))).sum()) for value in lambdas]
    assert sum(counts) == len(lam)
    share = len(lam) / len(lambdas)
    if lambdas[0] == 0:
        assert counts.pop(0) == math.ceil(share)  # exactly its share, rounded up
    if len(counts) > 1:
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("lambda_sampling", ["list", "uniform"])
@pytest.mark.parametrize(("share", "expected"), [(None, 5001), (0.5, 15_001), ("1/10", 3001)])
def test_lambda_0_has_its_share_rounded_up(lambda_sampling, share, expected):
    recipe = card(lambda_sampling=lambda_sampling, standard_share=share)
    assert draw(recipe).n_standard == expected
    # and the others share the rest evenly
    lam = draw(recipe).lam[expected:]
    assert (lam > 0).all()
    if lambda_sampling == "list":
        counts = [int((lam == torch.tensor(value)).sum()) for value in S1[1:]]
        assert sum(counts) == len(lam)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_continuous_lambda_is_uniform_on_the_interval_and_each_image_has_its_own():
    sample = draw(card(lambda_sampling="uniform"))
    lam = sample.lam[sample.n_standard :]
    assert 0 < lam.min() < 0.001
    assert 0.999 < lam.max() <= 1
    assert scipy.stats.kstest(lam.numpy(), "uniform").pvalue > 1e-4
    assert len(torch.unique(lam)) > 0.99 * len(lam)
    # the smallest draw of the generator, 0, is lambda = 1 and not the standard route
    assert len(sample.values) == len(lam) + 1


@pytest.mark.parametrize("lambda_sampling", ["list", "uniform"])
def test_draws_belong_to_the_example_the_step_and_the_seed(lambda_sampling):
    recipe = card(lambda_sampling=lambda_sampling)
    ids = torch.arange(1200)
    one = draw(recipe, ids)
    rest = slice(one.n_standard, None)
    assert torch.equal(draw(recipe, ids).lam, one.lam)
    # another batch around the same examples, whose places above the standard share are the same
    other = draw(recipe, torch.cat([ids[:200] + 5000, ids[200:]]))
    assert torch.equal(other.lam[rest], one.lam[rest])
    for changed in (draw(recipe, ids, stream=4), draw(recipe, ids, seed=1)):
        equal = (changed.lam == one.lam)[rest].float().mean().item()
        # independent: equal once in five by chance, never if continuous
        expected = 1 / 5 if lambda_sampling == "list" else 0
        assert equal == pytest.approx(expected, abs=0.06)


@given(
    n=st.integers(2, 400),
    count=st.integers(1, 40),
    share=st.none() | st.integers(1, 99),
    uniform=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_shapes_depend_on_nothing_but_the_size_of_the_batch(n, count, share, uniform, seed):
    lambdas = [place / count for place in range(count + 1)]
    recipe = card(
        lambdas=lambdas,
        lambda_sampling="uniform" if uniform else "list",
        standard_share=None if share is None else f"{share}/100",
    )
    sample = draw(recipe, torch.arange(n), seed=seed)
    exact = -(-n // (count + 1)) if share is None else -(-n * share // 100)
    assert sample.n_standard == exact
    assert len(sample.values) == (1 + n - exact if uniform else count + 1)
    assert sample.attacked.index.shape == (n - exact,)
    assert sample.attacked.n_standard == 0
    both = sample.then(sample.attacked)
    assert torch.equal(both.lam, torch.cat([sample.lam, sample.lam[exact:]]))
    assert both.n_standard == exact


# --- per batch


def test_a_list_is_drawn_uniformly_once_for_a_batch():
    lam = per_batch(card(sampling="per-batch"))
    counts = [int((lam == torch.tensor(float(value))).sum()) for value in S1]
    assert sum(counts) == len(lam)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert set(per_batch(card(sampling="per-batch", lambdas=[0]), 50).tolist()) == {0.0}
    without = per_batch(card(sampling="per-batch", lambdas=[0.5, 1]), 2000)
    assert (without == 0.5).sum() == pytest.approx(1000, abs=100)
    assert (without == 1).sum() == 2000 - (without == 0.5).sum()


def test_a_continuous_lambda_once_for_a_batch():
    recipe = card(sampling="per-batch", lambda_sampling="uniform", standard_share=0.3)
    lam = per_batch(recipe)
    assert (lam == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert scipy.stats.kstest(lam[lam > 0].numpy(), "uniform").pvalue > 1e-4


# --- cards and words


def test_the_share_is_that_of_one_value_unless_the_card_says():
    assert standard_share(card()) == 1 / 6
    assert standard_share(card(standard_share=0.4)) == 0.4
    assert standard_share(card(lambdas=[0.1, 1])) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda_sampling": "uniform", "lambdas": [0.1, 1]}, "needs 0 and 1 among lambdas"),
        ({"lambda_sampling": "uniform", "lambdas": [0, 0.5]}, "needs 0 and 1 among lambdas"),
        ({"standard_share": 0.5, "lambdas": [0.1, 1]}, "needs 0 and one value above it"),
        ({"standard_share": 0.5, "lambdas": [0]}, "needs 0 and one value above it"),
        ({"standard_share": 0}, "greater than 0"),
        ({"standard_share": 1}, "less than 1"),
        ({"lambda_sampling": "gaussian"}, "'list' or 'uniform'"),
    ],
)
def test_samplings_that_do_not_go_with_the_list_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        card(**values)


def test_in_words():
    assert describe_lambdas(card()) == "lambda 0, 0.1, 0.2, 0.3, 0.4, 1"
    assert describe_lambdas(card(standard_share=0.25)).startswith("lambda 0 (0.25 of the images), ")
    uniform = card(lambda_sampling="uniform", sampling="per-batch")
    expected = "lambda 0 (0.17 of the batches) and uniform on (0, 1]"
    assert describe_lambdas(uniform) == expected


# --- one loss for each image


@settings(max_examples=60)
@given(
    lambdas=st.lists(st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 0.7, 1]), min_size=1, max_size=150),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_each_value_of_lambda_has_its_share_attacked_to_within_one_image(lambdas, draw):
    lam = sorted(lambdas)
    values = torch.tensor(sorted(set(lam)))
    index = torch.searchsorted(values, torch.tensor(lam))
    sample = Sample(values, index, lam.count(0))
    # images of lambda above 0 come in any order
    above = torch.randperm(len(lam) - sample.n_standard, generator=torch.manual_seed(len(lam)))
    index = torch.cat([index[: sample.n_standard], index[sample.n_standard :][above]])
    sample = Sample(values, index, sample.n_standard)
    losses = one_loss(sample, torch.cat([torch.rand(len(lam)), torch.tensor([draw])]).double())
    attacked = torch.zeros(len(lam), dtype=torch.bool)
    attacked[losses.attacked] = True
    torch.testing.assert_close(losses.clean, (~attacked).nonzero()[:, 0])
    for value in values:
        of_value = sample.lam == value
        assert abs(int(attacked[of_value].sum()) - float(value) * int(of_value.sum())) < 1 + 1e-4
    assert attacked[sample.lam == 1].all()
    assert not attacked[sample.lam == 0].any()


def test_an_image_is_attacked_with_probability_lambda():
    """The draw is integrated over on a fine grid, so this is exact to the grid's step."""
    values = torch.tensor([0, 0.1, 0.4, 0.75, 1])
    sample = Sample(values, torch.tensor([0, 0, 1, 3, 2, 4, 1, 2, 3, 3]), 2)
    hits, draws = torch.zeros(10, dtype=torch.float64), torch.rand(11).double()
    for start in (torch.arange(1000) + 0.5) / 1000:
        draws[-1] = start
        hits[one_loss(sample, draws).attacked] += 1 / 1000
    torch.testing.assert_close(hits, sample.lam.double(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 3 + 17 * 5 / 6),
        ({"loss_sampling": "one"}, 3 + 14 / 3),  # lambda is 1/3 on average
        ({"loss_sampling": "one", "attack_steps_start": 1}, 3 + 8 / 3),  # 1, 2, ... 7 steps
        ({"lambdas": [0]}, 3),
        ({"lambdas": [1], "loss_sampling": "one"}, 17),
        ({"lambda_sampling": "uniform", "standard_share": 0.5, "loss_sampling": "one"}, 6.5),
    ],
)
def test_what_an_image_costs(values, expected):
    assert passes(card(**values)) == pytest.approx(expected)
