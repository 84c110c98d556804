"""The in-house PGD against torchattacks, closed forms, and what it promises of its inputs."""

import copy
import itertools

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oat_bench
from oat_bench.training.pgd import pgd

EPS, STEP = 8 / 255, 2 / 255


def make_model(channels: int = 3, size: int = 8, classes: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * size * size, classes),
    ).eval()


def make_batch(n: int = 8, channels: int = 3, size: int = 8, seed: int = 0, classes: int = 5):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand((n, channels, size, size), generator=draw)
    x[0] = 0.0  # at both ends of the box
    x[-1] = 1.0
    return x, torch.randint(classes, (n,), generator=draw)


def torchattacks_result(name: str, model, x, y, seed: int, targeted: bool, **options: float):
    assert oat_bench.__version__
    import torchattacks

    attack = getattr(torchattacks, name)(model, **options)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    torch.manual_seed(seed)
    return attack(x, y)


# --- torchattacks ---


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("eps", "step", "steps"), [(EPS, STEP, 7), (0.3, 0.01, 5), (0.1, 0.3, 4)])
def test_linf_is_torchattacks_pgd_from_the_same_start(targeted, seed, dtype, eps, step, steps):
    model = make_model(seed=seed).to(dtype)
    x, y = make_batch(seed=seed)
    x = x.to(dtype)
    torch.manual_seed(seed)
    noise = torch.empty_like(x).uniform_(-eps, eps)
    start = (x + noise).clamp(0, 1)
    ours = pgd(model, x, y, eps=eps, step_size=step, steps=steps, targeted=targeted, start=start)
    theirs = torchattacks_result(
        "PGD", model, x, y, seed, targeted, eps=eps, alpha=step, steps=steps, random_start=True
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.equal(ours, start)


@pytest.mark.parametrize("targeted", [False, True])
def test_linf_without_random_start_is_torchattacks_pgd_to_the_bit(targeted):
    model, (x, y) = make_model(), make_batch()
    ours = pgd(model, x, y, eps=EPS, step_size=STEP, steps=7, targeted=targeted, random_start=False)
    theirs = torchattacks_result(
        "PGD", model, x, y, 0, targeted, eps=EPS, alpha=STEP, steps=7, random_start=False
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("eps", "step", "steps"), [(0.5, 0.1, 7), (2.0, 0.5, 10), (0.1, 1.0, 3)])
def test_l2_is_torchattacks_pgdl2_from_the_same_start(targeted, seed, eps, step, steps):
    model, (x, y) = make_model(seed=seed), make_batch(seed=seed)
    torch.manual_seed(seed)
    direction = torch.empty_like(x).normal_()
    length = torch.zeros(len(x), 1, 1, 1).uniform_(0, 1)
    direction *= length / direction.flatten(1).norm(dim=1)[:, None, None, None] * eps
    ours = pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=step,
        steps=steps,
        norm="L2",
        targeted=targeted,
        start=(x + direction).clamp(0, 1),
    )
    theirs = torchattacks_result(
        "PGDL2", model, x, y, seed, targeted, eps=eps, alpha=step, steps=steps
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("eps", [1 / 255, EPS, 0.5])
def test_one_step_without_random_start_is_torchattacks_fgsm(targeted, eps):
    model, (x, y) = make_model(), make_batch()
    ours = pgd(model, x, y, eps=eps, step_size=eps, steps=1, random_start=False, targeted=targeted)
    theirs = torchattacks_result("FGSM", model, x, y, 0, targeted, eps=eps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_decay_it_is_torchattacks_mifgsm(targeted, decay, seed):
    model, (x, y) = make_model(seed=seed), make_batch(seed=seed)
    options = {"eps": EPS, "steps": 10}
    ours = pgd(
        model,
        x,
        y,
        **options,
        step_size=EPS / 10,
        decay=decay,
        random_start=False,
        targeted=targeted,
    )
    theirs = torchattacks_result(
        "MIFGSM", model, x, y, 0, targeted, **options, alpha=EPS / 10, decay=decay
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_with_decay_in_l2_it_is_mi_fgm(targeted, decay):
    """Dong et al., arXiv:1710.06081: gradients over their L1 norm are summed (Eq. 6), the step
    goes along the sum (section 3.3, MI-FGM)."""
    model, (x, y) = make_model().double(), make_batch()
    x = 0.4 + 0.2 * x.double()  # the box does not cut
    expected = []
    for image, label in zip(x, y, strict=True):
        point, momentum = image.clone(), torch.zeros_like(image)
        for _ in range(10):
            point = point.detach().requires_grad_()
            loss = F.cross_entropy(model(point[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, point)
            momentum = decay * momentum + gradient / gradient.abs().sum()
            side = -1 if targeted else 1
            point = point + side * 0.03 * momentum / momentum.square().sum().sqrt()
        expected.append(point.detach())
    options = {"eps": 0.3, "step_size": 0.03, "steps": 10, "decay": decay, "random_start": False}
    found = pgd(model, x, y, norm="L2", targeted=targeted, **options)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


def test_momentum_makes_a_difference():
    """Else the comparison above would pass without any."""
    model, (x, y) = make_model(), make_batch()
    options = {"eps": 0.2, "step_size": 0.05, "steps": 10, "random_start": False}
    assert not torch.equal(pgd(model, x, y, **options), pgd(model, x, y, **options, decay=1.0))


# --- closed forms ---


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_linear_model_it_finds_the_optimum(norm, targeted):
    """Two classes with logits (0, w.x): the worst perturbation lies along w, whatever the start."""
    draw = torch.Generator().manual_seed(0)
    w = torch.randn((1, 3, 4, 4), generator=draw)
    x = 0.3 + 0.4 * torch.rand((6, 3, 4, 4), generator=draw)
    y = torch.tensor([0, 1, 0, 1, 1, 0])

    def model(images: torch.Tensor) -> torch.Tensor:
        score = (images * w).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)

    attacked = pgd(model, x, y, eps=0.1, step_size=0.05, steps=60, norm=norm, targeted=targeted)
    steepest = w.sign() if norm == "Linf" else w / w.norm()
    # raising the loss of class 0 raises the score
    side = torch.where((y == 0) != targeted, 1.0, -1.0)[:, None, None, None]
    torch.testing.assert_close(attacked, x + 0.1 * side * steepest, rtol=0, atol=2e-4)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_first_step_by_hand(norm):
    model, (x, y) = make_model(), make_batch()
    x = 0.2 + 0.6 * x
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    attacked = pgd(model, x, y, eps=0.1, step_size=0.05, steps=1, norm=norm, random_start=False)
    lengths = gradient.flatten(1).norm(dim=1)[:, None, None, None]
    direction = gradient.sign() if norm == "Linf" else gradient / lengths
    torch.testing.assert_close(attacked, x + 0.05 * direction, rtol=0, atol=1e-6)


@pytest.mark.parametrize("slope", [1e-36, 1e-20, 1.0, 1e25])
def test_a_step_of_l2_has_its_length_however_small_the_gradient(slope):
    """As a saturated softmax leaves it; the sign of Linf does not mind either."""
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    way = torch.linspace(-1, 1, 16).view(1, 4, 4)
    flat = torch.tensor([1.0, 1.0, 0.0])[:, None, None, None]  # the last has no gradient

    def sloping(images: torch.Tensor) -> torch.Tensor:
        return (slope * flat * way * (images - 0.5)).flatten(1)

    step = {"eps": 0.5, "step_size": 0.25, "steps": 1, "norm": "L2", "random_start": False}
    attacked = pgd(sloping, x, y, **step, loss=lambda rows, _: rows.sum())
    expected = x + 0.25 * flat * way / way.norm()
    torch.testing.assert_close(attacked, expected)


def test_the_loss_is_the_callers():
    model, (x, y) = make_model(), make_batch()
    options = {"eps": EPS, "step_size": STEP, "steps": 5}

    def negative(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy(logits, labels, reduction="sum")

    assert torch.equal(
        pgd(model, x, y, **options, loss=negative), pgd(model, x, y, **options, targeted=True)
    )


def test_random_start_is_uniform_in_the_linf_ball():
    x, y = torch.full((40, 1, 20, 20), 0.5), torch.zeros(40, dtype=torch.long)
    start = pgd(make_model(1, 20), x, y, eps=0.25, step_size=0.1, steps=0)
    offsets = ((start - x) / 0.25).flatten().double().numpy()
    assert scipy.stats.kstest(offsets, "uniform", args=(-1, 2)).pvalue > 0.01


def test_random_start_is_uniform_in_the_l2_ball():
    n = 4000
    x, y = torch.full((n, 1, 2, 3), 0.5), torch.zeros(n, dtype=torch.long)
    start = pgd(nn.Flatten(), x, y, eps=0.25, step_size=0.1, steps=0, norm="L2")
    delta = (start - x).flatten(1).double()
    lengths = delta.norm(dim=1)
    # of six dimensions the share r**6 lies within r
    assert scipy.stats.kstest((lengths.numpy() / 0.25) ** 6, "uniform").pvalue > 0.01
    # a coordinate of a uniform direction in d dimensions: (1 + u) / 2 ~ Beta((d - 1) / 2, same)
    coordinates = ((1 + delta / lengths[:, None]) / 2).numpy()
    for j in range(6):
        assert scipy.stats.kstest(coordinates[:, j], "beta", args=(2.5, 2.5)).pvalue > 0.001
    # a coordinate, and how far it is from zero, tell nothing of the length
    features = np.concatenate([coordinates.T, np.abs(coordinates.T - 0.5)])
    correlation = np.corrcoef(lengths.numpy(), features)[0, 1:]
    assert np.abs(correlation).max() < 4 / n**0.5


# --- the ball and the box ---


@settings(max_examples=150)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    eps=st.one_of(st.just(0.0), st.floats(1e-6, 3)),
    step_size=st.one_of(st.just(0.0), st.floats(1e-6, 5)),
    steps=st.integers(0, 5),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    slope=st.sampled_from([0.0, 1e-30, 1.0, 1e3, 1e20]),
    decay=st.sampled_from([None, 0.0, 1.0]),
    random_start=st.booleans(),
    targeted=st.booleans(),
    binary=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_attacked_images_lie_in_the_ball_and_in_the_box(
    norm, eps, step_size, steps, shape, slope, decay, random_start, targeted, binary, seed
):
    """Also where the gradient vanishes or is huge."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=draw)
    x = x.round() if binary else x
    y = torch.randint(3, shape[:1], generator=draw)
    weight = slope * torch.randn((x[0].numel(), 3), generator=draw)
    before = x.clone()
    attacked = pgd(
        lambda images: images.flatten(1) @ weight,
        x,
        y,
        eps=eps,
        step_size=step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        targeted=targeted,
        decay=decay,
        seed=seed,
    )
    assert attacked.shape == x.shape
    assert attacked.dtype == x.dtype
    assert torch.equal(x, before)
    assert bool(attacked.isfinite().all())
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    delta = (attacked - x).double().flatten(1)
    order = float("inf") if norm == "Linf" else 2
    # rounding of numbers near 1: half of 2**-24 each, sqrt of their count in L2
    assert float(torch.linalg.vector_norm(delta, order, dim=1).max()) <= eps * (1 + 1e-6) + 1e-6
    if eps == 0 or (steps == 0 and not random_start):
        assert torch.equal(attacked, x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_start_outside_the_ball_is_projected(norm):
    model, (x, y) = make_model(), make_batch()
    far = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) * 20 - 10
    attacked = pgd(model, x, y, eps=0.1, step_size=0.1, steps=0, norm=norm, start=far)
    delta = far - x
    if norm == "Linf":
        expected = delta.clamp(-0.1, 0.1)
    else:
        expected = 0.1 * delta / delta.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(attacked, (x + expected).clamp(0, 1))


# --- random numbers belong to the example ---


@settings(max_examples=40)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    decay=st.sampled_from([None, 1.0]),
    steps=st.integers(0, 4),
    seed=st.integers(-5, 2**40),
    chosen=st.lists(st.integers(0, 7), min_size=1, max_size=12),
)
def test_an_attack_does_not_depend_on_the_batch(norm, decay, steps, seed, chosen):
    """Any subset, order and repetition of the examples, by their ids."""
    model, (x, y) = make_model().double(), make_batch()
    x, ids = x.double(), torch.tensor([3, 99, 7, 10**12, 0, -4, 58, 1])
    index = torch.tensor(chosen)
    options = {
        "eps": 0.1,
        "step_size": 0.03,
        "steps": steps,
        "norm": norm,
        "decay": decay,
        "seed": seed,
    }
    whole = pgd(model, x, y, example_ids=ids, **options)
    part = pgd(model, x[index], y[index], example_ids=ids[index], **options)
    if steps == 0:
        assert torch.equal(part, whole[index])
    torch.testing.assert_close(part, whole[index], rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_starts_differ_between_examples_and_seeds(norm):
    x, y = torch.full((5, 1, 4, 4), 0.5), torch.zeros(5, dtype=torch.long)

    def start(seed: int, ids: torch.Tensor | None = None) -> torch.Tensor:
        options = {"eps": 0.1, "step_size": 0.1, "steps": 0, "norm": norm}
        return pgd(nn.Flatten(), x, y, seed=seed, example_ids=ids, **options)

    offsets = torch.cat([start(seed) for seed in (0, 1, 2)]).flatten(1)
    assert float(torch.pdist(offsets).min()) > 0.01
    assert torch.equal(start(0), start(0))
    assert torch.equal(start(0), start(0, torch.arange(5)))
    assert torch.equal(start(0, torch.tensor([2, 2, 2, 2, 2])), start(0)[2].expand(5, 1, 4, 4))


def test_torchs_global_generator_is_left_alone():
    model, (x, y) = make_model(), make_batch()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pgd(model, x, y, eps=EPS, step_size=STEP, steps=2)
    assert torch.equal(torch.rand(4), expected)


# --- what it leaves as it was ---


class Watched(nn.Module):
    """A model with children in both modes that records the modes it is called in."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.body = make_model()
        self.fail_at = fail_at
        self.calls: list[list[bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append([module.training for module in self.modules()])
        if self.fail_at == len(self.calls):
            raise RuntimeError("the model fails")
        return self.body(x)


def prepared(fail_at: int | None = None) -> Watched:
    model = Watched(fail_at).train()
    model.body[1].eval()
    model.body[3].eval()
    model.body[0].weight.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.5)
    return model


def assert_untouched(model: Watched, before: dict[str, torch.Tensor]) -> None:
    modes = {name: module.training for name, module in model.body.named_children()}
    assert modes == {"0": True, "1": False, "2": True, "3": False, "4": True, "5": True}
    assert model.training
    assert model.body.training
    assert not model.body[0].weight.requires_grad
    for name, parameter in model.named_parameters():
        if name != "body.0.weight":
            assert parameter.requires_grad
            assert torch.equal(parameter.grad, torch.full_like(parameter, 0.5))
    assert model.body[0].weight.grad is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.calls
    assert not any(itertools.chain(*model.calls))  # attacked in eval mode, each module of it


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_modes_flags_gradients_and_statistics_are_left_as_they_were(norm):
    model, (x, y) = prepared(), make_batch()
    before = copy.deepcopy(model.state_dict())
    pgd(model, x, y, eps=EPS, step_size=STEP, steps=3, norm=norm)
    assert len(model.calls) == 3
    assert_untouched(model, before)


@pytest.mark.parametrize("fail_at", [1, 3])
def test_also_when_the_model_raises(fail_at):
    model, (x, y) = prepared(fail_at), make_batch()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="the model fails"):
        pgd(model, x, y, eps=EPS, step_size=STEP, steps=5)
    assert_untouched(model, before)
    assert torch.is_grad_enabled()


def test_frozen_parameters_do_not_matter():
    model, (x, y) = make_model(), make_batch()
    expected = pgd(model, x, y, eps=EPS, step_size=STEP, steps=3)
    assert torch.equal(
        pgd(model.requires_grad_(False), x, y, eps=EPS, step_size=STEP, steps=3), expected
    )


def test_works_under_no_grad_and_with_images_that_require_grad():
    model, (x, y) = make_model(), make_batch()
    options = {"eps": EPS, "step_size": STEP, "steps": 3}
    expected = pgd(model, x, y, **options)
    assert not expected.requires_grad
    with torch.no_grad():
        assert torch.equal(pgd(model, x, y, **options), expected)
        assert not torch.is_grad_enabled()
    leaf = x.clone().requires_grad_()
    attacked = pgd(model, leaf, y, **options)
    assert torch.equal(attacked, expected)
    assert not attacked.requires_grad
    assert leaf.grad is None


def test_plain_callables_and_traced_modules_are_models_too(perturbed):
    model, (x, y) = make_model(), make_batch()
    options = {"eps": EPS, "step_size": STEP, "steps": 3}
    expected = pgd(model, x, y, **options)
    assert torch.equal(pgd(lambda images: model(images), x, y, **options), expected)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(pgd(traced, x, y, **options), expected, rtol=0, atol=1e-6)
    network, lam = perturbed(in_channels=3), torch.linspace(0, 1, 8)
    attacked = pgd(network.conditioned(lam, 8), x, y % 4, **options)
    direct = pgd(lambda images: network(images, lam), x, y % 4, **options)
    torch.testing.assert_close(attacked, direct, rtol=0, atol=1e-6)
    assert not torch.equal(attacked, x)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": -0.1}, r"negative eps \(-0.1\)"),
        ({"eps": float("nan")}, r"eps \(nan\)"),
        ({"step_size": -1e-9}, r"step_size \(-1e-09\)"),
        ({"step_size": float("nan")}, r"step_size \(nan\)"),
        ({"steps": -1}, r"steps \(-1\)"),
        ({"norm": "L1"}, "unknown norm 'L1'; expected Linf or L2"),
        ({"norm": "linf"}, "unknown norm 'linf'; expected Linf or L2"),
    ],
)
def test_impossible_parameters_are_refused(changed, message):
    model, (x, y) = make_model(), make_batch()
    options = {"eps": EPS, "step_size": STEP, "steps": 3} | changed
    with pytest.raises(ValueError, match=message):
        pgd(model, x, y, **options)


# --- strength ---


@pytest.fixture(scope="module")
def digit_model():
    """A small network that knows the digits, and test images of them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(bunch.target)
    model = make_model(channels=1, size=8, classes=10).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(120):
        batch = torch.arange(100) + 100 * (step % 12)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x, y = x[1500:1600], y[1500:1600]
    assert float((model(x).argmax(1) == y).float().mean()) > 0.85
    return model, x, y


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.6)])
@pytest.mark.parametrize("random_start", [False, True])
def test_more_steps_raise_the_loss(digit_model, norm, eps, random_start):
    model, x, y = digit_model
    options = {"eps": eps, "step_size": eps / 4, "norm": norm, "random_start": random_start}
    losses, accuracies = [], []
    for steps in (0, 1, 2, 4, 8, 16):
        with torch.no_grad():
            logits = model(pgd(model, x, y, steps=steps, **options))
        losses.append(float(F.cross_entropy(logits, y)))
        accuracies.append(float((logits.argmax(1) == y).float().mean()))
    assert losses[1:5] == sorted(losses[1:5])
    assert losses[0] < losses[1]
    assert losses[5] > 0.99 * losses[4]  # settled
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] < accuracies[0] - 0.3


def test_a_targeted_attack_reaches_its_targets(digit_model):
    model, x, y = digit_model
    targets = (y + 1) % 10
    attacked = pgd(model, x, targets, eps=0.4, step_size=0.05, steps=30, targeted=True)
    assert float((model(attacked).argmax(1) == targets).float().mean()) > 0.9
