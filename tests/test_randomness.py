"""Counter-based random numbers: SplitMix64 itself, the distributions, and pinned values."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from oat_bench.randomness import _mix, _signed, generator, normal, uniform

PINNED_SEED_0 = [
    [15621904, 13512360, 4106036],
    [6731750, 629312, 16712514],
    [7845036, 14118840, 16283744],
    [15882991, 6954806, 8277891],
]
PINNED_SEED_7 = [8397551, 8964912, 13527797, 4132840]
PINNED_NORMAL = [[0.076456, -0.90815], [1.012521, -0.000951]]
PINNED_STATES = [6238072747940578789, 15690285813532428630, 10745162495339029706]
PINNED_ORDER = [2, 3, 7, 1, 0, 5, 4, 6]

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

seeds = st.one_of(st.integers(-5, 5), st.integers(-(2**70), 2**70))


def mix(bits: int) -> int:
    """SplitMix64's finaliser in Python's integers (Steele, Lea and Flood, 2014)."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    return bits ^ (bits >> 31)


def by_hand(example: int, count: int, seed: int, stream: int) -> list[float]:
    """Draw one example's numbers as the docstring describes them."""
    key = mix((example * GOLDEN + seed * 0xD1342543DE82EF95 + 1) & MASK)
    key = mix((key + (stream + 1) * 0xAF251AF3B0F025B5) & MASK)
    return [(mix((key + (j + 1) * GOLDEN) & MASK) >> 40) / 2**24 for j in range(count)]


def test_the_hash_is_splitmix64():
    """The reference output for seed 1234567, as published with the algorithm's other ports."""
    states = torch.tensor([_signed(1234567 + (k + 1) * GOLDEN) for k in range(5)])
    assert [int(bits) & MASK for bits in _mix(states)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), seed=seeds, stream=seeds
)
def test_uniform_is_the_algorithm_in_pythons_integers(ids, seed, stream):
    expected = torch.tensor([by_hand(example, 5, seed, stream) for example in ids])
    assert torch.equal(uniform(torch.tensor(ids), (5,), seed, stream), expected)


def test_pinned_numbers():
    """Stored results were made with these: a change here is a change of every random start."""
    drawn = uniform(torch.tensor([0, 1, 2, 1000]), (3,), seed=0) * 2**24
    assert drawn.long().tolist() == PINNED_SEED_0
    drawn = uniform(torch.tensor([5]), (2, 2), seed=7, stream=3) * 2**24
    assert drawn.long().flatten().tolist() == PINNED_SEED_7
    torch.testing.assert_close(
        normal(torch.tensor([0, 1]), (2,), seed=0),
        torch.tensor(PINNED_NORMAL),
        rtol=1e-5,
        atol=1e-6,
    )
    assert [generator(*key).initial_seed() for key in ((0,), (0, 0), (1, 2, 3))] == PINNED_STATES
    assert torch.randperm(8, generator=generator(0, 0)).tolist() == PINNED_ORDER


# --- distributions ---


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("axis", ["positions", "examples", "both"])
def test_uniform_is_uniform(seed, stream, axis):
    n, m = {"positions": (1, 50_000), "examples": (50_000, 1), "both": (250, 200)}[axis]
    drawn = uniform(torch.arange(n), (m,), seed, stream).double().numpy().ravel()
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 0.001
    assert drawn.min() >= 0
    assert drawn.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("axis", ["positions", "examples", "both"])
def test_normal_is_normal(seed, axis):
    n, m = {"positions": (1, 50_000), "examples": (50_000, 1), "both": (250, 200)}[axis]
    drawn = normal(torch.arange(n), (m,), seed).double().numpy().ravel()
    assert np.isfinite(drawn).all()
    assert scipy.stats.kstest(drawn, "norm").pvalue > 0.001
    assert abs(scipy.stats.kurtosis(drawn)) < 5 * math.sqrt(24 / drawn.size)


def test_seeds_as_a_sequence_are_uniform_too():
    """The first number of the first example, over seeds and over streams."""
    one = torch.tensor([0])
    by_seed = [float(uniform(one, (), seed)) for seed in range(5000)]
    by_stream = [float(uniform(one, (), 0, stream)) for stream in range(5000)]
    assert scipy.stats.kstest(by_seed, "uniform").pvalue > 0.001
    assert scipy.stats.kstest(by_stream, "uniform").pvalue > 0.001


def test_each_bit_is_fair():
    bits = (uniform(torch.arange(200), (500,), 3) * 2**24).long()
    for place in range(24):
        share = float(((bits >> place) & 1).double().mean())
        assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(bits.numel()), place


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("neighbouring examples", (0, 0, 0, 0), (1, 0, 0, 0)),
        ("distant examples", (0, 0, 0, 0), (2**40, 0, 0, 0)),
        ("seeds", (0, 0, 0, 0), (0, 1, 0, 0)),
        ("streams", (0, 0, 0, 0), (0, 0, 1, 0)),
        ("example against seed", (1, 0, 0, 0), (0, 1, 0, 0)),
        ("seed against stream", (0, 1, 0, 0), (0, 0, 1, 0)),
        ("neighbouring positions", (0, 0, 0, 0), (0, 0, 0, 1)),
        ("example against position", (1, 0, 0, 0), (0, 0, 0, 1)),
    ],
)
def test_numbers_of_different_uses_are_independent(draw, name, first, second):
    def take(example: int, seed: int, stream: int, skip: int) -> np.ndarray:
        drawn = draw(torch.tensor([example]), (40_001,), seed, stream)[0]
        return drawn[skip : skip + 40_000].double().numpy()

    a, b = take(*first), take(*second)
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / math.sqrt(a.size), name
    # nor are their distances from the centre related
    a, b = np.abs(a - a.mean()), np.abs(b - b.mean())
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / math.sqrt(a.size), name


def test_no_two_of_many_examples_share_their_numbers():
    ids = torch.cat([torch.arange(5000), 10**9 + torch.arange(5000), -1 - torch.arange(5000)])
    rows = [tuple(row) for s in (0, 1) for row in uniform(ids, (3,), s).tolist()]
    assert len(set(rows)) == len(rows)


# --- numbers belong to the example ---


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 4)])
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8),
    seed=seeds,
    data=st.data(),
)
def test_an_examples_numbers_are_the_same_in_any_batch(draw, shape, ids, seed, data):
    whole = draw(torch.tensor(ids), shape, seed)
    assert whole.shape == (len(ids), *shape)
    assert whole.dtype == torch.float32
    chosen = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=10))
    part = draw(torch.tensor([ids[i] for i in chosen]), shape, seed)
    assert torch.equal(part, whole[chosen])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_integer_type_and_memory_layout_of_the_ids_do_not_matter(draw):
    ids = torch.arange(10)
    expected = draw(ids, (4,), 1)
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(draw(ids.to(kind), (4,), 1), expected)
    assert torch.equal(draw(torch.arange(20)[::2], (4,), 1), draw(torch.arange(20), (4,), 1)[::2])
    assert draw(torch.tensor([], dtype=torch.long), (4,), 1).shape == (0, 4)


def test_uniform_of_a_shape_is_a_prefix_of_a_longer_one():
    ids = torch.arange(3)
    assert torch.equal(uniform(ids, (2, 5), 0).flatten(1), uniform(ids, (30,), 0)[:, :10])


def test_normal_is_box_and_mullers_transform():
    ids = torch.arange(50)
    pairs = uniform(ids, (2, 6), 4, 2).double().numpy()
    expected = np.sqrt(-2 * np.log(1 - pairs[:, 0])) * np.cos(2 * np.pi * pairs[:, 1])
    np.testing.assert_allclose(normal(ids, (6,), 4, 2).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    uniform(torch.arange(3), (2,), 0)
    normal(torch.arange(3), (2,), 0)
    generator(3, 4)
    assert torch.equal(torch.rand(3), expected)


# --- generators ---


def test_generators_of_different_uses_differ():
    keys = [(s,) for s in range(-3, 30)]
    keys += [(s, a) for s in range(6) for a in range(30)]
    keys += [(s, a, b) for s in range(4) for a in range(8) for b in range(8)]
    keys += [(2**63 + s, 2**64 + s) for s in range(1, 3)]
    drawn = [tuple(torch.rand(2, generator=generator(*key)).tolist()) for key in keys]
    assert len(set(drawn)) == len(drawn)


@given(seed=seeds, stream=st.lists(seeds, max_size=3))
def test_a_generator_repeats_itself_for_any_integers(seed, stream):
    first = torch.randint(2**62, (4,), generator=generator(seed, *stream))
    second = torch.randint(2**62, (4,), generator=generator(seed, *stream))
    assert torch.equal(first, second)


def test_generators_draw_independent_numbers():
    drawn = torch.stack([torch.rand(2000, generator=generator(0, epoch)) for epoch in range(20)])
    correlation = np.corrcoef(drawn.double().numpy()) - np.eye(20)
    # the largest of 190
    assert np.abs(correlation).max() < 4.5 / math.sqrt(2000)
