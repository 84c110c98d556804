"""The plain network at one lambda, and the libraries that take it."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import QConfigMapping, default_dynamic_qconfig, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import oat_bench
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo
from oat_bench.methods.oat import OAT
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.lambda_input import lambda_input
from oat_bench.networks.norms import Affine, ConditionalNorm, FiLM
from oat_bench.networks.slimmable import run_layer
from oat_bench.networks.specialize import specialize
from oat_bench.registry import ARCHITECTURES
from oat_bench.training.pgd import pgd

TRAINED = (0.0, 0.1, 0.5, 1.0)
LAMBDAS = [0, 0.1, 1.0, 0.05, 0.3, 0.77, 1e-4]


def images(n: int, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(
    scope="module",
    params=[
        (architecture, norm, film)
        for architecture in ("wrn-10-2", "wrn-16-1", "resnet-18")
        for norm in ("dual", "single")
        for film in ("identity-start", "published")
    ],
    ids="-".join,
)
def network(request, perturbed) -> ConditionalNetwork:
    architecture, norm, film = request.param
    return perturbed(
        architecture, norm=norm, film=film, in_channels=3, num_classes=7, trained=TRAINED
    )


@torch.no_grad()
def test_specialized_is_the_conditional_network(network):
    """In eval mode, and against the route of train mode with batch norm held in eval mode.

    That route knows no bridge; see test_bridge.
    """
    x = images(5, 3)
    unfolded = copy.deepcopy(network).train()
    for module in unfolded.modules():
        module.training = module is unfolded
    for lam in LAMBDAS:
        plain = specialize(network, lam)
        bridged = network.encoding.bridge and 0 < lam < TRAINED[1]
        expected = (network if bridged else unfolded)(x, lam)
        scale = float(expected.abs().max())
        assert scale > 0.05
        torch.testing.assert_close(plain(x) / scale, expected / scale, rtol=0, atol=1e-4)
        torch.testing.assert_close(plain(x) / scale, network(x, lam) / scale, rtol=0, atol=1e-4)


@torch.no_grad()
def test_specialized_networks_of_different_lambda_differ(network):
    x = images(3, 3)
    logits = torch.stack([specialize(network, lam)(x) for lam in LAMBDAS]).flatten(1)
    gaps = (logits[:, None] - logits[None]).abs().amax(2)
    gaps = gaps[1:, 1:]  # lambda 0 and 1e-4 are all but the same
    gaps.fill_diagonal_(1)
    assert float(gaps.min() / logits.abs().max()) > 3e-4


def test_specialized_is_plain(network):
    plain = specialize(network, 0.3)
    kinds = [type(module) for module in plain.modules()]
    for kind in (ConditionalNorm, FiLM, nn.BatchNorm2d, ConditionalNetwork):
        assert not any(issubclass(found, kind) for found in kinds)
    assert not any(module.training for module in plain.modules())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    blocks = [m for m in network.backbone.modules() if hasattr(m, "conv_norm_pairs")]
    if "ResNet" in [type(block).__name__ for block in blocks]:
        expected = 0  # every norm layer follows a convolution
    else:
        # a block's first norm and the last norm of all; the others are in the convolution before
        expected = 1 + sum(hasattr(block, "conv2") for block in blocks)
    assert kinds.count(Affine) == expected


def test_specialized_shares_nothing_with_its_source(network):
    plain = specialize(network, 0.3)
    sources = {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    own = {t.untyped_storage().data_ptr() for t in plain.state_dict().values()}
    assert own.isdisjoint(sources)
    assert {id(m) for m in plain.modules()}.isdisjoint(id(m) for m in network.modules())
    x = images(2, 3)
    expected, source = plain(x), network(x, 0.3)
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data.zero_()
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert torch.equal(network(x, 0.3), source)
    assert not torch.equal(plain(x), expected)


def test_specializing_leaves_the_source_as_it_was(network):
    before = copy.deepcopy(network.state_dict())
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    network.train()
    plain = specialize(network, 0.3)
    assert not plain.training
    assert all(module.training for module in network.modules())
    network.eval()
    assert {name for name, p in network.named_parameters() if p.requires_grad} == trainable
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), float("inf")])
def test_lambda_outside_its_range_is_refused(perturbed, lam):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\]"):
        specialize(perturbed(), lam)


def test_lambda_of_any_kind(perturbed):
    network, x = perturbed(), images(2)
    expected = specialize(network, 1.0)(x)
    for lam in (1, np.float32(1), torch.tensor(1.0), torch.tensor([1])):
        assert torch.equal(specialize(network, lam)(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (96, 96)])
@pytest.mark.parametrize("architecture", ["wrn-10-1", "resnet-18"])
@torch.no_grad()
def test_any_input_size(perturbed, architecture, size):
    network = perturbed(architecture, in_channels=2)
    x = torch.rand((1, 2, *size), generator=torch.Generator().manual_seed(0))
    expected = network(x, 0.3)
    scale = expected.abs().max()
    torch.testing.assert_close(
        specialize(network, 0.3)(x) / scale, expected / scale, atol=1e-4, rtol=0
    )


def test_an_image_alone_has_the_logits_it_has_in_a_batch(network):
    plain, x = specialize(network, 0.3), images(5, 3)
    alone = torch.cat([plain(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, plain(x), rtol=1e-4, atol=1e-4)


def test_gradients_in_the_image_are_those_of_the_conditional_network(network):
    x, y = images(4, 3).requires_grad_(), torch.tensor([0, 1, 2, 6])
    gradients = []
    for model in (specialize(network, 0.3), lambda x: network(x, 0.3)):
        loss = nn.functional.cross_entropy(model(x), y)
        (gradient,) = torch.autograd.grad(loss, x)
        gradients.append(gradient / gradient.abs().max())
    # a ReLU that rounding tips over changes a few numbers
    assert float((gradients[0] - gradients[1]).abs().quantile(0.99)) < 1e-3


class Foreign(nn.Module):
    """A backbone of another package: layers from what it is given, the condition handed on."""

    def __init__(self, num_classes, in_channels, norm, *, conv, linear, width):
        super().__init__()
        self.conv, self.norm = conv(in_channels, round(8 * width), 3), norm(round(8 * width), True)
        self.linear = linear(round(8 * width), num_classes)

    def forward(self, x, condition=None):
        h = torch.relu(self.norm(run_layer(self.conv, x, condition), condition))
        return run_layer(self.linear, h.mean((2, 3)), condition)


def test_a_backbone_of_another_package_is_plain_at_one_lambda(perturbed, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES.registered, "foreign", Foreign)
    network, x = perturbed("foreign", widths=(1.0, 0.5)), images(3)
    for width in (1.0, 0.5):
        for lam in LAMBDAS:
            plain = specialize(network, lam, width)
            torch.testing.assert_close(plain(x), network(x, lam, width), rtol=1e-4, atol=1e-4)
        mixed = lambda_input(network, width)(x, torch.tensor([0.0, 0.05, 1.0]))
        expected = network(x, torch.tensor([0.0, 0.05, 1.0]), width)
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)


# --- what users do with a plain network ---


@pytest.fixture(scope="module", params=["wrn-10-1", "resnet-18"])
def classifier(request, perturbed) -> OAT:
    """An OAT classifier with perturbed weights."""
    info = ModelInfo(
        method="oat",
        dataset="none",
        classes=list("abcd"),
        input_shape=(1, 8, 8),
        network=NetworkCard(architecture=request.param, encoding_dim=8),
        trained_lambdas=list(TRAINED),
        interpolation="linear-codes",
        threat=Threat(),
        seed=0,
        epochs=1,
        selection="last",
    )
    network = perturbed(request.param, trained=TRAINED)
    return OAT.from_state(info, network.state_dict())


def labels(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what the model says: every image starts right."""
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_at_is_specialize(classifier, lam):
    x = images(3)
    assert torch.equal(classifier.at(lam)(x), specialize(classifier.network, lam)(x))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((1.5,), r"lam is 1.5; expected a number in \[0, 1\]"),
        ((float("nan"),), r"lam is nan; expected a number in \[0, 1\]"),
        ((0.5, 0.5), "width is 0.5; the network has only width 1"),
        ((0.5, 0.0), r"width is 0.0; expected a number in \(0, 1\]"),
    ],
)
def test_at_refuses_points_that_do_not_exist(classifier, point, message):
    with pytest.raises(ValueError, match=message):
        classifier.at(*point)


# --- an ordinary network: what torch's own tools do with it


@pytest.fixture(
    scope="module",
    params=[
        *((arch, width) for arch in ("wrn-10-1", "resnet-18") for width in (1.0, 0.5)),
        ("wrn-10-1-stem7", 0.5),
        ("resnet-18-stride2", 1.0),
    ],
    ids=lambda param: f"{param[0]}-{param[1]:g}",
)
def ordinary(request, perturbed) -> nn.Module:
    """The plain network of a width; in a wide residual network norms stay before convolutions."""
    architecture, width = request.param
    model = specialize(perturbed(architecture, in_channels=3, widths=(1.0, 0.5)), 0.3, width)
    unfolded = any(isinstance(module, Affine) for module in model.modules())
    assert unfolded == architecture.startswith("wrn")
    return model


def test_every_layer_maps_one_tensor_to_one(ordinary):
    kinds = {type(module) for module in ordinary.modules()}
    assert {kind for kind in kinds if kind.__module__.startswith("torch.")} <= {
        *(nn.Conv2d, nn.MaxPool2d, nn.Linear, nn.Identity, nn.Dropout, nn.ModuleList)
    }
    for kind in kinds - {nn.ModuleList}:
        assert len(inspect.signature(kind.forward).parameters) == 2, kind  # self and the tensor


def exported(model: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    x = images(2, 3, size=11)
    return torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}).module()


EXACT = {
    # with another batch and, but for export, another size than they were made with
    "trace": lambda model: torch.jit.trace(model, images(2, 3)),
    "script": torch.jit.script,
    "script-frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
    "fx": torch.fx.symbolic_trace,
    "export": exported,
    "compile": lambda model: torch.compile(model, backend="eager", fullgraph=True),
    "vmap": lambda model: torch.func.vmap(lambda image: model(image[None])[0]),
    "channels-last": lambda model: copy.deepcopy(model).to(memory_format=torch.channels_last),
    "double": lambda model: lambda x: copy.deepcopy(model).double()(x.double()).float(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", EXACT)
@torch.no_grad()
def test_a_tool_leaves_what_is_computed(ordinary, tool):
    x = images(5, 3, size=11, seed=1)
    torch.testing.assert_close(EXACT[tool](ordinary)(x), ordinary(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ordinary", [("wrn-10-1", 0.5), ("resnet-18", 0.5)], indirect=True)
@torch.no_grad()
def test_inductor_compiles_it_in_one_piece(ordinary):
    x = images(5, 3)
    fast = torch.compile(ordinary, fullgraph=True)
    torch.testing.assert_close(fast(x), ordinary(x), rtol=1e-4, atol=1e-4)


def quantised_by_fx(model: nn.Module) -> nn.Module:
    """What torch itself has left beside `quantize_dynamic`: pt2e is torchao's now."""
    mapping = QConfigMapping().set_object_type(nn.Linear, default_dynamic_qconfig)
    return convert_fx(prepare_fx(copy.deepcopy(model), mapping, (images(2, 3),)))


COARSE = {
    "quantize_dynamic": lambda model: quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8),
    "quantize_dynamic, script": lambda model: torch.jit.script(
        quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    ),
    "quantize_fx": quantised_by_fx,
    "half": lambda model: lambda x: copy.deepcopy(model).half()(x.half()),
    "bfloat16": lambda model: lambda x: copy.deepcopy(model).bfloat16()(x.bfloat16()),
    "autocast": lambda model: torch.autocast("cpu", dtype=torch.bfloat16)(model),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", COARSE)
@torch.no_grad()
def test_a_coarser_network_computes_about_the_same(ordinary, tool):
    x = images(5, 3, size=11, seed=1)
    logits, expected = COARSE[tool](ordinary)(x), ordinary(x)
    assert (logits.dtype == torch.float32) == tool.startswith("quant")
    assert not torch.equal(logits.float(), expected)
    gap = (logits.float() - expected).norm() / expected.norm()
    assert gap < (0.005 if tool == "half" else 0.03)


def test_deep_copy_and_state_dict(classifier):
    model, x = classifier.at(0.3), images(2)
    twin = copy.deepcopy(model)
    other = classifier.at(1.0)
    other.load_state_dict(model.state_dict())
    expected = model(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(x), expected)
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_torchattacks(classifier, lam):
    assert oat_bench.__version__
    import torchattacks

    model, x = classifier.at(lam), images(8)
    y = labels(model, x)
    attack = torchattacks.PGD(model, eps=0.2, alpha=0.05, steps=8)
    torch.manual_seed(0)
    adversarial = attack(x, y)
    assert not any(module.training for module in model.modules())
    assert float((adversarial - x).abs().max()) <= 0.2 + 1e-6
    loss = nn.functional.cross_entropy
    assert float(loss(model(adversarial), y)) > float(loss(model(x), y))
    assert torch.equal(labels(model, x), y)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_autoattack(classifier, lam):
    from pyautoattack import AutoAttack

    model, x = classifier.at(lam), images(8)
    y = labels(model, x)
    adversary = AutoAttack(
        model, norm="Linf", eps=0.2, seed=0, version="custom", attacks=["apgd-ce"], device="cpu"
    )
    adversary.apgd.n_iter, adversary.apgd.n_restarts = 8, 1
    adversarial, predicted = adversary.run_standard_evaluation(x, y, batch_size=5)
    assert not any(module.training for module in model.modules())
    assert float((adversarial - x).abs().max()) <= 0.2 + 1e-6
    assert torch.equal(labels(model, adversarial), predicted)
    # AutoAttack keeps what it fooled and hands the others back unchanged
    fooled = predicted != y
    assert bool(fooled.any())
    assert torch.equal(adversarial[~fooled], x[~fooled])


def test_robustbench_clean_accuracy(classifier):
    assert oat_bench.__version__
    from robustbench.utils import clean_accuracy

    model, x = classifier.at(0.3), images(9)
    y = labels(model, x)
    assert clean_accuracy(model, x, y, batch_size=4) == 1.0
    y[:3] = (y[:3] + 1) % 4
    assert clean_accuracy(model, x, y, batch_size=4) == pytest.approx(6 / 9)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_art(classifier, lam):
    """ART's FGSM on the plain network is our own."""
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    model, x = classifier.at(lam), images(6)
    y = labels(model, x)
    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=4,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    np.testing.assert_allclose(estimator.predict(x.numpy()), model(x).numpy(), rtol=1e-4, atol=1e-5)
    adversarial = FastGradientMethod(estimator, eps=0.1).generate(x.numpy(), y=y.numpy())
    assert not any(module.training for module in model.modules())
    ours = pgd(model, x, y, eps=0.1, step_size=0.1, steps=1, random_start=False)
    np.testing.assert_allclose(adversarial, ours.numpy(), atol=1e-6)
