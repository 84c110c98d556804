"""The forms of L_a against their formulas: double precision, other libraries, closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stepping import attacked
from torch import nn
from torch.distributions import Categorical, kl_divergence

from oat_bench import datasets
from oat_bench.benchmark import BenchmarkCard
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo
from oat_bench.errors import UserError
from oat_bench.methods.oat import OAT
from oat_bench.networks.card import NetworkCard
from oat_bench.randomness import normal
from oat_bench.training.card import ObjectiveCard, TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.objectives import (
    MMA,
    Budget,
    CrossEntropy,
    Trades,
    kl,
    make_objective,
    shortest_success,
)
from oat_bench.training.pgd import pgd
from oat_bench.training.sampling import Sample

BUDGET = Budget("Linf", eps=0.1, step_size=0.03, steps=6)
IDS = torch.arange(40)


def logits(n=7, classes=5, seed=0, scale=3.0):
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, generator=draw, dtype=torch.float64)


def images(n=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=draw)


class Linear(nn.Module):
    """Logits W x + b of the flattened images."""

    def __init__(self, classes=2, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=draw))
        # the boundary passes through the middle of the images
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum(1))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


# --- losses


def test_cross_entropy_is_minus_the_log_probability():
    clean, attacked, y = logits(), logits(seed=1), torch.arange(7) % 5
    expected = -Categorical(logits=attacked).log_prob(y)
    torch.testing.assert_close(CrossEntropy().loss(attacked, y), expected)
    torch.testing.assert_close(MMA().loss(attacked, y, clean), expected)


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_trades_is_beta_times_the_divergence_of_torch_distributions(beta):
    clean, attacked, y = logits(), logits(seed=1), torch.zeros(7, dtype=torch.long)
    expected = beta * kl_divergence(Categorical(logits=clean), Categorical(logits=attacked))
    torch.testing.assert_close(Trades(beta).loss(attacked, y, clean), expected)
    # and the other way round is another number
    assert not torch.allclose(Trades(beta).loss(clean, y, attacked), expected)
    # and it is that of the authors' code: nn.KLDivLoss, summed
    theirs = nn.KLDivLoss(reduction="sum")(F.log_softmax(attacked, 1), F.softmax(clean, 1))
    torch.testing.assert_close(Trades(beta).loss(attacked, y, clean).sum(), beta * theirs)


def test_the_divergence_of_equal_predictions_is_zero_and_of_extreme_ones_finite():
    p = logits().log_softmax(1)
    torch.testing.assert_close(kl(p, p), torch.zeros(7, dtype=torch.float64))
    far = torch.tensor([[0.0, -300.0]]).log_softmax(1)
    assert torch.isfinite(kl(far, far.flip(1)))


@pytest.mark.parametrize("objective", [CrossEntropy(), Trades(6.0), MMA()])
def test_gradients_are_finite_differences(objective):
    clean, attacked = logits(3, 4).requires_grad_(), logits(3, 4, seed=1).requires_grad_()
    y = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda c, a: objective.loss(a, y, c), (clean, attacked))


# --- attacks


def test_the_attack_of_cross_entropy_is_pgd():
    model, x = Linear(3), images()
    y = torch.arange(40) % 3
    x_adv, counts = CrossEntropy().attack(model, x, y, BUDGET, IDS, seed=5)
    expected = pgd(model, x, y, eps=0.1, step_size=0.03, steps=6, example_ids=IDS, seed=5)
    assert torch.equal(x_adv, expected)
    assert counts.all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_attack_of_trades_is_the_authors_loop(norm):
    model, x, y = Linear(4, seed=2), images(), torch.zeros(40, dtype=torch.long)
    budget = Budget(norm, eps=0.1, step_size=0.03, steps=6)
    x_adv, counts = Trades(6.0).attack(model, x, y, budget, IDS, seed=5)
    assert counts.all()
    expected = x + 0.001 * normal(IDS, (1, 4, 4), 5)
    if norm == "L2":
        assert (x_adv - x).flatten(1).norm(dim=1).max() <= 0.1 + 1e-6
        return
    for _ in range(6):
        expected.requires_grad_()
        target = F.softmax(model(x).detach(), 1)
        loss = F.kl_div(F.log_softmax(model(expected), 1), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, expected)
        expected = (expected + 0.03 * gradient.sign()).detach()
        expected = torch.min(torch.max(expected, x - 0.1), x + 0.1).clamp(0, 1)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_attack_of_trades_raises_the_divergence_and_knows_no_labels(norm):
    model, x = Linear(4, seed=2), images()
    budget = Budget(norm, eps=0.3, step_size=0.1, steps=6)
    y = torch.arange(40) % 4
    x_adv, _ = Trades(6.0).attack(model, x, y, budget, IDS, seed=5)
    other, _ = Trades(6.0).attack(model, x, y.flip(0), budget, IDS, seed=5)
    assert torch.equal(x_adv, other)
    p = model(x).log_softmax(1)
    start = x + 0.001 * normal(IDS, (1, 4, 4), 5)
    before, after = (kl(p, model(images).log_softmax(1)) for images in (start, x_adv))
    assert (after > 10 * before).all()


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_the_attack_of_mma_finds_the_margin_of_a_linear_classifier(norm, dual):
    """Of two classes the margin is |w x + b| / |w| in the dual norm (Hoelder's inequality)."""
    model, x = Linear(2, seed=1), images()
    w = (model.weight[1] - model.weight[0]).detach()
    value = x.flatten(1) @ w + (model.bias[1] - model.bias[0]).detach()
    margin = value.abs() / w.norm(dual)
    y = (value > 0).long()
    y[:5] = 1 - y[:5]  # these are classified wrong
    eps = margin.quantile(0.5).item()  # between two of the 40
    budget = Budget(norm, eps=eps, step_size=eps, steps=20)
    x_adv, counts = MMA().attack(model, x, y, budget, IDS, seed=3)
    assert torch.equal(x_adv[:5], x[:5])
    assert counts[:5].all()
    order = {"Linf": float("inf"), "L2": 2}[norm]
    length = (x_adv - x).flatten(1).norm(order, dim=1)
    right = slice(5, None)
    # exactly those whose margin is within eps count
    assert torch.equal(counts[right], margin[right] < eps)
    assert 10 < counts[right].sum() < 30
    found = counts[right]
    # no more than a thousandth of the segment beyond the boundary, and wrong there
    assert (length[right][found] >= margin[right][found] - 1e-6).all()
    assert (length[right][found] <= margin[right][found] + eps * 2**-10 + 1e-6).all()
    assert (model(x_adv).argmax(1) != y)[right][found].all()
    torch.testing.assert_close(length[right][~found], torch.full_like(length[right][~found], eps))


def test_mma_searches_in_a_ball_of_eps_max():
    model, x = Linear(2, seed=1), images()
    y = model(x).argmax(1)
    budget = Budget("Linf", eps=0.01, step_size=0.01, steps=10)
    counted = []
    for reach in (1.0, 3.0, 1000.0):
        x_adv, counts = MMA(reach).attack(model, x, y, budget, IDS, seed=3)
        assert (x_adv - x).abs().max() <= reach * 0.01 + 1e-6
        counted.append(int(counts.sum()))
    assert counted[0] < counted[1] < counted[2] == 40


def test_bisection_by_hand():
    """A model of one number: wrong from a third of the way on."""

    def model(x):
        value = x.flatten(1)[:, 0]
        return torch.stack([1 / 3 - value, value - 1 / 3], 1)

    x, x_far, y = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1), torch.zeros(3, dtype=torch.long)
    x[1], x_far[2] = 0.5, 0.25  # one is wrong from the start, one never
    for bisections in (1, 2, 3, 4, 12):
        found, wrong = shortest_success(model, x, x_far, y, bisections)
        # the least multiple of 2^-bisections that is no less than a third
        expected = np.ceil(2**bisections / 3) / 2**bisections
        assert found[:, 0, 0, 0].tolist() == [expected, 0.5, 0.25]
        assert wrong.tolist() == [True, True, False]


# --- in the loop


LAMBDAS = [0, 0.3, 0.8]
THREAT = Threat(eps=0.3, step_size=0.1)


def trainer(seed=0, **card):
    data = datasets.load("digits").train.take(torch.arange(64))
    info = make_info()
    values = {"epochs": 1, "batch_size": 32, "lr": 0.05, "lambdas": LAMBDAS, "attack_steps": 2}
    recipe = TrainingCard(**(values | card))
    return Trainer(ConditionalStep(OAT.build(info).network), recipe, THREAT, data, data, seed=seed)


def make_info():
    return ModelInfo(
        method="oat",
        dataset="digits",
        classes=[str(label) for label in range(10)],
        input_shape=(1, 8, 8),
        network=NetworkCard(architecture="wrn-10-1", encoding_dim=8),
        trained_lambdas=LAMBDAS,
        interpolation="linear-codes",
        threat=THREAT,
        seed=0,
        epochs=1,
        selection="",
    )


@pytest.mark.parametrize("order", ["attack-first", "published"])
@pytest.mark.parametrize("loss", ["trades", "mma"])
def test_a_step_weighs_l_c_and_l_a_by_lambda(loss, order, monkeypatch):
    run = trainer(objective=loss, order=order)
    seen = {}
    attack, logits_of = run.step.objective.attack, run.step._logits

    def watch_attack(model, x, y, budget, **options):
        seen["attacked"] = attack(model, x, y, budget, **options)
        return seen["attacked"]

    def watch_logits(x, sample, width):
        result = logits_of(x, sample, width)
        seen.setdefault("logits", []).append((x, sample, result.detach().double()))
        return result

    kind = type(run.step.objective)
    monkeypatch.setattr(kind, "attack", lambda _, *a, **k: watch_attack(*a, **k))
    monkeypatch.setattr(run.step, "_logits", watch_logits)
    index = next(run._batches(0, 0))
    value = run._step(index).item()

    y = run.data.labels[index]
    z = torch.cat([result for _, _, result in seen["logits"]])
    sample = seen["logits"][0][1]
    lam = sample.lam[:32].double()
    on = lam > 0
    clean, attacked = z[:32], z[32:]
    assert len(attacked) == on.sum()
    l_a = torch.zeros(32, dtype=torch.float64)
    if loss == "trades":
        l_a[on] = 6 * kl_divergence(Categorical(logits=clean[on]), Categorical(logits=attacked))
    else:
        counts = seen["attacked"][1]
        l_a[on] = counts * -Categorical(logits=attacked).log_prob(y[on])
    l_c = -Categorical(logits=clean).log_prob(y)
    assert value == pytest.approx(((1 - lam) * l_c + lam * l_a).mean().item(), rel=1e-5)


def test_warm_up_shrinks_the_ball_of_every_objective():
    for loss in ("cross-entropy", "trades", {"loss": "mma", "eps_max": 0.6}):
        run = trainer(objective=loss, epochs=4, eps_warmup_epochs=2)
        x, y = run.data.inputs(slice(0, 16)), run.data.labels[:16]
        sample = Sample(torch.tensor([0.8]), torch.zeros(16, dtype=torch.long), 0)
        reach = 2 if isinstance(loss, dict) else 1
        for step, share in ((0, 1 / 4), (1, 1 / 2), (3, 1), (9, 1)):
            x_adv, _ = attacked(run, x, y, sample, torch.arange(16), step)
            assert (x_adv - x).abs().max() <= reach * share * THREAT.eps + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["trades", {"loss": "mma", "eps_max": 0.3}])
def test_every_objective_learns_robustness(objective):
    """After eight short epochs the network keeps more than standard training does under attack."""
    data = datasets.load("digits")
    train, validation = data.train.take(torch.arange(800)), data.validation
    info = make_info()
    card = TrainingCard(
        epochs=8, batch_size=32, lr=0.1, lambdas=LAMBDAS, attack_steps=4, objective=objective
    )
    step = ConditionalStep(OAT.build(info).network)
    run = Trainer(step, card, Threat(eps=0.2, step_size=0.06), train, validation)
    last = run.train(show=False).history[-1]
    assert last["SA@0"] > 80
    assert last["SA@0.8"] > 70
    assert last["RA@0.8"] > last["RA@0"] + 10


# --- cards


def test_a_name_alone_or_a_table():
    assert ObjectiveCard.model_validate("trades") == ObjectiveCard(loss="trades")
    assert isinstance(make_objective(ObjectiveCard(), Threat()), CrossEntropy)
    assert make_objective(ObjectiveCard(loss="trades", beta=3), Threat()) == Trades(3.0)
    assert make_objective(ObjectiveCard(loss="mma"), Threat(eps=0.1)) == MMA(1.0)
    wide = ObjectiveCard(loss="mma", eps_max="12/255")
    assert make_objective(wide, Threat(eps="8/255")).reach == pytest.approx(1.5)


def test_the_objective_is_part_of_the_fingerprint_where_it_is_not_the_default():
    card = TrainingCard(epochs=1, lr=0.1, lambdas=[0, 0.5])
    assert "objective" not in card.model_dump()
    spelt = TrainingCard(epochs=1, lr=0.1, lambdas=[0, 0.5], objective="cross-entropy")
    assert card.fingerprint() == spelt.fingerprint()
    prints = {
        TrainingCard(epochs=1, lr=0.1, lambdas=[0, 0.5], objective=objective).fingerprint()
        for objective in ("cross-entropy", "trades", {"loss": "trades", "beta": 3}, "mma")
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("hinge", "'cross-entropy', 'trades' or 'mma'"),
        ({"loss": "mma", "beta": 1}, 'beta is of loss = "trades", not of "mma"'),
        ({"eps_max": 0.1}, 'eps_max is of loss = "mma", not of "cross-entropy"'),
        ({"loss": "trades", "beta": 0}, "greater than 0"),
        ({"loss": "trades", "gamma": 0}, "Extra inputs"),
        ("trades", "no labels at lambda = 1"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        TrainingCard(epochs=1, lr=0.1, lambdas=[0, 1], objective=objective)


def test_mma_needs_a_ball():
    with pytest.raises(UserError, match=r"needs a threat\.eps above 0"):
        make_objective(ObjectiveCard(loss="mma"), Threat(eps=0))


def test_trades_at_lambda_1_is_refused_of_dedicated_networks_but_not_of_a_continuum():
    training = {
        "epochs": 1,
        "lr": 0.1,
        "lambdas": [0, 0.5, 1],
        "lambda_sampling": "uniform",
        "objective": "trades",
    }
    values = {"name": "card", "dataset": "digits", "network": {"architecture": "wrn-10-1"}}
    card = BenchmarkCard.model_validate(values | {"training": training})
    with pytest.raises(UserError, match="'pgd-at': lambda = 1 has no labels"):
        card.with_method("pgd-at")
