"""How lambda becomes a vector, against closed forms."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.networks import ConditionalNetwork
from oat_bench.networks.conditioning import LambdaEncoding

TRAINED = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
KINDS = ["scalar", "one-hot", "dct", "orthogonal"]


@pytest.mark.parametrize("dim", [6, 7, 128])
@pytest.mark.parametrize("seed", [0, 1])
def test_orthogonal_rows_are_orthonormal(dim, seed):
    codes = LambdaEncoding(TRAINED, "orthogonal", dim, seed).codes
    assert codes.shape == (6, dim)
    torch.testing.assert_close(codes @ codes.T, torch.eye(6), rtol=0, atol=1e-5)


def test_orthogonal_rows_are_random_but_for_their_seed():
    first, again, other = (LambdaEncoding(TRAINED, "orthogonal", 128, s).codes for s in (3, 3, 4))
    assert torch.equal(first, again)
    # the inner product of two random unit vectors has standard deviation 1 / sqrt(128)
    assert float((first @ other.T).abs().max()) < 6 / math.sqrt(128)
    # no row is an axis: its numbers spread like those of a random unit vector
    assert float(first.abs().max()) < 6 / math.sqrt(128)


@pytest.mark.parametrize("dim", [6, 16, 128])
def test_dct_rows_are_sampled_cosines(dim):
    codes = LambdaEncoding(TRAINED, "dct", dim).codes.double().numpy()
    place = np.arange(dim)
    for k in range(6):
        norm = math.sqrt((1 if k == 0 else 2) / dim)
        cosine = norm * np.cos(math.pi * k * (2 * place + 1) / (2 * dim))
        np.testing.assert_allclose(codes[k], cosine, atol=1e-6)
        signal = np.zeros(dim)
        signal[k] = 1  # the inverse transform of one coefficient is its basis function
        np.testing.assert_allclose(codes[k], scipy.fft.idct(signal, norm="ortho"), atol=1e-6)


def test_one_hot_and_scalar():
    assert torch.equal(LambdaEncoding([0.5, 0, 1], "one-hot", 4).codes, torch.eye(4)[:3])
    scalar = LambdaEncoding([0.5, 0, 1], "scalar", 128)
    assert scalar.dim == 1
    lam = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0])
    torch.testing.assert_close(scalar(lam), lam[:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_lambda_has_exactly_its_row(kind):
    encoding = LambdaEncoding(TRAINED, kind, 16)
    assert torch.equal(encoding(torch.tensor(TRAINED)), encoding.codes)
    for place, lam in enumerate(TRAINED):
        assert torch.equal(encoding(torch.tensor([lam]))[0], encoding.codes[place])


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_repetition_of_the_trained_lambdas_do_not_matter(kind):
    shuffled = LambdaEncoding([1.0, 0.2, 0.2, 0, 0.4, 0.3, 0.1, 1.0], kind, 16)
    sorted_ = LambdaEncoding(TRAINED, kind, 16)
    assert torch.equal(shuffled.trained, sorted_.trained)
    assert torch.equal(shuffled.codes, sorted_.codes)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(lams=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=7))
def test_between_trained_lambdas_the_code_is_their_interpolation(kind, lams):
    """Numpy's piecewise linear interpolation, coordinate by coordinate."""
    encoding = LambdaEncoding(TRAINED, kind, 8)
    rows = encoding.codes.double().numpy()
    expected = np.stack([np.interp(lams, TRAINED, rows[:, j]) for j in range(rows.shape[1])], 1)
    np.testing.assert_allclose(encoding(torch.tensor(lams)).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_trained_range_the_nearest_row(kind):
    encoding = LambdaEncoding([0.3, 0.6], kind, 4)
    codes = encoding(torch.tensor([0.0, 0.29, 0.61, 1.0]))
    assert torch.equal(codes, encoding.codes[[0, 0, 1, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_one_trained_lambda_has_one_code(kind):
    encoding = LambdaEncoding([0.4], kind, 4)
    codes = encoding(torch.tensor([0.0, 0.4, 1.0]))
    assert torch.equal(codes, encoding.codes.expand(3, -1))


@pytest.mark.parametrize("kind", ["one-hot", "dct", "orthogonal"])
def test_too_small_a_dimension_is_refused(kind):
    with pytest.raises(ValueError, match=f"^a {kind} encoding of 6 lambda needs dim >= 6, got 5$"):
        LambdaEncoding(TRAINED, kind, 5)
    assert LambdaEncoding(TRAINED, kind, 6).codes.shape == (6, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoding_is_a_buffer_of_the_network(kind):
    def build(seed: int) -> ConditionalNetwork:
        return ConditionalNetwork(
            "wrn-10-1",
            num_classes=3,
            in_channels=1,
            trained_lambdas=TRAINED,
            encoding=kind,
            encoding_dim=16,
            seed=seed,
        )

    network = build(0)
    state = network.state_dict()
    assert torch.equal(state["encoding.codes"], network.encoding.codes)
    assert torch.equal(state["encoding.trained"], torch.tensor(TRAINED))
    assert not any(name.startswith("encoding") for name, _ in network.named_parameters())
    other = build(1)
    assert torch.equal(other.encoding.codes, network.encoding.codes) == (kind != "orthogonal")
    other.load_state_dict(state)
    assert torch.equal(other.encoding.codes, network.encoding.codes)
