"""How lambda becomes a vector, against closed forms."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from oat_bench.networks.card import NetworkCard, check_interpolation
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import LambdaEncoding
from oat_bench.networks.specialize import specialize

TRAINED = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
KINDS = ["scalar", "one-hot", "dct", "orthogonal"]
RULES = ["linear-codes", "spherical-codes", "film"]


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
@given(lams=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=7))
def test_between_trained_lambdas_the_code_is_their_interpolation(kind, lams):
    """Numpy's piecewise linear interpolation, coordinate by coordinate."""
    encoding = LambdaEncoding(TRAINED, kind, 8)
    rows = encoding.codes.double().numpy()
    expected = np.stack([np.interp(lams, TRAINED, rows[:, j]) for j in range(rows.shape[1])], 1)
    np.testing.assert_allclose(encoding(torch.tensor(lams)).numpy(), expected, atol=2e-6)


# --- the rules between trained lambda


def rules(kind):
    return [r for r in RULES if (r, kind) != ("spherical-codes", "scalar")]


EVERY = [(kind, rule) for kind in KINDS for rule in rules(kind)]


def build(kind, rule, norm="dual", film="identity-start", lambda_sampling="list"):
    """A network whose FiLM layers and batch norms are not the identity."""
    conditioned = {"encoding": kind, "encoding_dim": 16, "interpolation": rule}
    card = NetworkCard(architecture="wrn-10-1", norm=norm, film=film, **conditioned)
    network = ConditionalNetwork(card, 3, 1, TRAINED, lambda_sampling)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.backbone.state_dict().items():
            if name.endswith("running_var"):
                value.mul_(0.5 + torch.rand(value.shape, generator=draw))
            elif "film" in name or ("bn_" in name and value.is_floating_point()):
                value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return network.eval()


@pytest.mark.parametrize(("kind", "rule"), EVERY)
def test_at_a_trained_lambda_every_rule_is_the_same_network_to_the_bit(kind, rule):
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    linear, other = build(kind, "linear-codes"), build(kind, rule)
    for lam in TRAINED:
        assert torch.equal(other(x, lam), linear(x, lam))
        assert torch.equal(specialize(other, lam)(x), specialize(linear, lam)(x))
    mixed = torch.tensor(TRAINED * 2)
    assert torch.equal(other(x, mixed), linear(x, mixed))


@pytest.mark.parametrize(("kind", "rule"), EVERY)
def test_between_the_rules_are_networks_of_their_own_and_all_forms_agree(kind, rule):
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = build(kind, rule)
    lam = torch.tensor([0.05, 0.7, 0.15, 0.7, 0.1, 0.0, 0.35, 1.0])
    batch = network(x, lam)
    for place, value in enumerate(lam.tolist()):
        one = x[place : place + 1]
        for logits in (network(one, value), specialize(network, value)(one)):
            torch.testing.assert_close(logits[0], batch[place], rtol=1e-4, atol=1e-4)
    if rule != "linear-codes":
        assert not torch.allclose(network(x, 0.7), build(kind, "linear-codes")(x, 0.7), atol=1e-3)


@pytest.mark.parametrize("kind", ["one-hot", "dct", "orthogonal"])
@given(lam=st.floats(0, 1, width=32))
def test_a_spherical_code_is_on_the_arc(kind, lam):
    """As long as the rows, and a share w of the angle away from the lower one."""
    encoding = LambdaEncoding(TRAINED, kind, 8, interpolation="spherical-codes")
    code = encoding(torch.tensor([lam]))[0].double()
    assert code.norm().item() == pytest.approx(1, abs=1e-5)
    upper = max(1, int(np.searchsorted(np.float32(TRAINED), np.float32(lam))))
    low, high = np.float32(TRAINED[upper - 1]), np.float32(TRAINED[upper])
    share = float((np.float32(lam) - low) / (high - low))
    rows = encoding.codes.double()
    # the rows are orthogonal: the arc is a quarter circle
    expected = math.cos(share * math.pi / 2) * rows[upper - 1]
    expected = expected + math.sin(share * math.pi / 2) * rows[upper]
    np.testing.assert_allclose(code.numpy(), expected.numpy(), atol=1e-5)


def test_an_arc_between_rows_that_are_not_orthogonal_and_one_of_no_length():
    encoding = LambdaEncoding([0, 0.5, 1], "orthogonal", 4, interpolation="spherical-codes")
    angle = math.pi / 3
    encoding.codes = 2 * torch.tensor(
        [
            [1.0, 0, 0, 0],
            [math.cos(angle), math.sin(angle), 0, 0],
            [math.cos(angle), math.sin(angle), 0, 0],
        ]
    )
    third = encoding(torch.tensor([0.5 / 3]))[0]
    expected = 2 * torch.tensor([math.cos(angle / 3), math.sin(angle / 3), 0, 0])
    torch.testing.assert_close(third, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoding(torch.tensor([0.8]))[0], encoding.codes[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("film", ["identity-start", "published"])
def test_film_interpolates_gamma_and_beta_of_the_neighbours_layer_by_layer(kind, film):
    network = build(kind, "film", film=film)
    lams = torch.tensor([0.05, 0.1, 0.16, 0.55, 1.0])
    condition = network.condition_of(lams, None, 0)
    checked = 0
    for norm in network.norms:
        if norm.film is None:
            continue
        checked += 1
        gammas, betas = norm.film(network.encoding.codes)
        bn = norm.bn_a
        deviation = (bn.running_var + bn.eps).sqrt()
        scale, shift = norm.affine(condition)
        for place, lam in enumerate(lams.tolist()):
            # numpy's piecewise linear interpolation, channel by channel
            gamma, beta = (
                torch.tensor(
                    [np.interp(lam, TRAINED, part[:, c].detach()) for c in range(part.shape[1])]
                )
                for part in (gammas, betas)
            )
            expected = gamma * bn.weight / deviation
            torch.testing.assert_close(scale[place].double(), expected, rtol=1e-4, atol=1e-4)
            expected = gamma * (bn.bias - bn.running_mean * bn.weight / deviation) + beta
            torch.testing.assert_close(shift[place].double(), expected, rtol=1e-4, atol=1e-4)
    assert checked > 3


@pytest.mark.parametrize("rule", RULES)
def test_trained_next_to_0_the_batch_norm_is_that_of_every_lambda_above(rule):
    """At lambda 1e-6 FiLM is nearly that of lambda 0, the batch norm is BN_a."""
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = build("orthogonal", rule, lambda_sampling="uniform")
    near = network(x, 1e-6)
    assert not torch.allclose(near, network(x, 0.0), atol=0.05)
    for norm in network.norms:  # BN_c is not read
        for value in norm.bn_c.state_dict().values():
            value.fill_(7)
    assert torch.equal(network(x, 1e-6), near)
    # with BN_a in its place lambda = 0 is next to it
    for norm in network.norms:
        norm.bn_c.load_state_dict(norm.bn_a.state_dict())
    torch.testing.assert_close(network(x, 0.0), near, rtol=1e-2, atol=1e-3)


def test_rules_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="unknown interpolation 'cubic'; expected one of linear-c"):
        check_interpolation("cubic", "dct")
    with pytest.raises(ValueError, match="spherical-codes needs codes with directions"):
        NetworkCard(architecture="wrn-10-1", encoding="scalar", interpolation="spherical-codes")


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
    with pytest.raises(
        ValueError, match=f"^a {kind} encoding of 6 lambda values needs dim >= 6, got 5$"
    ):
        LambdaEncoding(TRAINED, kind, 5)
    assert LambdaEncoding(TRAINED, kind, 6).codes.shape == (6, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoding_is_a_buffer_of_the_network(kind):
    def build(seed: int) -> ConditionalNetwork:
        card = NetworkCard(architecture="wrn-10-1", encoding=kind, encoding_dim=16)
        return ConditionalNetwork(card, 3, 1, TRAINED, seed=seed)

    network = build(0)
    state = network.state_dict()
    assert torch.equal(state["encoding.codes"], network.encoding.codes)
    assert torch.equal(state["encoding.trained"], torch.tensor(TRAINED))
    assert not any(name.startswith("encoding") for name, _ in network.named_parameters())
    other = build(1)
    assert torch.equal(other.encoding.codes, network.encoding.codes) == (kind != "orthogonal")
    other.load_state_dict(state)
    assert torch.equal(other.encoding.codes, network.encoding.codes)
