"""The loop with several widths: OATS, the paper's Algorithm 2."""

import copy
from itertools import pairwise

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from stepping import attacked

from oat_bench import datasets
from oat_bench.cards import Threat
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.training import conditional, loop
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.pgd import pgd
from oat_bench.training.sampling import Sample, sample_lambda

LAMBDAS = [0, 0.2, 1]
WIDTHS = [1, 0.75, 0.25]
THREAT = Threat(eps=0.3, step_size=0.1)


def trainer(folder=None, norm="dual", heads="shared", n=96, n_validation=40, **card):
    values = {"epochs": 2, "batch_size": 32, "lr": 0.05, "lambdas": LAMBDAS, "attack_steps": 2}
    network_card = NetworkCard(architecture="wrn-10-1", widths=WIDTHS, norm=norm, heads=heads)
    network = ConditionalNetwork(network_card, 10, 1, LAMBDAS)
    data = datasets.load("digits")
    return Trainer(
        ConditionalStep(network),
        TrainingCard(**(values | card)),
        THREAT,
        data.train.take(torch.arange(n)),
        data.validation.take(torch.arange(n_validation)),
        folder=folder,
    )


def vector(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("order", ["attack-first", "published"])
@pytest.mark.parametrize(("norm", "heads"), [("dual", "shared"), ("single", "per-width")])
def test_one_step_minimises_the_mean_over_widths(order, norm, heads):
    """Algorithm 2 written out, pass by pass, with autograd over all of it at once."""
    run = trainer(norm=norm, heads=heads, weight_decay=0.0, momentum=0.0, order=order)
    reference = copy.deepcopy(run.step.network)
    index = next(run._batches(0, 0))
    x, y = run.data.inputs(index), run.data.labels[index]
    sample = sample_lambda(run.card, index, run.seed, conditional._LAMBDA)
    lam = sample.lam
    loss = run._step(index)

    on = lam > 0
    expected = 0.0
    for width in WIDTHS:
        if order == "published":  # the clean pass moves the statistics before the attack
            clean = reference.train()(x, lam, width)

        def at_width(images, width=width):
            return reference.eval()(images, lam[on], width)

        x_adv = pgd(
            at_width,
            x[on],
            y[on],
            eps=THREAT.eps,
            step_size=THREAT.step_size,
            steps=2,
            example_ids=index[on],
            seed=loop.generator(run.seed, 0).initial_seed(),
        )
        attacked = torch.zeros(len(x), 10)
        if order == "published":
            attacked[on] = reference.train()(x_adv, lam[on], width)
        else:
            both = reference.train()(torch.cat([x, x_adv]), torch.cat([lam, lam[on]]), width)
            clean, attacked[on] = both[: len(x)], both[len(x) :]
        terms = (1 - lam) * F.cross_entropy(clean, y, reduction="none")
        terms = terms + lam * F.cross_entropy(attacked, y, reduction="none")
        expected = expected + terms.mean() / len(WIDTHS)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for trained, start in zip(run.step.network.parameters(), reference.parameters(), strict=True):
        gradient = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(
            trained.detach(), start.detach() - 0.05 * gradient, rtol=1e-3, atol=1e-5
        )
    for trained, own in zip(run.step.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(trained, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["cross-entropy", "trades"])
def test_one_step_of_one_loss_an_image(objective):
    """Which images are attacked is read off; the rest is written out, with autograd over it."""
    run = trainer(
        weight_decay=0.0, momentum=0.0, loss_sampling="one", objective=objective, lambdas=[0, 0.5]
    )
    reference = copy.deepcopy(run.step.network)
    index = next(run._batches(0, 0))
    x, y = run.data.inputs(index), run.data.labels[index]
    lam = sample_lambda(run.card, index, run.seed, conditional._LAMBDA).lam
    drawn, expected = [], 0.0
    original = conditional.one_loss

    def watched(*args, **options):
        drawn.append(original(*args, **options).attacked)
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditional, "one_loss", watched)
        loss = run._step(index)
    assert len(drawn) == len(WIDTHS)
    assert len({tuple(chosen.tolist()) for chosen in drawn}) > 1  # every width draws its own
    for width, chosen in zip(WIDTHS, drawn, strict=True):
        start = loop.generator(run.seed, 0).initial_seed()
        x_adv, _ = run.step.objective.attack(
            lambda images, width=width: reference.eval()(images, 0.5, width),
            x[chosen],
            y[chosen],
            run._budget(1.0),
            example_ids=index[chosen],
            seed=start,
        )
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[chosen] = False
        if objective == "trades":  # the divergence is from the clean image's own prediction
            z = reference.train()(torch.cat([x, x_adv]), torch.cat([lam, lam[chosen]]), width)
            clean, attacked = z[: len(x)].log_softmax(1), z[len(x) :].log_softmax(1)
            p = clean[chosen].exp()
            l_a = 6 * (p * (clean[chosen] - attacked)).sum(1)
            l_c = F.nll_loss(clean[kept], y[kept], reduction="none")
        else:
            everything = torch.cat([x[kept], x_adv]), torch.cat([lam[kept], lam[chosen]])
            z = reference.train()(*everything, width)
            l_c = F.cross_entropy(z[: kept.sum()], y[kept], reduction="none")
            l_a = F.cross_entropy(z[kept.sum() :], y[chosen], reduction="none")
        expected = expected + (l_c.sum() + l_a.sum()) / len(x) / len(WIDTHS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    expected.backward()
    for trained, start in zip(run.step.network.parameters(), reference.parameters(), strict=True):
        gradient = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(
            trained.detach(), start.detach() - 0.05 * gradient, rtol=1e-3, atol=1e-5
        )


def test_each_width_is_attacked_where_it_is_weak():
    """The images differ from width to width, from the same random start."""
    run = trainer()
    x, y = run.data.inputs(slice(0, 16)), run.data.labels[:16]
    sample = Sample(torch.tensor([1.0]), torch.zeros(16, dtype=torch.long), 0)
    index = torch.arange(16)
    found = [attacked(run, x, y, sample, index, 0, width)[0] for width in WIDTHS]
    for one, other in pairwise(found):
        assert float((one != other).float().mean()) > 0.2


def test_the_frozen_twin_of_each_width_follows_the_optimiser():
    run = trainer(epochs=1)
    run.train(show=False)
    x = run.data.inputs(slice(0, 8))
    values = torch.tensor([float(lam) for lam in LAMBDAS])
    sample = Sample(values, torch.tensor([0, 0, 1, 1, 1, 2, 2, 2]), 2)
    with torch.no_grad():
        for width in WIDTHS:
            twin = run.step.frozen(x, run.step.network.fold(run.step.condition(sample, width)))
            expected = run.step.network.eval()(x, sample.lam, width)
            torch.testing.assert_close(twin, expected, rtol=1e-4, atol=1e-4)


def test_every_width_is_validated_and_logged(tmp_path):
    run = trainer(folder=tmp_path, selection="best", epochs=3)
    history = run.train(show=False).history
    log = pd.read_csv(tmp_path / "log.csv")
    columns = [f"{a}@{lam:g} x{w:g}" for w in WIDTHS for lam in LAMBDAS for a in ("SA", "RA")]
    assert list(log)[3:-1] == columns
    scores = [
        sum(
            (1 - lam) * row[f"SA@{lam:g} x{w:g}"] + lam * row[f"RA@{lam:g} x{w:g}"]
            for w in WIDTHS
            for lam in LAMBDAS
        )
        / 9
        for row in history
    ]
    assert run.progress.best == pytest.approx(max(scores))
    assert "over all widths" in run.selection


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    whole = trainer()
    whole.train(show=False)
    first = trainer(folder=tmp_path)
    for index in list(first._batches(0, 0))[:2]:
        first._step(index)
        first.progress.step += 1
    first._save()
    second = trainer(folder=tmp_path)
    second.train(show=False)
    for name, value in whole.step.network.state_dict().items():
        assert torch.equal(value, second.step.network.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "compile"), [("bf16", False), ("float32", True)])
def test_faster_ways_take_the_same_step(precision, compile):
    slow = trainer(precision="float32", compile=False)
    fast = trainer(precision=precision, compile=compile)
    start = vector(slow.step.network)
    index = next(slow._batches(0, 0))
    assert fast._step(index).item() == pytest.approx(slow._step(index).item(), rel=0.02)
    updates = [vector(run.step.network) - start for run in (fast, slow)]
    assert F.cosine_similarity(*updates, dim=0) > 0.9
