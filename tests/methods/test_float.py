"""FLOAT against its definition: a step written out, its noise, its folded networks."""

import pytest
import torch
import torch.nn.functional as F

from oat_bench import load, run
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.methods.float import FLOAT, FloatNetwork, FloatStep, Noisy
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.drawn import RandomNetwork
from oat_bench.randomness import generator, uniform
from oat_bench.training.card import TrainingCard
from oat_bench.training.objectives import Budget
from oat_bench.training.step import Batch, Setting

CPU = torch.device("cpu")
CARD = FLOAT.network_card(NetworkCard(architecture="wrn-10-1"))
CONVS = [
    "conv1.weight",
    *(
        f"stage{stage}.blocks.0.{conv}.weight"
        for stage in (1, 2, 3)
        for conv in ("conv1", "conv2", *(("shortcut",) if stage > 1 else ()))
    ),
]


def logits_of(state, weights, x, bn, training):
    """WRN-10-1 by hand: pre-activation blocks, the given convolutions, one of two batch norms."""

    def norm(name, h):
        where = f"backbone.{name}.bn_{bn}"
        mean, var = state[f"{where}.running_mean"], state[f"{where}.running_var"]
        affine = state[f"{where}.weight"], state[f"{where}.bias"]
        return F.relu(F.batch_norm(h, mean.clone(), var.clone(), *affine, training=training))

    h = F.conv2d(x, weights["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}.blocks.0", 1 if stage == 1 else 2
        active = norm(f"{block}.norm1", h)
        out = F.conv2d(active, weights[f"{block}.conv1.weight"], stride=stride, padding=1)
        out = norm(f"{block}.norm2", out)
        out = F.conv2d(out, weights[f"{block}.conv2.weight"], padding=1)
        if stage > 1:
            h = F.conv2d(active, weights[f"{block}.shortcut.weight"], stride=stride)
        h = h + out
    pooled = norm("norm", h).mean((2, 3))
    return F.linear(pooled, state["backbone.linear.weight"], state["backbone.linear.bias"])


def noisy(weights, alphas, lam, draw):
    """theta + lam alpha eta, eta ~ N(0, std(theta)^2), one convolution after the other."""
    found = {}
    for name, alpha in zip(CONVS, alphas, strict=True):
        theta = weights[name]
        eta = torch.randn(theta.shape, generator=draw) * theta.detach().std()
        found[name] = theta + lam * alpha * eta
    return found


@pytest.fixture
def network():
    """A network whose numbers all matter."""
    made = FloatNetwork(CARD, 4, 1, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".bn_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        made.alpha.add_(0.2 * torch.randn(made.alpha.shape, generator=draw))
        for name, buffer in made.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.5 * torch.rand(buffer.shape, generator=draw))
    return made


def test_a_step_is_the_mean_of_a_clean_and_an_attacked_half_written_out(network):
    draw = torch.Generator().manual_seed(2)
    x, y = torch.rand((6, 1, 8, 8), generator=draw), torch.tensor([0, 1, 2, 3, 0, 1])
    ids, seed, budget = torch.tensor([5, 3, 9, 2, 7, 4]), 11, Budget("Linf", 0.1, 0.04, 3)
    step = FloatStep(network)
    step.ready(Setting(TrainingCard(epochs=1, lr=0.1), Threat(), 0, CPU, "float32", False))
    state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    network.train()
    losses = []
    for loss in step.losses(Batch(x, y, ids, ids, slice(None), 0, seed, budget)):
        loss.backward()
        losses.append(loss.item())

    weights = {name: state[f"backbone.{name}"].requires_grad_() for name in CONVS}
    alphas = state["alpha"].requires_grad_()
    clean = F.cross_entropy(logits_of(state, weights, x[:3], "c", True), y[:3])
    # PGD on the attacked half: running statistics of BN_a, and other noise at each step
    x_adv = x[3:] + (2 * uniform(ids[3:], (1, 8, 8), seed) - 1) * 0.1
    x_adv = x_adv.clamp(0, 1)
    for number in range(3):
        x_adv = x_adv.detach().requires_grad_()
        drawn = noisy(weights, alphas, 1.0, generator(seed, 1, number))
        loss = F.cross_entropy(logits_of(state, drawn, x_adv, "a", False), y[3:])
        (gradient,) = torch.autograd.grad(loss, x_adv)
        moved = x_adv.detach() + 0.04 * gradient.sign()
        x_adv = (x[3:] + (moved - x[3:]).clamp(-0.1, 0.1)).clamp(0, 1)
    drawn = noisy(weights, alphas, 1.0, generator(seed, 1, -1))
    attacked = F.cross_entropy(logits_of(state, drawn, x_adv, "a", True), y[3:])

    assert losses == pytest.approx([clean.item() / 2, attacked.item() / 2], rel=1e-5)
    (0.5 * clean + 0.5 * attacked).backward()
    torch.testing.assert_close(network.alpha.grad, alphas.grad, rtol=1e-3, atol=1e-6)
    for name in CONVS:
        found = network.backbone.get_parameter(name).grad
        torch.testing.assert_close(found, weights[name].grad, rtol=1e-3, atol=1e-6)
    # each batch norm has met its half, and only that
    moved = dict(network.named_buffers())
    for kind in "ca":
        assert moved[f"backbone.norm.bn_{kind}.num_batches_tracked"] == 1


def classifier_of(network, build_classifier):
    info = build_classifier(num_classes=4).info
    changes = {"method": "float", "network": CARD, "interpolation": "none"}
    return FLOAT(info.model_copy(update=changes | {"trained_lambdas": [0.0, 1.0]}), network)


def test_at_lambda_it_is_the_network_with_scaled_noise_folded(network, build_classifier):
    x = torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    model = classifier_of(network, build_classifier)
    state = network.state_dict()
    weights = {name: state[f"backbone.{name}"] for name in CONVS}
    torch.testing.assert_close(model.at(0.0)(x), logits_of(state, weights, x, "c", False))
    assert not isinstance(model.at(0.0), RandomNetwork)
    for lam in (0.3, 1.0):
        networks, chances = model.at(lam).draws(2, seed=7)
        assert chances.tolist() == [0.5, 0.5]
        for number, drawn in enumerate(networks):
            by_hand = noisy(weights, network.alpha, lam, generator(7, number))
            expected = logits_of(state, by_hand, x, "a", False)
            torch.testing.assert_close(drawn(x), expected, rtol=1e-4, atol=1e-5)
    # lambda = 0 has the other batch norm: the dial jumps there
    torch.manual_seed(0)
    near = model.at(1e-6)(x)
    torch.testing.assert_close(near, logits_of(state, weights, x, "a", False), rtol=1e-3, atol=1e-4)


def test_noise_has_the_spread_of_the_weights():
    plain = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)).eval()
    spread = torch.linspace(0.1, 2, 8 * 8 * 9).reshape(8, 8, 3, 3)
    draws = Noisy(plain, {"0.weight": spread}).draws(300, seed=0).networks
    eta = torch.stack([(one[0].weight - plain[0].weight) / spread for one in draws]).detach()
    assert eta.mean().abs() < 0.01
    assert eta.std() == pytest.approx(1, abs=0.01)
    assert eta.std(0).min() > 0.8
    assert all(torch.equal(one[0].bias, plain[0].bias) for one in draws[:3])


def test_it_trains_lambda_0_and_1_whatever_a_card_samples(brief, digits, tmp_path):
    card = brief.model_copy(
        update={"training": brief.training.model_copy(update={"epochs": 1, "attack_steps": 1})}
    )
    trained = run.train(card.with_method("float"), digits, tmp_path, seed=0, device=CPU)
    info = load(tmp_path).info
    assert info.trained_lambdas == [0.0, 1.0]
    assert (info.interpolation, info.bridge, info.bridged_below) == ("none", None, None)
    assert not info.trained_at(0.5)
    assert trained.network.alpha.grad is not None
    assert (trained.network.alpha != 0.25).all()
    assert "SA@1" in (tmp_path / "log.csv").read_text()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("order", "published", "training.order is 'published'; half of a batch"),
        ("standard_share", 0.3, "training.standard_share is 0.3"),
        ("loss_sampling", "one", "training.loss_sampling is 'one'"),
        ("compile", True, "training.compile is True"),
    ],
)
def test_a_recipe_that_it_has_no_place_for_is_refused(brief, key, value, said):
    training = brief.training.model_copy(update={key: value})
    with pytest.raises(UserError, match=said):
        brief.model_copy(update={"training": training}).with_method("float")
