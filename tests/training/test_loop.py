"""The OAT loop: one step against the paper's Eq. 3, schedules, sampling, resume."""

import copy
import math
import multiprocessing
import time

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from stepping import attacked

from oat_bench import datasets
from oat_bench.cards import Threat
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.files import atomic_write
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.tensors import pack, unpack
from oat_bench.training import conditional, loop
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.pgd import pgd
from oat_bench.training.sampling import Sample, sample_lambda

LAMBDAS = [0, 0.2, 1]
THREAT = Threat(eps=0.3, step_size=0.1)


def network(seed=0, **options):
    card = NetworkCard(architecture="wrn-10-1", **options)
    return ConditionalNetwork(card, 10, 1, LAMBDAS, seed=seed)


def digits(n=160, n_validation=40):
    data = datasets.load("digits")
    index = torch.arange(n)
    return data.train.take(index), data.validation.take(torch.arange(n_validation))


def trainer(net=None, folder=None, seed=0, identity="", train=None, validation=None, **card):
    values = {"epochs": 2, "batch_size": 32, "lr": 0.05, "lambdas": LAMBDAS, "attack_steps": 2}
    data = digits()
    return Trainer(
        ConditionalStep(net or network()),
        TrainingCard(**(values | card)),
        THREAT,
        train or data[0],
        validation or data[1],
        seed=seed,
        identity=identity,
        folder=folder,
    )


def same(one, other):
    return all(torch.equal(a, other[key]) for key, a in one.items()) and one.keys() == other.keys()


@pytest.mark.parametrize(
    ("order", "card", "options"),
    [
        ("attack-first", {}, {}),
        ("published", {}, {}),
        ("attack-first", {"lambda_sampling": "uniform"}, {"interpolation": "linear-codes"}),
        ("attack-first", {"lambda_sampling": "uniform"}, {"interpolation": "spherical-codes"}),
        ("published", {"lambda_sampling": "uniform"}, {"interpolation": "film"}),
        ("attack-first", {"lambda_sampling": "uniform"}, {"encoding": "scalar", "norm": "single"}),
        ("attack-first", {"standard_share": 0.5}, {"encoding": "one-hot"}),
        ("attack-first", {"sampling": "per-batch"}, {"encoding": "dct"}),
        ("attack-first", {"sampling": "per-batch", "lambda_sampling": "uniform"}, {}),
    ],
)
def test_one_step_minimises_equation_3(order, card, options):
    card = {"weight_decay": 0.0, "momentum": 0.0, "epochs": 1, "order": order} | card
    run = trainer(network(**options), **card)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that lambda matters from the first step on
        for name, parameter in run.step.network.named_parameters():
            if "film" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
    reference = copy.deepcopy(run.step.network)
    index = next(run._batches(0, 0))
    x, y = run.data.inputs(index), run.data.labels[index]
    lam = sample(run, index, 0).lam
    loss = run._step(index)

    # Eq. 3 written out: the mean over the batch of (1 - lam) L_c + lam L_a
    on = lam > 0
    x_adv = x.clone()
    attacked = torch.zeros(len(x), 10)
    if order == "published":  # the clean pass moves the statistics before the attack
        clean = reference.train()(x, lam)
        x_adv[on] = run_attack(reference.eval(), x[on], y[on], lam[on], index[on], run.seed)
        attacked[on] = reference.train()(x_adv[on], lam[on])
    else:
        x_adv[on] = run_attack(reference.eval(), x[on], y[on], lam[on], index[on], run.seed)
        logits = reference.train()(torch.cat([x, x_adv[on]]), torch.cat([lam, lam[on]]))
        clean, attacked[on] = logits[: len(x)], logits[len(x) :]
    terms = (1 - lam) * F.cross_entropy(clean, y, reduction="none")
    terms = terms + lam * F.cross_entropy(attacked, y, reduction="none")
    expected = terms.mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for trained, start in zip(run.step.network.parameters(), reference.parameters(), strict=True):
        gradient = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(
            trained.detach(), start.detach() - 0.05 * gradient, rtol=1e-4, atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["scalar", "one-hot", "dct", "orthogonal"])
@pytest.mark.parametrize("card", [{}, {"lambda_sampling": "uniform"}])
def test_every_encoding_trains_a_network_that_lambda_tunes(encoding, card):
    train, validation = digits(800, 100)
    net = network(encoding=encoding, encoding_dim=16)
    run = trainer(
        net, train=train, validation=validation, epochs=10, lr=0.1, attack_steps=4, **card
    )
    last = run.train(show=False).history[-1]
    assert last["SA@0"] > 80
    assert last["RA@1"] > last["RA@0"]
    # between the trained values too, from one to the other
    x = validation.inputs()
    with torch.no_grad():
        low, middle, high = (net(x, lam).log_softmax(1) for lam in (0.2, 0.6, 1.0))
    ends = (low - high).abs().mean()
    assert 0 < (low - middle).abs().mean() < 1.5 * ends
    assert 0 < (middle - high).abs().mean() < 1.5 * ends


def vector(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def sample(run, index, step):
    return sample_lambda(run.card, index, run.seed, conditional._LAMBDA + 2 * step)


def at(lam, n):
    return Sample(torch.tensor([float(lam)]), torch.zeros(n, dtype=torch.long), 0)


def run_attack(net, x, y, lam, index, seed):
    return pgd(
        lambda images: net(images, lam),
        x,
        y,
        eps=THREAT.eps,
        step_size=THREAT.step_size,
        steps=2,
        example_ids=index,
        seed=loop.generator(seed, 0).initial_seed(),
    )


def test_the_attack_runs_in_eval_mode_and_leaves_the_statistics_alone():
    run = trainer()
    x, y = run.data.inputs(slice(0, 8)), run.data.labels[:8]
    before = copy.deepcopy(run.step.network.state_dict())
    run.step.network.train()
    attacked(run, x, y, at(0.2, 8), torch.arange(8), 0)
    assert same(before, run.step.network.state_dict())
    assert run.step.network.training
    assert all(p.grad is None for p in run.step.network.parameters())


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_warms_up_then_goes_to_zero(schedule):
    run = trainer(epochs=10, lr=0.1, lr_warmup_epochs=2, lr_schedule=schedule)
    total, warmup = 10 * run.steps_per_epoch, 2 * run.steps_per_epoch
    rates = []
    for step in range(total):
        run._schedule(step)
        rates.append(run.state.optimizer.param_groups[0]["lr"])
    assert rates[:warmup] == pytest.approx([0.1 * (k + 1) / warmup for k in range(warmup)])
    for step in range(warmup, total):
        done = (step - warmup) / (total - warmup)
        left = 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        assert rates[step] == pytest.approx(0.1 * left)


def test_attacks_grow_from_few_long_steps_to_those_of_the_threat():
    run = trainer(epochs=5, attack_steps=5, attack_steps_start=1, eps_warmup_epochs=1)
    budgets = []
    for number in range(5 * run.steps_per_epoch):
        run.progress.epoch, run.progress.step = divmod(number, run.steps_per_epoch)
        budgets.append(run.batch(torch.arange(32)).budget)
    # five steps of 0.1 go 0.5 in all; a single one goes no further than 1.25 eps, which is 0.3
    expected = [(1, 0.375), (2, 0.5 / 2), (3, 0.5 / 3), (4, 0.5 / 4), (5, 0.1)]
    for number, budget in enumerate(budgets):
        share = min(1, (number + 1) / run.steps_per_epoch)
        steps, size = expected[number // run.steps_per_epoch]
        assert budget.steps == steps
        assert (budget.eps, budget.step_size) == pytest.approx((share * 0.3, share * size))
    assert run._budget() == run._budget(1.0, 0.9)  # validation is under the whole attack


def test_eps_warms_up():
    run = trainer(epochs=4, eps_warmup_epochs=2)
    x, y = run.data.inputs(slice(0, 16)), run.data.labels[:16]
    last = 2 * run.steps_per_epoch - 1
    for step in (0, last // 2, last, last + 5):
        x_adv, counts = attacked(run, x, y, at(1, 16), torch.arange(16), step)
        assert counts.all()
        eps = THREAT.eps * min(1, (step + 1) / (last + 1))
        assert (x_adv - x).abs().max() <= eps + 1e-6
        assert (x_adv - x).abs().max() > 0.5 * eps


@pytest.mark.parametrize("lambdas", [[0], [1], [0.3, 1]])
def test_sets_with_and_without_zero_train(lambdas):
    net = ConditionalNetwork(NetworkCard(architecture="wrn-10-1"), 10, 1, lambdas)
    run = trainer(net, lambdas=lambdas, epochs=1)
    drawn = sample(run, torch.arange(64), 0).lam
    assert set(drawn.tolist()) == set(torch.tensor(lambdas).tolist())
    before = copy.deepcopy(net.state_dict())
    run.train(show=False)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    # each route's statistics move only where its lambda are trained
    assert any("bn_c" in name for name in moved) == (0 in lambdas)
    assert any("bn_a" in name for name in moved) == (lambdas != [0])


def test_the_frozen_twin_shares_the_weights():
    run = trainer(epochs=1)
    run.train(show=False)
    x = run.data.inputs(slice(0, 8))
    with torch.no_grad():
        index = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
        drawn = Sample(torch.tensor([float(lam) for lam in LAMBDAS]), index, 2)
        twin = run.step.frozen(x, run.step.network.fold(run.step.condition(drawn, 1.0)))
        torch.testing.assert_close(twin, run.step.network.eval()(x, drawn.lam))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "compile"), [("bf16", False), ("float32", True)])
def test_faster_ways_take_the_same_step(precision, compile):
    slow = trainer(precision="float32", compile=False)
    fast = trainer(precision=precision, compile=compile)
    index = next(slow._batches(0, 0))
    assert fast._step(index).item() == pytest.approx(slow._step(index).item(), rel=0.02)
    start = vector(network())
    updates = [vector(run.step.network) - start for run in (fast, slow)]
    assert F.cosine_similarity(*updates, dim=0) > 0.9


def test_where_compile_fails_training_goes_on_with_one_line(monkeypatch, capfd):
    def broken(function, **_):
        def call(*args):
            raise RuntimeError("no compiler\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    run = trainer(compile=True, epochs=1)
    run.train(show=False)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["torch.compile failed (no compiler); going on without it"]
    reference = trainer(compile=False, epochs=1)
    reference.train(show=False)
    assert same(run.step.network.state_dict(), reference.step.network.state_dict())


def test_every_epoch_visits_every_image_once_in_a_new_order():
    run = trainer(batch_size=48)
    first = torch.cat(list(run._batches(0, 0)))
    second = torch.cat(list(run._batches(1, 0)))
    assert sorted(first.tolist()) == list(range(160)) == sorted(second.tolist())
    assert first.tolist() != second.tolist()


def test_a_last_batch_of_one_image_joins_no_step():
    train, _ = digits(65)
    run = trainer(train=train, epochs=1)
    assert [len(batch) for batch in run._batches(0, 0)] == [32, 32]
    run.train(show=False)


def test_training_learns_and_lambda_matters():
    train, validation = digits(800, 100)
    once = {"epochs": 5, "validate_every": 5, "lr": 0.1}
    run = trainer(train=train, validation=validation, **once)
    last = run.train(show=False).history[-1]
    assert last["SA@0"] > 80
    assert last["RA@1"] > last["RA@0"] + 5
    assert not run.step.network.training


def test_moving_average_is_the_closed_form_and_is_what_is_kept():
    run = trainer(ema_decay=0.7, epochs=1)
    average = None
    for index in run._batches(0, 0):
        run._step(index)
        now = {k: v.clone().double() for k, v in run.step.network.named_parameters()}
        # the average starts at the first weights after a step
        average = now if average is None else {k: 0.7 * average[k] + 0.3 * now[k] for k in now}
        run.progress.step += 1
    kept = dict(run.evaluated.named_parameters())
    for name, value in average.items():
        torch.testing.assert_close(kept[name].double(), value, rtol=1e-4, atol=1e-6)
    other = trainer(ema_decay=0.7, epochs=1)
    other.train(show=False)
    assert "moving average" in other.selection
    for name, value in other.step.network.named_parameters():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)


def test_best_keeps_the_epoch_of_the_highest_score_ties_to_the_later(monkeypatch):
    run = trainer(selection="best", epochs=4)
    scores = iter([50.0, 90.0, 90.0, 70.0])
    states = []

    def fake():
        states.append({k: v.clone() for k, v in run.step.network.state_dict().items()})
        score = next(scores)
        return {f"{kind}@{lam:g}": score for lam in LAMBDAS for kind in ("SA", "RA")}

    monkeypatch.setattr(run, "_validate", fake)
    run.train(show=False)
    assert same(run.step.network.state_dict(), states[2])
    assert "epoch 3" in run.selection


def test_best_weighs_sa_by_one_minus_lambda_and_ra_by_lambda():
    run = trainer(selection="best")
    run._select({"SA@0": 90, "RA@0": 1, "SA@0.2": 80, "RA@0.2": 30, "SA@1": 5, "RA@1": 40})
    assert run.progress.best == pytest.approx((90 + (0.8 * 80 + 0.2 * 30) + 40) / 3)


def test_validation_does_not_depend_on_how_many_images_it_holds():
    run = trainer()
    at_once = run._validate()
    assert list(at_once) == [f"{kind}@{lam:g}" for lam in LAMBDAS for kind in ("SA", "RA")]
    run.card = run.card.model_copy(update={"batch_size": 7})
    assert run._validate() == at_once
    images, labels = run.validation.inputs(), run.validation.labels
    for lam in LAMBDAS:
        right = run.step.network.eval()(images, lam).argmax(1) == labels
        assert at_once[f"SA@{lam:g}"] == pytest.approx(100 * right.double().mean().item())


def test_every_epoch_augments_anew_and_the_step_sees_it(monkeypatch):
    run = trainer(augmentation="crop", crop_padding=2, epochs=3)
    seen = []

    def watch(split, index, card, **draw):
        images = inputs(split, index, card, **draw)
        seen.append((draw["epoch"], dict(zip(index.tolist(), images, strict=True))))
        return images

    inputs = loop.augmentation.inputs
    monkeypatch.setattr(loop.augmentation, "inputs", watch)
    run.train(show=False)
    assert [epoch for epoch, _ in seen] == sorted([0, 1, 2] * run.steps_per_epoch)
    by_epoch = [{}, {}, {}]
    for epoch, images in seen:
        by_epoch[epoch] |= images
    same = sum(torch.equal(by_epoch[0][example], by_epoch[1][example]) for example in range(160))
    assert same < 32  # one in 25 by chance, more where the margins are black


@pytest.mark.parametrize(
    "extra",
    [
        {"lr_schedule": "linear", "attack_steps_start": 1, "loss_sampling": "one"},
        {"ema_decay": 0.9, "selection": "best"},
        {"augmentation": "crop-flip", "crop_padding": 1},
    ],
)
def test_a_run_broken_at_any_step_ends_with_the_same_weights(tmp_path, monkeypatch, extra):
    whole = trainer(epochs=3, folder=tmp_path / "whole", **extra)
    whole.train(show=False)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)  # a state after every step
    folder = tmp_path / "broken"
    for stop in (1, 4, 6, 11):
        run = trainer(epochs=3, folder=folder, **extra)
        step = run._step

        def breaking(index, step=step, run=run, stop=stop):
            if run.progress.epoch * run.steps_per_epoch + run.progress.step == stop:
                raise KeyboardInterrupt
            return step(index)

        run._step = breaking
        with pytest.raises(KeyboardInterrupt):
            run.train(show=False)
    final = trainer(epochs=3, folder=folder, **extra)
    final.train(show=False)
    assert same(whole.step.network.state_dict(), final.step.network.state_dict())
    assert whole.selection == final.selection
    logs = [
        pd.read_csv(tmp_path / name / "log.csv").drop(columns="seconds")
        for name in ("whole", "broken")
    ]
    pd.testing.assert_frame_equal(*logs)
    assert logs[0]["epoch"].tolist() == [1, 2, 3]


def train_to_the_end(folder):
    """Train in a process of its own, with a state after each step; write the weights."""
    torch.set_num_threads(1)
    loop.SAVE_EVERY = 0.0
    run = trainer(epochs=4, folder=folder)
    run.train(show=False)
    atomic_write(folder / "final.safetensors", pack(run.step.network.state_dict(), {}))


def test_kill_dash_nine_at_any_moment_and_the_same_weights_in_the_end(tmp_path):
    # processes are forked from one that has imported what takes long
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([loop.__name__, "sklearn.datasets"])

    def start(folder):
        process = processes.Process(target=train_to_the_end, args=(folder,))
        process.start()
        return process

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = start(whole)
    unbroken.join()
    assert unbroken.exitcode == 0
    kills = 0
    for delay in (0.0, 0.07, 0.23):
        process = start(broken)
        state = broken / "training.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(delay)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
    assert kills >= 2
    last = start(broken)
    last.join()
    assert last.exitcode == 0
    ends = [unpack(folder / "final.safetensors")[0] for folder in (whole, broken)]
    assert same(*ends)


def test_a_state_of_another_run_is_refused(tmp_path):
    trainer(folder=tmp_path, identity="one", epochs=1).train(show=False)
    with pytest.raises(
        UserError, match="belongs to a run with another card, data set, seed or --from"
    ):
        trainer(folder=tmp_path, identity="two", epochs=1).train(show=False)


def test_seeds_differ_and_repeat():
    weights = []
    for seed in (0, 0, 1):
        run = trainer(seed=seed, epochs=1)
        run.train(show=False)
        weights.append(run.step.network.state_dict())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_too_few_images_are_refused():
    one = Split(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="1 training images"):
        trainer(train=one)


SMALL = {
    "oat": {},
    "oat-single-bn": {"norm": "single"},
    "oats": {"widths": (1.0, 0.5)},
    "pgd-at": {"trained_lambdas": [1], "norm": "single", "film": "none", "encoding": "scalar"},
    "standard": {"trained_lambdas": [0], "norm": "single", "film": "none", "encoding": "scalar"},
}


@pytest.mark.parametrize("order", ["attack-first", "published"])
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("n", "batch_size"), [(2, 2), (3, 2), (6, 6), (34, 32)])
def test_any_number_of_images_trains_on_maps_of_one_pixel(order, kind, n, batch_size):
    """4x4 images leave a wide residual network's last stage 1x1."""
    options = {"trained_lambdas": LAMBDAS, "encoding_dim": 4} | SMALL[kind]
    lambdas = options.pop("trained_lambdas")
    network_card = NetworkCard(architecture="wrn-10-1", **options)
    net = ConditionalNetwork(network_card, 10, 1, lambdas)
    images = torch.randint(256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(n))
    data = Split(images.to(torch.uint8), torch.arange(n) % 10)
    values = {"epochs": 1, "batch_size": batch_size, "lr": 0.05, "attack_steps": 1}
    card = TrainingCard(**values, lambdas=lambdas, order=order)
    before = vector(net)
    history = Trainer(ConditionalStep(net), card, THREAT, data, data).train(show=False).history
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    assert not torch.equal(vector(net), before)


def test_resnet_trains_on_8x8_by_batches_of_six():
    train, _ = digits(12)
    lambdas = [0, 0.1, 0.2, 0.3, 0.4, 1]
    net = ConditionalNetwork(NetworkCard(architecture="resnet-18"), 10, 1, lambdas)
    run = trainer(net, train=train, validation=train, epochs=1, batch_size=6, lambdas=lambdas)
    assert sample(run, torch.arange(6), 0).n_standard == 1
    assert math.isfinite(run.train(show=False).history[-1]["loss"])
