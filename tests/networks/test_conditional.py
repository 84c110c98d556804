"""The conditional network: routes, statistics, order of a batch, FiLM, and what lambda may be."""

import copy
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import Condition
from oat_bench.networks.norms import ConditionalNorm, FiLM

LAMBDAS = (0.0, 0.1, 0.5, 1.0)


def images(n: int, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(seed))


def first_norm(network: ConditionalNetwork) -> ConditionalNorm:
    """Return the norm layer that sees the stem convolution's output."""
    if hasattr(network.backbone, "norm1"):
        return network.backbone.norm1
    return network.backbone.stage1.blocks[0].norm1


def batch_norms(network: ConditionalNetwork, name: str) -> list[nn.BatchNorm2d]:
    """Return the batch norms of one route, ``bn_c`` or ``bn_a``, of every layer."""
    found = [m for key, m in network.named_modules() if key.endswith(f".{name}")]
    assert found
    assert all(isinstance(module, nn.BatchNorm2d) for module in found)
    return found


def statistics(norms: list[nn.BatchNorm2d]) -> list[torch.Tensor]:
    return [
        t.clone() for n in norms for t in (n.running_mean, n.running_var, n.num_batches_tracked)
    ]


# --- one batch norm and FiLM at the identity: the plain network ---


@pytest.mark.parametrize("architecture", ["wrn-10-2", "resnet-18"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, "mixed"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_identity_film_and_one_norm_leave_the_plain_network(plain, architecture, lam, mode):
    torch.manual_seed(0)
    card = NetworkCard(architecture=architecture, norm="single")
    network = ConditionalNetwork(card, 5, 3, [0, 0.5, 1])
    reference = plain(architecture, 5, 3)
    for norm in batch_norms(network, "bn_a"):
        norm.weight.data.uniform_(0.6, 1.4)
        norm.bias.data.normal_(0, 0.2)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
    state = network.backbone.state_dict()
    shared = {k.replace(".bn_a.", "."): v for k, v in state.items() if ".film." not in k}
    reference.load_state_dict(shared)
    network.train(mode == "train")
    reference.train(mode == "train")
    x = images(6, 3, 16)
    value = torch.tensor([0.5, 0, 1, 0.2, 0, 0.9]) if lam == "mixed" else lam
    with torch.no_grad():
        torch.testing.assert_close(network(x, value), reference(x), rtol=1e-4, atol=1e-5)
    for norm, plain_norm in zip(
        batch_norms(network, "bn_a"),
        [m for m in reference.modules() if isinstance(m, nn.BatchNorm2d)],
        strict=True,
    ):
        torch.testing.assert_close(norm.running_mean, plain_norm.running_mean)
        torch.testing.assert_close(norm.running_var, plain_norm.running_var)


def test_without_film_last_layers_lambda_only_picks_the_norm():
    card = NetworkCard(architecture="wrn-10-1")
    network = ConditionalNetwork(card, 3, 1, [0, 0.5, 1]).train()
    x = images(4)
    with torch.no_grad():
        network(x, 0.0)
        network(x * 0.5, 1.0)
        network.eval()
        assert torch.equal(network(x, 0.7), network(x, 1.0))
        assert not torch.allclose(network(x, 0.0), network(x, 1.0), atol=1e-3)


# --- dual batch norm ---


@pytest.mark.parametrize("architecture", ["wrn-10-1", "resnet-18"])
@pytest.mark.parametrize("changed", ["bn_a", "bn_c"])
@pytest.mark.parametrize(
    ("attribute", "mode"),
    [
        ("weight", "eval"),
        ("bias", "eval"),
        ("running_mean", "eval"),
        ("running_var", "eval"),
        ("weight", "train"),
        ("bias", "train"),
    ],
)
def test_a_route_does_not_see_the_others_numbers(perturbed, architecture, changed, attribute, mode):
    network = perturbed(architecture).train(mode == "train")
    x = images(4)
    mixed = torch.tensor([0.1, 0, 1, 0])
    with torch.no_grad():
        before = {lam: network(x, lam) for lam in LAMBDAS}
        before_mixed = network(x, mixed)
        # the passes above moved the statistics of a network in train mode; logits do not use them
        for norm in batch_norms(network, changed):
            getattr(norm, attribute).mul_(1.5).add_(0.1)
        after = {lam: network(x, lam) for lam in LAMBDAS}
        after_mixed = network(x, mixed)
    for lam in LAMBDAS:
        untouched = (lam == 0) == (changed == "bn_a")
        assert torch.equal(after[lam], before[lam]) == untouched, lam
    standard = mixed == 0
    untouched = standard if changed == "bn_a" else ~standard
    assert torch.equal(after_mixed[untouched], before_mixed[untouched])
    assert bool((after_mixed[~untouched] != before_mixed[~untouched]).any(1).all())


@pytest.mark.parametrize("tiny", [1e-30, 1e-7, 1e-3])
def test_every_trained_lambda_above_zero_takes_the_adversarial_route(perturbed, tiny):
    network = perturbed(lambda_sampling="uniform")
    x = images(3)
    with torch.no_grad():
        before = network(x, tiny)
        for norm in batch_norms(network, "bn_c"):
            norm.bias += 1.0
        assert torch.equal(network(x, tiny), before)
        for norm in batch_norms(network, "bn_a"):
            norm.bias += 1.0
        assert not torch.equal(network(x, tiny), before)


@pytest.mark.parametrize("architecture", ["wrn-10-1", "resnet-18"])
@pytest.mark.parametrize(("lam", "used", "unused"), [(0, "bn_c", "bn_a"), (0.4, "bn_a", "bn_c")])
def test_a_training_batch_updates_only_its_own_statistics(
    perturbed, architecture, lam, used, unused
):
    network = perturbed(architecture).train()
    own, other = batch_norms(network, used), batch_norms(network, unused)
    own_before, other_before = statistics(own), statistics(other)
    network(images(4), lam)
    assert all(map(torch.equal, statistics(other), other_before))
    assert not any(map(torch.equal, statistics(own), own_before))


@pytest.mark.parametrize("architecture", ["wrn-10-1", "resnet-18"])
@pytest.mark.parametrize("norm", ["dual", "single"])
@pytest.mark.parametrize(
    "lams", [(0.5, 0, 1, 0, 0, 0.2), (0, 0.1, 0.1), (1, 1, 0.4), (0, 0, 0), (1e-6, 0, 0, 1e-3)]
)
def test_a_mixed_training_batch_updates_each_norm_with_its_own_images(
    perturbed, architecture, norm, lams
):
    size = 16 if architecture == "resnet-18" else 8  # batch norm wants more than one number
    network = perturbed(architecture, norm=norm, size=size).train()
    x, lam = images(len(lams), size=size), torch.tensor(lams)
    layer = first_norm(network)
    with torch.no_grad():
        stem = network.backbone.conv1(x)
    routes = (
        [(layer.bn_a, torch.ones(len(x), dtype=torch.bool))]
        if norm == "single"
        else [(layer.bn_c, lam == 0), (layer.bn_a, lam > 0)]
    )
    expected = []
    for bn, own in routes:
        mean, variance, count = (t.clone() for t in statistics([bn]))
        if own.any():
            mean = 0.9 * mean + 0.1 * stem[own].mean(dim=(0, 2, 3))
            variance = 0.9 * variance + 0.1 * stem[own].var(dim=(0, 2, 3), correction=1)
            count += 1
        expected.append((bn, mean, variance, count))
    network(x, lam)
    for bn, mean, variance, count in expected:
        torch.testing.assert_close(bn.running_mean, mean)
        torch.testing.assert_close(bn.running_var, variance)
        assert bn.num_batches_tracked == count


@pytest.mark.parametrize("norm", ["dual", "single"])
def test_an_evaluation_changes_nothing(perturbed, norm):
    network = perturbed(norm=norm)
    before = copy.deepcopy(network.state_dict())
    network(images(4), torch.tensor([0.5, 0, 1, 0]))
    network.conditioned(0.3, 4)(images(4))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("n_standard", [0, 1, 2, 3])
def test_a_group_of_one_value_a_channel_is_normalised_by_running_statistics(n_standard, size):
    """Against torch's own: train mode where there is a variance, eval mode where there is none."""
    norm = ConditionalNorm(5, "dual", None)
    for bn in (norm.bn_c, norm.bn_a):
        nn.init.normal_(bn.running_mean)
        nn.init.uniform_(bn.running_var, 0.5, 2)
        nn.init.normal_(bn.weight)
    reference = copy.deepcopy(norm)
    h = images(3, 5, size)
    condition = Condition(torch.tensor([0.0, 1.0]), torch.zeros(2, 1), None, n_standard)
    out = norm.train()(h, condition)
    groups = [(reference.bn_c, h[:n_standard]), (reference.bn_a, h[n_standard:])]
    expected = [bn.train(len(x) * size**2 > 1)(x) for bn, x in groups if len(x)]
    torch.testing.assert_close(out, torch.cat(expected))
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)


def test_one_batch_norm_serves_every_lambda(perturbed):
    network = perturbed(norm="single")
    assert not any(key.endswith("bn_c") for key, _ in network.named_modules())
    x = images(2)
    with torch.no_grad():
        before = {lam: network(x, lam) for lam in LAMBDAS}
        for norm in batch_norms(network, "bn_a"):
            norm.bias += 1.0
        assert not any(torch.equal(network(x, lam), before[lam]) for lam in LAMBDAS)


@pytest.mark.parametrize("form", ["dual", "single"])
def test_a_norm_layer_is_torchs_batch_norm_and_then_the_affine(perturbed, form):
    """One layer by hand, at each lambda, with torch's own functional batch norm."""
    network = perturbed(norm=form)
    layer = network.backbone.stage1.blocks[0].norm1
    h = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(3))
    for lam in (0.0, 0.1, 0.3, 1.0):
        bn = layer.bn_c if lam == 0 and form == "dual" else layer.bn_a
        _, condition = network.condition(lam, 2, torch.device("cpu"))
        with torch.no_grad():
            code = network.encoding(torch.tensor([lam]))
            gamma, beta = (
                (start + head[2](F.leaky_relu(head[0](code), 0.01)))[0, :, None, None]
                for start, head in ((1, layer.film.gamma), (0, layer.film.beta))
            )
            normal = F.batch_norm(h, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5)
            torch.testing.assert_close(layer(h, condition), gamma * normal + beta)
            scale, shift = layer.affine(condition)
            folded = scale[0, :, None, None] * h + shift[0, :, None, None]
            torch.testing.assert_close(folded, gamma * normal + beta, rtol=1e-5, atol=1e-5)


# --- the order of a batch ---


@pytest.fixture(scope="module", params=["dual", "single", "published"])
def small(request, perturbed):
    if request.param == "published":
        return perturbed(film="published")
    return perturbed(norm=request.param)


lambda_lists = st.lists(
    st.one_of(
        st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0]),
        st.floats(0, 1, width=32),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=60)
@given(lams=lambda_lists, seed=st.integers(0, 2**16), data=st.data())
def test_a_mixed_batch_is_its_images_one_by_one(small, lams, seed, data):
    x = images(len(lams), seed=seed)
    lam = torch.tensor(lams)
    with torch.no_grad():
        batch = small(x, lam)
        singles = torch.cat([small(x[i : i + 1], lams[i]) for i in range(len(lams))])
        torch.testing.assert_close(batch, singles, rtol=1e-4, atol=1e-4)
        order = torch.tensor(data.draw(st.permutations(range(len(lams)))))
        torch.testing.assert_close(
            small(x[order], lam[order]), singles[order], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(small.conditioned(lam, len(x))(x), batch)


def test_the_singles_of_that_property_differ_between_lambdas(small):
    """Else a network that mixes lambdas up would pass."""
    x = images(1)
    with torch.no_grad():
        logits = torch.cat([small(x, lam) for lam in (0.0, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0)])
    distance = torch.cdist(logits, logits) + torch.eye(len(logits))
    assert float(distance.min()) > 1e-2


@settings(max_examples=25)
@given(
    n_standard=st.integers(0, 4), n_other=st.integers(0, 4), lam=st.floats(0.1, 1), data=st.data()
)
def test_in_train_mode_a_batch_is_its_two_routes_in_any_order(
    perturbed, n_standard, n_other, lam, data
):
    """Each route is normalised by its own images only."""
    n = n_standard + n_other
    assume(n > 0)
    network = perturbed().train()
    x = images(n, seed=data.draw(st.integers(0, 99)))
    lams = torch.tensor([0.0] * n_standard + [lam] * n_other)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    with torch.no_grad():
        parts = [
            network(part, value)
            for part, value in ((x[:n_standard], 0.0), (x[n_standard:], lam))
            if len(part)
        ]
        mixed = network(x[order], lams[order])
    torch.testing.assert_close(mixed, torch.cat(parts)[order], rtol=1e-3, atol=1e-4)


def test_gradients_reach_each_image_alone(perturbed):
    """The gradient of one image's logits is zero in every other image, though they are sorted."""
    network = perturbed()
    x = images(5).requires_grad_()
    lam = torch.tensor([0.5, 0, 1, 0, 0.1])
    logits = network(x, lam)
    for place in range(5):
        (gradient,) = torch.autograd.grad(logits[place].sum(), x, retain_graph=True)
        reached = gradient.flatten(1).abs().amax(1) > 0
        assert reached.tolist() == [i == place for i in range(5)]


def test_training_reaches_every_parameter(perturbed):
    network = perturbed().train()
    network(images(6), torch.tensor([0, 0.1, 0.5, 1, 0, 0.2])).square().sum().backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.abs().sum() > 0)
    ]
    assert silent == []


# --- FiLM ---


def test_published_film_is_the_closed_form():
    torch.manual_seed(0)
    film = FiLM(6, 4, "published")
    codes = torch.randn(3, 4)
    first, last = film.mlp[0], film.mlp[2]
    assert first.weight.shape == (12, 4)
    assert last.weight.shape == (12, 12)

    def leaky(value: np.ndarray) -> np.ndarray:
        return np.where(value > 0, value, 0.01 * value)

    numbers = {k: v.detach().double().numpy() for k, v in film.state_dict().items()}
    hidden = leaky(codes.double().numpy() @ numbers["mlp.0.weight"].T + numbers["mlp.0.bias"])
    out = leaky(hidden @ numbers["mlp.2.weight"].T + numbers["mlp.2.bias"])
    gamma, beta = film(codes)
    np.testing.assert_allclose(gamma.detach().numpy(), out[:, :6], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(beta.detach().numpy(), out[:, 6:], rtol=1e-5, atol=1e-6)


def test_published_film_acts_in_the_network(perturbed):
    """The first layer of a network: gamma and beta by hand, after torch's batch norm."""
    network = perturbed("resnet-18", film="published", in_channels=3)
    layer, x = network.backbone.norm1, images(2, 3, 6)
    seen: list[torch.Tensor] = []
    for handle in (
        network.backbone.conv1.register_forward_hook(lambda *a: seen.append(a[2])),
        layer.register_forward_hook(lambda *a: seen.append(a[2])),
    ):
        assert handle is not None
    with torch.no_grad():
        network(x, 0.1)
        stem, normed = seen
        gamma, beta = F.leaky_relu(
            layer.film.mlp[2](F.leaky_relu(layer.film.mlp[0](network.encoding.codes[1])))
        ).split(64)
        bn = layer.bn_a
        expected = F.batch_norm(stem, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        expected = gamma[:, None, None] * expected + beta[:, None, None]
    torch.testing.assert_close(normed, expected, rtol=1e-4, atol=1e-5)


def test_identity_start_film_starts_as_the_identity_and_can_leave_it():
    torch.manual_seed(0)
    film = FiLM(6, 4, "identity-start")
    codes = torch.eye(4)
    gamma, beta = film(codes)
    assert torch.equal(gamma, torch.ones(4, 6))
    assert torch.equal(beta, torch.zeros(4, 6))
    (gamma * torch.randn(4, 6) + beta * torch.randn(4, 6)).sum().backward()
    assert all(float(head[2].weight.grad.abs().min()) > 0 for head in (film.gamma, film.beta))


@pytest.mark.parametrize(
    ("architecture", "without"),
    [
        ("resnet-18", {"stage2.blocks.0", "stage3.blocks.0", "stage4.blocks.0"}),
        ("wrn-16-2", {"norm"}),
    ],
)
def test_film_is_where_the_published_networks_have_it(perturbed, architecture, without):
    """Not after a shortcut's batch norm, nor after the last batch norm of a wide network."""
    network = perturbed(architecture)
    bare = {
        name.removesuffix(".shortcut_norm")
        for name, module in network.backbone.named_modules()
        if isinstance(module, ConditionalNorm) and module.film is None
    }
    assert bare == without


# --- what lambda may be ---


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_lambda_as_any_kind_of_number(perturbed, mode, value):
    network = perturbed().train(mode == "train")
    x = images(3)
    kinds = [
        float(value),
        torch.tensor(value),
        torch.tensor([value]),
        torch.full((3,), value),
        torch.full((3,), value, dtype=torch.float64),
        np.float32(value),
        np.float64(value),
        np.full(3, value),
        [value] * 3,
        torch.tensor(float(value), requires_grad=True).detach(),
    ]
    with torch.no_grad():
        expected = network(x, value)
        for kind in kinds:
            torch.testing.assert_close(network(x, kind), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    ("lam", "shown"),
    [
        (-0.1, "-0.1"),
        (1.0001, "1.0001"),
        (2, "2"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (torch.tensor(1.5), "1.5"),
        (torch.tensor([0.5, math.nan, 2.0]), "nan"),
        (torch.tensor([0.5, -1e-6, 0.0]), "-1e-06"),
    ],
)
def test_lambda_outside_its_range_is_refused(perturbed, mode, lam, shown):
    network = perturbed().train(mode == "train")
    message = f"lam is {re.escape(shown)}; expected a number in \\[0, 1\\]"
    for call in (lambda: network(images(3), lam), lambda: network.conditioned(lam, 3)):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call()


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), (1, 1), (0,), (3, 3)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_lambda_of_a_wrong_shape_is_refused(perturbed, mode, shape):
    network = perturbed().train(mode == "train")
    expected = f"lam has shape {shape}; expected one float or one value for each of the 3 images"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        network(images(3), torch.zeros(shape))


# --- the module as such ---


@pytest.mark.parametrize("architecture", ["wrn-10-2", "resnet-18"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 47)])
def test_any_input_size(perturbed, architecture, shape):
    network = perturbed(architecture, in_channels=shape[0], num_classes=6)
    x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(x, torch.tensor([0.4, 0, 1]))
    assert logits.shape == (3, 6)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("architecture", ["wrn-10-2", "resnet-18"])
def test_large_images(perturbed, architecture):
    network = perturbed(architecture, in_channels=3)
    with torch.no_grad():
        assert network(images(1, 3, 96), 0.4).shape == (1, 4)


def test_the_seed_decides_the_weights_and_leaves_torchs_generator_alone():
    def build(seed: int) -> dict[str, torch.Tensor]:
        card = NetworkCard(architecture="wrn-10-1")
        return ConditionalNetwork(card, 3, 1, [0, 1], seed=seed).state_dict()

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = build(0), build(0), build(1)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(first["encoding.codes"], other["encoding.codes"])


def test_state_dict_carries_the_network_whole(perturbed):
    network = perturbed(seed=3)
    card = NetworkCard(architecture="wrn-10-1", encoding_dim=8)
    stranger = ConditionalNetwork(card, 4, 1, list(LAMBDAS), seed=99).eval()
    x, lam = images(4), torch.tensor([0.3, 0, 1, 0.7])
    with torch.no_grad():
        assert not torch.allclose(stranger(x, lam), network(x, lam), atol=1e-2)
        stranger.load_state_dict(network.state_dict())
        assert torch.equal(stranger(x, lam), network(x, lam))


def test_a_deep_copy_is_independent(perturbed):
    network = perturbed()
    twin = copy.deepcopy(network)
    x = images(2)
    with torch.no_grad():
        expected = network(x, 0.3)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(twin(x, 0.3), expected)


def test_double_precision_agrees_with_single(perturbed):
    network = perturbed()
    x, lam = images(4), torch.tensor([0.3, 0, 1, 0.1])
    with torch.no_grad():
        single = network(x, lam)
        double = copy.deepcopy(network).double()(x.double(), lam)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_dropout_reaches_the_backbone_in_train_mode_only(perturbed):
    network = perturbed(dropout=0.5)
    x = images(2)
    with torch.no_grad():
        assert torch.equal(network(x, 0.5), network(x, 0.5))
        network.train()
        assert not torch.equal(network(x, 0.5), network(x, 0.5))
