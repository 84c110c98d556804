"""Steps split into micro-batches: the same gradients, within the memory that a card states."""

import copy
import math
import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from test_loop import THREAT, digits, network, run_attack, same, trainer
from torch import nn

from oat_bench import run as runs
from oat_bench.checkpoint import load
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.training import conditional, loop, memory
from oat_bench.training.card import TrainingCard, in_bytes
from oat_bench.training.memory import LEAST, Cost, Live, limits
from oat_bench.training.sampling import sample_lambda
from oat_bench.training.step import TrainingStep


def split(run, micro_batch=LEAST):
    run.progress.micro_batch = micro_batch
    return run


def moved(net):
    """Draw FiLM and statistics, so that lambda and batch norm matter from the first step on."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "film" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
        for lam in (0.0, 1.0):
            net.train()(torch.rand(16, 1, 8, 8, generator=drawn), lam)
    return net.eval()


# --- the step


@pytest.mark.parametrize(
    ("card", "options"),
    [
        ({}, {}),
        ({"loss_sampling": "one"}, {}),
        ({"sampling": "per-batch"}, {}),
        ({"lambda_sampling": "uniform"}, {"norm": "single"}),
        ({"objective": "trades", "lambdas": [0, 0.2, 0.5]}, {}),
    ],
)
def test_gradients_are_those_of_one_graph_whose_batch_norms_see_parts(card, options):
    """Everything is attacked at once and differentiated at once; only batch norm sees parts."""
    values = {"weight_decay": 0.0, "momentum": 0.0, "epochs": 1} | card
    run = split(trainer(moved(network(**options)), **values))
    reference = copy.deepcopy(run.step.network)
    index = next(run._batches(0, 0))
    x, y = run.data.inputs(index), run.data.labels[index]
    lam = sample_lambda(run.card, index, run.seed, conditional._LAMBDA).lam
    seen, images = [], {}
    attack = run.step.attack

    def watched(batch, sample, width, some):
        found, counts = attack(batch, sample, width, some)
        seen.append((batch.ids, batch.ids[some]))
        images.update(zip(batch.ids[some].tolist(), found, strict=True))
        return found, counts

    run.step.attack = watched
    loss = run._step(index)

    on = torch.isin(index, torch.cat([ids for _, ids in seen]))
    if card.get("loss_sampling") != "one":
        assert torch.equal(on, lam > 0)
    start, parts = copy.deepcopy(reference.state_dict()), [torch.arange(32)[k::4] for k in range(4)]
    assert [ids.tolist() for ids, _ in seen] == [index[part].tolist() for part in parts]
    x_adv = x.clone()
    for part in parts:  # by the network as it was before the step; a part each, to round alike
        hit = part[on[part]]
        if run.card.objective.loss == "trades":
            x_adv[hit], _ = run.step.objective.attack(
                lambda images, hit=hit: reference.eval()(images, lam[hit]),
                x[hit],
                y[hit],
                run._budget(1.0),
                example_ids=index[hit],
                seed=loop.generator(run.seed, 0).initial_seed(),
            )
        elif len(hit):
            x_adv[hit] = run_attack(reference.eval(), x[hit], y[hit], lam[hit], index[hit], 0)
    found = torch.stack([images[int(i)] for i in index[on]]) if on.any() else x_adv[on]
    differ = (found - x_adv[on]).abs() > 1e-6
    # TRADES starts where the gradient is next to zero, and a few of its signs are rounding's
    assert differ.sum() <= (0.02 * found.numel() if run.card.objective.loss == "trades" else 0)
    x_adv[on], expected, statistics = found, 0.0, {}
    reference.train()
    for part in parts:
        hit = part[on[part]]
        clean = part[~on[part]] if card.get("loss_sampling") == "one" else part
        logits = reference(torch.cat([x[clean], x_adv[hit]]), torch.cat([lam[clean], lam[hit]]))
        of_clean, attacked = logits.split([len(clean), len(hit)])
        l_c = F.cross_entropy(of_clean, y[clean], reduction="none")
        l_a = F.cross_entropy(attacked, y[hit], reduction="none")
        if run.card.objective.loss == "trades":
            p, q = of_clean[on[part]].log_softmax(1), attacked.log_softmax(1)
            l_a = 6 * (p.exp() * (p - q)).sum(1)
        if card.get("loss_sampling") == "one":
            expected = expected + l_c.sum() + l_a.sum()
        else:
            expected = expected + ((1 - lam[part]) * l_c).sum() + (lam[hit] * l_a).sum()
        for name, buffer in reference.named_buffers():
            mean = statistics.get(name, 0) + buffer.double() / len(parts)
            statistics[name] = mean
            buffer.data.copy_(start[name])
    expected = expected / len(index)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for trained, own in zip(run.step.network.parameters(), reference.parameters(), strict=True):
        gradient = torch.zeros_like(own) if own.grad is None else own.grad
        torch.testing.assert_close(trained, own - 0.05 * gradient, rtol=1e-4, atol=1e-6)
    for name, buffer in run.step.network.named_buffers():
        torch.testing.assert_close(buffer.double(), statistics[name], rtol=1e-5, atol=1e-6)


def test_statistics_of_images_on_which_batch_norm_is_linear_are_those_of_the_whole_step():
    """A running mean is linear in the images: split or not, it is the same."""
    norm = nn.BatchNorm2d(3)
    norm.running_mean.normal_()
    whole, x = copy.deepcopy(norm), torch.randn(12, 3, 4, 4)
    whole(x)
    statistics = memory.Statistics(norm)
    for part in range(3):
        norm(x[part::3])
        statistics.take(1 / 3)
    statistics.settle()
    torch.testing.assert_close(norm.running_mean, whole.running_mean)
    assert norm.num_batches_tracked == whole.num_batches_tracked == 1


@pytest.mark.parametrize("n", [64, 61, 17])
@pytest.mark.parametrize("micro_batch", [8, 20])
def test_parts_have_the_lambda_of_the_step_in_the_same_shares(n, micro_batch):
    train, _ = digits(n)
    run = split(trainer(train=train, batch_size=64, loss_sampling="one"), micro_batch)
    index = next(run._batches(0, 0))
    whole = sample_lambda(run.card, index, run.seed, conditional._LAMBDA)
    seen, attacked = {}, []
    original = run.step.sample_losses

    def watched(batch, sample, width):
        losses = original(batch, sample, width)
        lam = sample.lam
        assert len(lam) <= micro_batch
        assert abs(sample.n_standard - whole.n_standard * len(lam) / n) < 1
        assert abs(len(losses.attacked) - lam.sum()) < 1 + 1e-4
        seen.update(zip(batch.ids.tolist(), lam.tolist(), strict=True))
        attacked.append(len(losses.attacked))
        return losses

    run.step.sample_losses = watched
    run._step(index)
    assert seen == dict(zip(index.tolist(), whole.lam.tolist(), strict=True))
    # the parts' draws complement each other: few images too many in one are too few in another
    assert abs(sum(attacked) - whole.lam.sum()) < len(attacked) / 2 + 1


class Foreign(TrainingStep):
    """A step that knows nothing of parts."""

    def __init__(self):
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def losses(self, batch):
        yield F.cross_entropy(self.network(batch.x), batch.y)


def test_a_step_of_another_package_is_split_too():
    weights = []
    for micro_batch in (0, 10):
        torch.manual_seed(0)
        data, _ = digits(47)
        run = loop.Trainer(Foreign(), trainer(epochs=1, batch_size=32).card, THREAT, data, data)
        split(run, micro_batch).train(show=False)
        weights.append(run.step.network[1].weight)
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


# --- what fits


def test_live_adds_up_what_operations_return_while_it_lives():
    x, w = torch.randn(100, 50), torch.randn(50, 20, requires_grad=True)
    with Live() as live:
        (x @ w).relu().sum().backward()
    # ReLU's result, and before it the product, after it its gradient; the sum and its gradient
    assert live.peak == 2 * 8000 + 2 * 4
    assert live._bytes == w.grad.nbytes
    with Live() as other:
        for _ in range(10):
            torch.zeros(1000)
    assert other.peak == 4000


def test_a_memory_is_a_size():
    sizes = {"4GiB": 4 << 30, "1.5 GB": 15 * 10**8, "800MiB": 800 << 20, "10MB": 10**7}
    assert {size: in_bytes(size) for size in sizes} == sizes
    for wrong in ("", "4", "4G", "-1GiB", "4gib", "GiB", "1e3MB", "4GiB\n"):
        with pytest.raises(ValueError, match='expected a size such as "4GiB" or "800MiB"'):
            TrainingCard(epochs=1, lr=0.1, memory=wrong)


def test_memory_is_no_part_of_a_fingerprint():
    card = TrainingCard(epochs=1, lr=0.1)
    assert card.model_copy(update={"memory": "1GiB"}).fingerprint() == card.fingerprint()


def test_room_is_what_the_card_states_less_the_images_and_the_process():
    card = TrainingCard(epochs=1, lr=0.1, memory="1GiB")
    held = Split(torch.zeros(10, 3, 100, 100, dtype=torch.uint8), torch.zeros(10).long())
    device = torch.device("cpu")
    other = Split(held.images.clone(), held.labels)
    parts = (held.take(slice(0, 4)), held.take(slice(4, 10)), other)
    assert memory.room(card, device, *parts) == (1 << 30) - memory.PROCESS - 600_000
    free = memory.room(card.model_copy(update={"memory": None}), device)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free < total


def test_limits():
    card = TrainingCard(epochs=1, lr=0.1, batch_size=128)
    cost = Cost(1000, 10.0, 4.0)
    assert limits(cost, 1000 + 300, card, 128) == (30, 30)
    assert limits(Cost(1000, 4.0, 10.0), 1000 + 300, card, 128) == (75, 30)
    assert limits(cost, 10**6, card, 100) == (100, 128)
    # of what is free too little is not refused: it may become more
    assert limits(cost, 0, card, 128) == (LEAST, 1)
    bound = card.model_copy(update={"memory": "1MB"})
    assert limits(cost, 1000 + 80, bound, 128) == (8, 8)
    with pytest.raises(UserError) as error:
        limits(cost, 1000 - 2 * 2**20, bound, 128)
    expected = math.ceil((10**6 + 2 * 2**20 + 80) / 2**20)
    assert re.match(
        r"training.memory = 1MB holds 0 of a step's images at once; expected at least "
        rf"{expected}MiB, for 8; or smaller images, or a network with a stem",
        str(error.value),
    )


def test_a_trial_leaves_no_trace_and_says_the_same_again():
    plain = trainer(network(dropout=0.2), epochs=1, precision="float32")
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    tried = trainer(network(dropout=0.2), epochs=1, precision="float32", memory="100GB")
    assert tried._cost(32) == tried._cost(32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(tried.step.network.state_dict(), plain.step.network.state_dict())
    assert all(parameter.grad is None for parameter in tried.step.network.parameters())
    # twice the side, four times as much
    large = Split(torch.zeros(64, 1, 32, 32, dtype=torch.uint8), torch.arange(64) % 10)
    small = Split(torch.zeros(64, 1, 16, 16, dtype=torch.uint8), torch.arange(64) % 10)
    costs = [trainer(train=data, precision="float32")._cost(32) for data in (small, large)]
    assert costs[1].step == pytest.approx(4 * costs[0].step, rel=0.2)
    assert costs[1].validation == pytest.approx(4 * costs[0].validation, rel=0.2)


def test_a_step_whose_first_batch_is_not_attacked_is_tried_with_an_attack(monkeypatch):
    tried = []
    attack = conditional.ConditionalStep.attack

    def watched(self, batch, sample, width, some):
        tried.append(sample.n_standard < len(sample.index))
        return attack(self, batch, sample, width, some)

    monkeypatch.setattr(conditional.ConditionalStep, "attack", watched)
    for seed in range(3):
        run = trainer(seed=seed, sampling="per-batch", standard_share=0.9)
        loop.Trainer(run.step, run.card, THREAT, run.data, run.data, seed=seed, room=1 << 40)
        assert run.step.setting.card.sampling == "per-batch"
    assert tried == [True] * 3


def test_validation_is_the_same_however_few_images_it_takes_at_a_time():
    run = trainer()
    at_once = run._validate()
    run._validated = 7
    assert run._validate() == at_once


def with_room(run, images):
    """The same run, with room for so many images at once."""
    cost = run._cost(32)
    room = int(cost.fixed + images * cost.step + 1)
    values = {"seed": run.seed, "folder": run.folder, "room": room}
    return loop.Trainer(run.step, run.card, THREAT, run.data, run.validation, **values)


def test_a_step_is_split_into_as_few_equal_parts_as_fit(capfd):
    run = with_room(trainer(epochs=1), 15)
    assert run.limit == 15
    sizes = []
    losses = run.step.losses
    run.step.losses = lambda batch: sizes.append(len(batch.x)) or losses(batch)
    run.train(show=False)
    assert set(sizes) == {11, 10}
    assert capfd.readouterr().err.splitlines() == [
        "batch norm over 11 of a step's 32 images, to fit into what is free"
    ]
    whole = with_room(trainer(epochs=1), 32)
    whole.train(show=False)
    assert whole.progress.micro_batch == 0
    assert capfd.readouterr().err == ""


def test_a_run_goes_on_with_the_split_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    whole = with_room(trainer(epochs=2), 10)
    whole.train(show=False)
    broken = with_room(trainer(epochs=2, folder=tmp_path), 10)
    step = broken._step

    def breaking(index):
        if broken._number() == 3:
            raise KeyboardInterrupt
        return step(index)

    broken._step = breaking
    with pytest.raises(KeyboardInterrupt):
        broken.train(show=False)
    bound = trainer(epochs=2, folder=tmp_path, memory="1GiB")
    with pytest.raises(UserError, match=r"began with 8 images at once, of which training.memory"):
        split_by(bound, 7).train(show=False)
    for images in (32, 20):  # more room, and less is not known
        final = with_room(trainer(epochs=2, folder=tmp_path), images)
        final.train(show=False)
        assert final.progress.micro_batch == 8
        assert same(whole.step.network.state_dict(), final.step.network.state_dict())


def split_by(run, limit):
    run.limit = limit
    return run


def test_a_checkpoint_says_how_its_steps_were_split(tmp_path, brief, digits, monkeypatch):
    device = torch.device("cpu")
    once = brief.training.model_copy(update={"epochs": 1})
    brief = brief.model_copy(update={"training": once})
    plain = runs.train(brief, digits, tmp_path / "plain", seed=0, device=device)
    assert plain.info.micro_batch is None
    assert "micro_batch" not in plain.info.model_dump()
    monkeypatch.setattr(runs, "room", lambda *_: 0)
    parted = runs.train(brief, digits, tmp_path / "split", seed=0, device=device)
    assert load(tmp_path / "split").info == parted.info
    assert parted.info.micro_batch == LEAST
    assert parted.info.benchmark_card != plain.info.benchmark_card
    for folder in ("plain", "split"):  # whatever is free now
        again = runs.train(brief, digits, tmp_path / folder, seed=0, device=device)
        assert again.fingerprint() == {"plain": plain, "split": parted}[folder].fingerprint()


MEASURED = """
import re, sys
from pathlib import Path
import torch
from oat_bench.acceleration import keep_freed_memory
from oat_bench.cards import Threat
from oat_bench.datasets import Split
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.training import memory
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer

keep_freed_memory()
architecture, size, bound, precision = sys.argv[1:]
shape = (96, 3, int(size), int(size))
images = torch.randint(256, shape, dtype=torch.uint8)
data = Split(images, torch.arange(96) % 10)
values = dict(lr=0.01, batch_size=96, augmentation="crop", attack_steps=1, precision=precision)
card = TrainingCard(epochs=1, memory=bound, **values)
network = ConditionalNetwork(NetworkCard(architecture=architecture), 10, 3, card.lambdas)
room = memory.room(card, images.device, data, data)
few = data.take(torch.arange(48))
run = Trainer(ConditionalStep(network), card, Threat(), data, few, room=room)
run.train(show=False)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(run.progress.micro_batch, 1024 * peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("architecture", "size", "bound", "precision"),
    [
        ("wrn-16-2-stem7", 224, "1.25GiB", "auto"),
        ("resnet-18-stem7", 128, "1.25GiB", "auto"),
        ("wrn-16-2-stride2", 96, "1GiB", "float32"),
    ],
)
def test_a_process_stays_within_its_memory_and_uses_most_of_it(
    architecture, size, bound, precision
):
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, architecture, str(size), bound]
    said = subprocess.run([*command, precision], check=True, capture_output=True, text=True).stdout
    micro_batch, peak = map(int, said.split())
    assert LEAST <= micro_batch < 96
    assert 0.5 * in_bytes(bound) < peak < in_bytes(bound)
