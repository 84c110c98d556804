"""The plain backbones against the same networks of other libraries and of the papers."""

import re

import pytest
import torch
from torch import nn

import oat_bench
from oat_bench.networks.card import NetworkCard, check_architecture


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms weights and statistics that are not the identity."""
    draw = torch.Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.6, 1.4, generator=draw)
        norm.bias.data.normal_(0, 0.2, generator=draw)
        norm.running_mean.normal_(0, 0.3, generator=draw)
        norm.running_var.uniform_(0.5, 1.5, generator=draw)
    return model


def renamed(state: dict[str, torch.Tensor], rules: list[tuple[str, str]]) -> dict:
    """Apply every rule, a pattern and what stands in its place, to every name."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def assert_same_network(
    ours: nn.Module, theirs: nn.Module, rules: list[tuple[str, str]], x: torch.Tensor
) -> None:
    """Give ours their weights; compare logits in both modes, gradients and new statistics."""
    ours.load_state_dict(renamed(theirs.state_dict(), rules))
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    ours.train()
    theirs.train()
    logits, expected = ours(x), theirs(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    weights = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: p.grad / p.grad.abs().max() for name, p in theirs.named_parameters()}
    for name, value in renamed(gradients, rules).items():
        own = ours.get_parameter(name).grad
        torch.testing.assert_close(own / own.abs().max(), value, rtol=1e-3, atol=1e-3)
    for name, value in renamed(theirs.state_dict(), rules).items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "function", "stride"),
    [
        ("resnet-18", "resnet18", 1),
        ("resnet-34", "resnet34", 1),
        ("resnet-18-stride2", "resnet18", 2),
        ("resnet-18-stem7", "resnet18", None),
    ],
)
def test_resnet_is_torchvisions_with_the_stem_that_it_names(plain, architecture, function, stride):
    assert oat_bench.__version__  # its hooks make torchvision importable beside any torch
    import torchvision

    theirs = getattr(torchvision.models, function)(num_classes=7)
    if stride is not None:
        theirs.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    randomize(theirs)
    ours = plain(architecture, 7, 3)
    rules = [
        (r"layer(\d)\.(\d)\.", r"stage\1.blocks.\2."),
        (r"downsample\.0", "shortcut"),
        (r"downsample\.1", "shortcut_norm"),
        (r"\bbn(\d)", r"norm\1"),
        (r"^fc", "linear"),
    ]
    x = torch.rand((3, 3, 40, 44), generator=torch.Generator().manual_seed(1))
    assert_same_network(ours, theirs, rules, x if stride != 1 else x[..., :20, :20])


@pytest.mark.parametrize(
    ("depth", "widen"), [(10, 2), (16, 1), (22, 2), pytest.param(16, 8, marks=pytest.mark.slow)]
)
def test_wide_resnet_is_robustbenchs(plain, depth, widen):
    assert oat_bench.__version__
    from robustbench.model_zoo.architectures.wide_resnet import WideResNet

    theirs = randomize(WideResNet(depth=depth, widen_factor=widen, num_classes=10))
    ours = plain(f"wrn-{depth}-{widen}", 10, 3)
    rules = [
        (r"^block(\d)\.layer\.(\d)\.", r"stage\1.blocks.\2."),
        (r"convShortcut", "shortcut"),
        (r"^bn1", "norm"),
        (r"\bbn(\d)", r"norm\1"),
        (r"^fc", "linear"),
    ]
    # theirs pools over 8x8, which is the whole last map of a 32x32 image
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    assert_same_network(ours, theirs, rules, x)


@pytest.mark.parametrize(
    ("architecture", "millions"), [("wrn-16-8", 10.96), ("resnet-34", 21.28), ("wrn-40-2", 2.24)]
)
def test_parameter_count_is_the_published_one(plain, architecture, millions):
    with torch.device("meta"):
        network = plain(architecture, 10, 3)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 2) == millions


def test_resnet_18_for_imagenet_has_its_parameters(plain):
    with torch.device("meta"):
        network = plain("resnet-18-stem7", 1000, 3)
    # as torchvision's documentation says of resnet18
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512


@pytest.mark.parametrize(
    ("architecture", "sides"),
    [
        ("wrn-10-1", [224, 112, 56]),
        ("wrn-10-1-stride2", [112, 56, 28]),
        ("wrn-10-1-stem7", [56, 28, 14]),
        ("resnet-18-stem7", [56, 28, 14, 7]),
    ],
)
def test_a_stem_makes_the_maps_of_the_stages_smaller(plain, architecture, sides):
    with torch.device("meta"):
        network, h = plain(architecture, 10, 3), torch.empty(2, 3, 224, 224)
        seen = []
        for name, stage in network.named_children():
            if name.startswith("stage"):
                stage.register_forward_hook(lambda *args: seen.append(args[2].shape[-1]))
        network.features(h)
    assert seen == sides


def test_max_pooling_of_a_wide_resnet_is_that_after_norm_and_relu(plain):
    network = randomize(plain("wrn-10-1-stem7", 10, 3)).eval()
    first = network.stage1.blocks[0]
    h = network.conv1(torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    before = torch.relu(first.norm1(network.pool(h)))
    torch.testing.assert_close(before, network.pool(torch.relu(first.norm1(h))))


@pytest.mark.parametrize(
    "architecture", ["wrn-10-1", "wrn-16-2", "resnet-18", "wrn-10-1-stride2", "wrn-10-1-stem7"]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 47), (3, 96, 96), (5, 1, 1), (2, 7, 30)])
@pytest.mark.parametrize("num_classes", [2, 11])
def test_any_input_size_channels_and_classes(plain, architecture, shape, num_classes):
    network = plain(architecture, num_classes, shape[0]).eval()
    with torch.no_grad():
        logits = network(torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, num_classes)
    assert bool(logits.isfinite().all())
    assert not torch.equal(logits[0], logits[1])


def test_dropout_acts_between_the_convolutions_in_train_mode_only(plain):
    torch.manual_seed(0)
    without, with_dropout = plain("wrn-10-1", 4, 1), plain("wrn-10-1", 4, 1, dropout=0.3)
    with_dropout.load_state_dict(without.state_dict())
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(with_dropout.eval()(x), without.eval()(x))
        without.train()
        with_dropout.train()
        assert torch.equal(without(x), without(x))
        assert not torch.equal(with_dropout(x), with_dropout(x))
    seen: list[torch.Tensor] = []
    block = with_dropout.stage1.blocks[0]
    block.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.dropout.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        with_dropout(torch.rand(64, 1, 8, 8))
    before, after = seen
    kept = after != 0
    torch.testing.assert_close(after[kept], before[kept] / 0.7)
    dropped = float((~kept & (before != 0)).sum() / (before != 0).sum())
    # 64 * 16 * 64 numbers, about half above zero: four standard errors are under .011
    assert abs(dropped - 0.3) < 0.011


def test_dropout_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="resnet-18 has no dropout; set dropout = 0"):
        NetworkCard(architecture="resnet-18", dropout=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "wrn-10-1",
        "wrn-28-10",
        "wrn-70-16",
        "resnet-18",
        "resnet-34",
        "resnet-34-stem7",
        "wrn-16-8-stride2",
    ],
)
def test_known_architectures(name):
    assert check_architecture(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "wrn",
        "wrn-4-1",
        "wrn-12-2",
        "wrn-16-0",
        "wrn-16",
        "wrn-16-8-1",
        "WRN-16-8",
        "resnet-50",
        "wrn--16-8",
        "wrn-16-8 ",
        "wrn-16-8\n",
        "resnet18",
        "wrn-1e1-2",
        "wrn-99994-1",
        "wrn-16-8-",
        "wrn-16-8-stem",
        "stem7",
        "-stem7",
        "resnet-18-stem7-stride2",
        "wrn-16-8-auto",  # which only a card has
    ],
)
def test_unknown_architectures_are_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match="expected resnet-18, resnet-34 or wrn-DEPTH-WIDEN"):
        check_architecture(name)


def test_auto_is_the_stem_for_the_size_of_the_images():
    card = NetworkCard(architecture="wrn-16-2-auto")
    sizes = [(8, 8), (95, 200), (96, 96), (191, 191), (192, 300), (224, 224)]
    names = [card.for_images(*size).architecture for size in sizes]
    stems = ["", "", "-stride2", "-stride2", "-stem7", "-stem7"]
    assert names == [f"wrn-16-2{stem}" for stem in stems]
    # what is stated holds
    plain = NetworkCard(architecture="wrn-16-2")
    assert plain.for_images(224, 224) == plain == card.for_images(95, 95)
    with pytest.raises(ValueError, match="unknown architecture"):
        NetworkCard(architecture="wrn-12-2-auto")


def test_weights_are_drawn_with_he_variance_of_the_fan_out(plain):
    torch.manual_seed(0)
    network = plain("wrn-16-8", 10, 3)
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        ratio = float(conv.weight.detach().std()) / (2 / fan_out) ** 0.5
        # the standard deviation of n normal numbers is known to 1 / sqrt(2n)
        assert abs(ratio - 1) < 5 / (2 * conv.weight.numel()) ** 0.5
