"""Networks of several widths: what each owns, and that it is what a plain narrow network is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import Condition
from oat_bench.networks.norms import BatchNorms, ConditionalNorm, FiLM
from oat_bench.networks.slimmable import (
    SlimmableConv2d,
    SlimmableLinear,
    share,
)
from oat_bench.networks.specialize import specialize

SLIMMABLE = {SlimmableConv2d, SlimmableLinear}
WIDTHS = [1, 0.75, 0.5, 0.25]
TRAINED = (0.0, 0.1, 0.5, 1.0)
LAMBDAS = [0, 0.1, 0.3, 1.0]
CLOSE = {"rtol": 0, "atol": 1e-4}


def images(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(seed))


def at(width: float) -> Condition:
    """A condition of which only the width matters."""
    return Condition(torch.zeros(1), torch.zeros(1, 1), None, 0, width=width)


@pytest.fixture(
    scope="module",
    params=[
        ("wrn-10-2", "dual", "identity-start", "shared"),
        ("wrn-10-1", "single", "published", "per-width"),
        ("wrn-16-1", "dual", "published", "per-width"),
        ("resnet-18", "dual", "identity-start", "per-width"),
        ("resnet-18", "single", "published", "shared"),
        ("resnet-18-stem7", "dual", "published", "shared"),
        ("wrn-10-1-stride2", "single", "identity-start", "per-width"),
    ],
    ids="-".join,
)
def network(request, perturbed) -> ConditionalNetwork:
    architecture, norm, film, heads = request.param
    return perturbed(
        architecture,
        norm=norm,
        film=film,
        heads=heads,
        widths=WIDTHS,
        in_channels=3,
        num_classes=7,
        trained=TRAINED,
    )


# --- the share of a width


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (64, 1, 64),
        (64, 0.75, 48),
        (64, 0.5, 32),
        (64, 0.25, 16),
        (16, 0.3, 5),  # 4.8
        (16, 0.1, 2),  # 1.6
        (5, 0.5, 3),  # 2.5: a half goes up
        (7, 0.5, 4),  # 3.5: so does this one
        (50, 0.29, 15),  # 14.5, which floating point makes a little less
        (16, 0.01, 1),  # a layer has at least one channel
    ],
)
def test_share_is_the_nearest_whole_number(channels, width, expected):
    assert share(channels, width) == expected


@given(
    channels=st.integers(1, 4096),
    widths=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
)
def test_narrower_networks_are_part_of_wider_ones(channels, widths):
    narrow, wide = (share(channels, width) for width in sorted(widths))
    assert 1 <= narrow <= wide <= channels
    for width in widths:
        assert share(channels, width) == 1 or abs(share(channels, width) - channels * width) <= 0.51


@pytest.mark.parametrize(
    ("given_", "expected"),
    [([1], [1]), ([0.5, 1, 0.75], [1, 0.75, 0.5]), ([0.5], [0.5]), ([1, 1.0, 0.5], [1, 0.5])],
)
def test_widths_are_sorted_widest_first(given_, expected):
    assert NetworkCard(architecture="wrn-10-1", widths=given_).widths == expected


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], "at least 1 item"),
        ([1, 0], "greater than 0"),
        ([1.5, 1], "less than or equal to 1"),
        ([1, float("nan")], "finite number|greater than 0"),
        ([0.5, 0.25], "add width 1"),
    ],
)
def test_impossible_widths_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        NetworkCard(architecture="wrn-10-1", widths=widths)


# --- layers


@pytest.mark.parametrize("bias", [True, False])
def test_slimmable_convolution_is_a_convolution_of_the_leading_block(bias):
    torch.manual_seed(0)
    layer = SlimmableConv2d(8, 12, 3, stride=2, padding=1, bias=bias)
    for width, c_in, c_out in ((1, 8, 12), (0.75, 6, 9), (0.5, 4, 6), (0.5, 8, 6)):
        x = torch.rand(2, c_in, 7, 7)
        plain = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=bias)
        with torch.no_grad():
            plain.weight.copy_(layer.weight[:c_out, :c_in])
            if bias:
                plain.bias.copy_(layer.bias[:c_out])
        torch.testing.assert_close(layer(x, at(width)), plain(x))


def test_slimmable_head_reads_the_first_features_and_knows_every_class():
    torch.manual_seed(0)
    layer, features = SlimmableLinear(8, 5), torch.rand(3, 4)
    expected = features @ layer.weight[:, :4].T + layer.bias
    torch.testing.assert_close(layer(features, at(0.5)), expected)


def test_one_head_per_width():
    torch.manual_seed(0)
    layer = SlimmableLinear(8, 5, [1, 0.5])
    narrow = layer.narrow[0]
    assert (narrow.in_features, narrow.out_features) == (4, 5)
    features = torch.rand(3, 4)
    torch.testing.assert_close(layer(features, at(0.5)), narrow(features))
    wide = torch.rand(3, 8)
    torch.testing.assert_close(layer(wide, at(1)), F.linear(wide, layer.weight, layer.bias))
    assert len(list(layer.parameters())) == 4


@pytest.mark.parametrize("form", ["identity-start", "published"])
def test_gamma_and_beta_of_a_narrow_layer_are_made_by_the_leading_block_of_a_head_each(form):
    torch.manual_seed(0)
    film, codes = FiLM(8, 6, form, slimmable=True), torch.rand(3, 6)
    for parameter in film.parameters():
        nn.init.normal_(parameter)
    gamma, beta = film(codes, 4)
    for mlp, value in ((film.gamma, gamma), (film.beta, beta)):
        small = nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 4))
        with torch.no_grad():
            small[0].weight.copy_(mlp[0].weight[:4])
            small[0].bias.copy_(mlp[0].bias[:4])
            small[2].weight.copy_(mlp[2].weight[:4, :4])
            small[2].bias.copy_(mlp[2].bias[:4])
        expected = small(codes)
        if form == "published":
            expected = F.leaky_relu(expected)
        elif mlp is film.gamma:
            expected = 1 + expected
        torch.testing.assert_close(value, expected)
    full = torch.cat(film(codes), 1)
    torch.testing.assert_close(full, torch.cat(film(codes, 8), 1))


def test_identity_start_is_the_identity_at_every_width():
    film = FiLM(8, 6, "identity-start", slimmable=True)
    for channels in (8, 4, 1):
        gamma, beta = film(torch.rand(2, 6), channels)
        assert torch.equal(gamma, torch.ones(2, channels))
        assert torch.equal(beta, torch.zeros(2, channels))


@pytest.mark.parametrize(("form", "count"), [("dual", 6), ("single", 3)])
def test_each_width_has_batch_norms_of_its_own(form, count):
    """Three widths and dual batch norm: six of them (OAT paper, section 3.3)."""
    norm = ConditionalNorm(8, form, None, [1, 0.75, 0.5])
    bns = [m for m in norm.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(bns) == count
    assert sorted({bn.num_features for bn in bns}) == [4, 6, 8]
    norm.train()
    h = 3 + torch.randn((16, 6, 5, 5), generator=torch.Generator().manual_seed(0))
    condition = Condition(torch.tensor([0.0, 1.0]), torch.zeros(2, 1), None, 4, width=0.75)
    out = norm(h, condition)
    own = norm.narrow[0]
    touched = {id(bn) for bn in bns if bn.num_batches_tracked > 0}
    assert touched == {id(bn) for bn in (own.bn_c, own.bn_a) if bn is not None}
    clean = h[:4] if form == "dual" else h
    bn = own.bn_c if form == "dual" else own.bn_a
    torch.testing.assert_close(bn.running_mean, 0.1 * clean.mean((0, 2, 3)))
    expected = F.batch_norm(clean, None, None, training=True)
    torch.testing.assert_close(out[: len(clean)], expected)


# --- networks


def test_one_width_is_what_it_was_before_there_were_several(perturbed):
    """Same names, same layers: nothing slimmable in it."""
    one = perturbed("wrn-10-1", widths=[1])
    two = perturbed("wrn-10-1", widths=[1, 0.5])
    kinds = {type(module) for module in one.modules()}
    assert kinds.isdisjoint(SLIMMABLE)
    assert {nn.Conv2d, nn.Linear, ConditionalNorm, FiLM} <= kinds
    names = set(one.state_dict())
    assert names == {name for name in two.state_dict() if ".narrow." not in name}


@torch.no_grad()
def test_the_full_width_is_the_network_of_one_width(perturbed):
    slim = perturbed("wrn-10-2", widths=WIDTHS, trained=TRAINED)
    one = perturbed("wrn-10-2", trained=TRAINED)
    one.load_state_dict({k: v for k, v in slim.state_dict().items() if ".narrow." not in k})
    x, lam = images(5, 1), torch.tensor([0.5, 0, 1, 0.1, 0])
    torch.testing.assert_close(slim(x, lam), one(x, lam))
    torch.testing.assert_close(slim.train()(x, lam, 1), one.train()(x, lam))


@torch.no_grad()
def test_every_width_is_the_plain_narrow_network_with_the_leading_weights(network, plain):
    """Against a network of the architecture that was built narrow, layer by layer its own."""
    x = images(5)
    for width in WIDTHS:
        lam = 0.5  # one lambda takes one route: a plain network with batch norm and FiLM in one
        condition = network.condition(lam, 5, x.device, width)[1]
        narrow = plain(network._build.args[0], 7, 3, width=width).eval()
        state = network.backbone.state_dict()
        for name, parameter in narrow.named_parameters():
            if "norm" in name:
                continue
            source = state[name]
            if name.startswith("linear") and width < 1 and "linear.narrow.0.bias" in state:
                source = state[f"linear.narrow.{WIDTHS.index(width) - 1}.{name.split('.')[1]}"]
            parameter.copy_(source[tuple(slice(0, size) for size in parameter.shape)])
        norms = [m for m in narrow.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm, own in zip(norms, network.norms, strict=True):
            bn = own.batch_norms(width)[1]
            norm.load_state_dict(bn.state_dict())
            if own.film is not None:
                gamma, beta = (part[0] for part in own.film.at(condition, bn.num_features))
                norm.weight.mul_(gamma)
                norm.bias.mul_(gamma).add_(beta)
        expected = narrow(x)
        scale = expected.abs().max()
        assert scale > 0.01
        torch.testing.assert_close(network(x, lam, width) / scale, expected / scale, **CLOSE)
        network.train()
        for module in network.modules():
            module.training = module is network
        torch.testing.assert_close(network(x, lam, width) / scale, expected / scale, **CLOSE)
        network.eval()


@torch.no_grad()
def test_specialized_is_the_slimmable_network(network):
    x = images(5)
    for width in WIDTHS:
        for lam in LAMBDAS:
            expected = network(x, lam, width)
            scale = expected.abs().max()
            plain = specialize(network, lam, width)
            torch.testing.assert_close(plain(x) / scale, expected / scale, **CLOSE)


def test_specialized_is_narrow_and_plain(network, plain):
    """Parameters are those of a network that was built narrow, but for what norms fold into."""
    counts = []
    for width in WIDTHS:
        ours = specialize(network, 0.3, width)
        kinds = {type(module) for module in ours.modules()}
        assert kinds.isdisjoint({*SLIMMABLE, ConditionalNorm, BatchNorms})
        assert {nn.Conv2d, nn.Linear} <= kinds
        built = plain(network._build.args[0], 7, 3, width=width)
        for name, module in built.named_modules():
            if isinstance(module, nn.Conv2d):
                mine = ours.get_submodule(name)
                assert mine.weight.shape == module.weight.shape
                assert (mine.out_channels, mine.in_channels) == tuple(module.weight.shape[:2])
        # a batch norm's weight and bias at most: folding leaves a bias, or scale and shift
        counts.append(sum(p.numel() for p in ours.parameters()))
        assert counts[-1] <= sum(p.numel() for p in built.parameters())
        # nothing wide lies behind it
        for parameter in ours.parameters():
            assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0] / 10  # about the width's square


def test_specialized_shares_nothing_with_its_source(network):
    plain = specialize(network, 0.3, 0.5)
    sources = {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    assert sources.isdisjoint(t.untyped_storage().data_ptr() for t in plain.state_dict().values())


def test_flops_fall_with_the_square_of_the_width(perturbed):
    """Half the channels in and out is a quarter of the products, but for stem and head."""
    network = perturbed("resnet-18", widths=WIDTHS, in_channels=3)
    flops = []
    for width in WIDTHS:
        with FlopCounterMode(display=False) as counter:
            specialize(network, 0.3, width)(images(1, size=32))
        flops.append(counter.get_total_flops())
    for width, count in zip(WIDTHS, flops, strict=True):
        assert count / flops[0] == pytest.approx(width**2, rel=0.02)


@torch.no_grad()
def test_a_width_owns_the_first_channels_and_nothing_else(network):
    """With NaN everywhere that is not its own, a width's logits do not change."""
    x, width = images(3), 0.5
    expected = [network(x, lam, width) for lam in LAMBDAS]
    spoilt = copy.deepcopy(network)
    for module in spoilt.backbone.modules():
        if isinstance(module, SlimmableConv2d):
            c_out = share(module.out_channels, width)
            c_in = module.in_channels if module.in_channels == 3 else None
            module.weight[c_out:] = float("nan")
            module.weight[:, c_in or share(module.in_channels, width) :] = float("nan")
        elif isinstance(module, SlimmableLinear) and not module.widths:
            module.weight[:, share(module.in_features, width) :] = float("nan")
        elif isinstance(module, SlimmableLinear):
            module.weight.fill_(float("nan"))
            for head in module.narrow:
                if head is not module.head(width):
                    head.weight.fill_(float("nan"))
        elif isinstance(module, ConditionalNorm):
            for other in WIDTHS:
                if other != width:
                    for bn in module.batch_norms(other):
                        if bn is not None:
                            bn.running_mean.fill_(float("nan"))
    for lam, logits in zip(LAMBDAS, expected, strict=True):
        assert torch.equal(spoilt(x, lam, width), logits)
        assert bool(spoilt(x, lam, 1).isnan().all())


@torch.no_grad()
def test_widths_differ(network):
    x = images(3)
    logits = torch.stack([network(x, 0.3, width) for width in WIDTHS]).flatten(1)
    gaps = (logits[:, None] - logits[None]).abs().amax(2)
    gaps.fill_diagonal_(1)
    assert float(gaps.min() / logits.abs().max()) > 1e-2


@torch.no_grad()
def test_a_mixed_batch_at_a_width_is_its_images_one_by_one(network):
    x, lam = images(6), torch.tensor([1, 0, 0.3, 0.1, 0, 0.77])
    for width in (0.75, 0.25):
        alone = torch.cat([network(x[i : i + 1], lam[i], width) for i in range(6)])
        torch.testing.assert_close(network(x, lam, width), alone, rtol=1e-4, atol=1e-4)


def test_the_width_is_an_argument_and_leaves_nothing_behind(network):
    x = images(2)
    with torch.no_grad():
        expected = network(x, 0.3)
        network(x, 0.3, 0.25)
        assert torch.equal(network(x, 0.3), expected)
        assert torch.equal(network(x, 0.3, 1), expected)


@torch.no_grad()
def test_subnetworks_follow_the_weights(network):
    """Views: what an optimiser writes in place shows, without a copy."""
    x, width = images(2), 0.5
    twin, source = network.subnetwork(width), copy.deepcopy(network.state_dict())
    condition = network.condition(0.3, 2, x.device, width)[1]
    torch.testing.assert_close(
        twin(x, network.fold(condition)), network(x, 0.3, width), rtol=1e-4, atol=1e-4
    )
    before = network(x, 0.3, width)
    for parameter in network.parameters():
        parameter.mul_(0.9)
    after = network(x, 0.3, width)
    torch.testing.assert_close(twin(x, network.fold(condition)), after, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after)
    network.load_state_dict(source)


def test_a_dedicated_narrow_network_is_plain(perturbed):
    """One width alone, whatever it is: no more channels than it needs, nothing slimmable."""
    network = perturbed("wrn-10-1", widths=[0.5])
    assert network.backbone.conv1.out_channels == 8
    assert {type(m) for m in network.modules()}.isdisjoint(SLIMMABLE)
    x = images(2, 1)
    torch.testing.assert_close(specialize(network, 0.3, 0.5)(x), network(x, 0.3), **CLOSE)
    with pytest.raises(ValueError, match=r"width is 1; the network has only width 0\.5"):
        network(x, 0.3, 1)


@pytest.mark.parametrize("width", [0.6, 0, 1.5, float("nan")])
def test_a_width_that_the_network_lacks_is_refused(perturbed, width):
    network = perturbed("wrn-10-1", widths=[1, 0.5])
    for call in (lambda: network(images(2, 1), 0.3, width), lambda: specialize(network, 0, width)):
        with pytest.raises(ValueError, match=r"width is .*; the network has widths 1, 0\.5"):
            call()


@pytest.mark.parametrize("architecture", ["wrn-10-1", "wrn-10-2", "resnet-18"])
@torch.no_grad()
def test_widths_of_one_channel_still_run(perturbed, architecture):
    """Layers whose shares come to be equal keep the shortcuts of the full network."""
    network = perturbed(architecture, widths=[1, 0.004], in_channels=3)
    x = images(2)
    torch.testing.assert_close(
        specialize(network, 0.3, 0.004)(x), network(x, 0.3, 0.004), rtol=1e-4, atol=1e-4
    )


def test_gradients_of_the_widths_add_up_in_the_shared_weights(network):
    """A narrow pass reaches its share alone; what the wide pass adds lies on top of it."""
    x = images(4)
    network.train()
    conv = network.backbone.stage1.blocks[0].conv1
    network(x, 0.5, 0.5).sum().backward()
    narrow = conv.weight.grad.clone()
    c_out, c_in = (share(size, 0.5) for size in conv.weight.shape[:2])
    assert float((narrow[:c_out, :c_in] != 0).float().mean()) > 0.5
    assert not narrow[c_out:].any()
    assert not narrow[:, c_in:].any()
    network.zero_grad()
    network(x, 0.5, 1).sum().backward()
    wide = conv.weight.grad.clone()
    network(x, 0.5, 0.5).sum().backward()
    torch.testing.assert_close(conv.weight.grad, wide + narrow, rtol=1e-3, atol=1e-5)
    network.zero_grad()
    network.eval()
