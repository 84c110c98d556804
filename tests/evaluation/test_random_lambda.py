"""A random lambda against linear classifiers: expectations by hand, corners by brute force."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from turning import EPS, LAMBDAS, Line, Turning, make_data, ready

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.expectation import expected_losses
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.evaluation import random_lambda, transfer
from oat_bench.evaluation.random_lambda import Draw, attack_expectation
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.training.pgd import pgd

UNIFORM = Draw.of(LAMBDAS)


@pytest.fixture(scope="module")
def data():
    return make_data()


def run(family, data, attack=None, draw=UNIFORM, **options):
    subject = Subject(family, data, **{"data_fingerprint": "dots"} | options)
    return random_lambda.evaluate(subject, draw, attack or ready("pgd-7"), show=False)


def expectation(networks, attack, x, y, ids, chances=None, exact=None):
    """Attack it; all networks alike likely if nothing is said, and the judges of themselves."""
    chances = Draw.of(range(len(networks)), chances).chances
    return attack_expectation(networks, attack, x, y, ids, chances=chances, exact=exact or networks)


def right(frame):
    """Which examples are right clean and attacked: a row an example, a column a lambda."""
    good = (frame["clean_prediction"] == frame["label"]) & (
        frame["attacked_prediction"] == frame["label"]
    )
    return frame.assign(right=good).pivot(index="example", columns="lam", values="right")


# --- the draw


def test_a_draw_is_in_order_and_adds_up():
    assert Draw.of([1.0, 0.0]) == Draw.of([0.0, 1.0], [3, 3]) == Draw((0.0, 1.0), (0.5, 0.5))
    assert Draw.of([1.0, 0.0], [3.0, 1.0]) == Draw((0.0, 1.0), (0.25, 0.75))


# --- the attack


def test_of_two_networks_that_are_one_the_expectation_is_the_network(data):
    network, attack = Turning().at(0.5), ready("pgd-20")
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))
    ours = expectation([network, network], attack, x, y, ids)
    alone = pgd(network, x, y, **attack.parameters, example_ids=ids, seed=0)
    assert torch.equal(ours, alone)


@given(seed=st.integers(0, 2**31))
def test_the_expected_loss_is_the_mean_of_the_losses(seed):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn((5, 3, 4), generator=draw)
    y = torch.randint(0, 4, (5,), generator=draw)
    chances = torch.rand(3, generator=draw)
    each = [nn.functional.cross_entropy(logits[:, place], y, reduction="sum") for place in range(3)]
    expected = (torch.stack(each) * chances).sum()
    torch.testing.assert_close(expected_losses(logits, y, chances).sum(), expected)


@pytest.mark.parametrize("chances", [(0.5, 0.5), (0.9, 0.1), (0.02, 0.98)])
def test_the_attack_finds_the_corner_of_the_ball_with_the_highest_expected_loss(chances):
    """In a ball of two pixels the best corner is found by trying all four."""
    lines = [Line(torch.tensor([1.0, 0.4])), Line(torch.tensor([0.3, -0.9]))]
    draws = torch.Generator().manual_seed(3)
    x = 0.4 + 0.2 * torch.rand((40, 1, 1, 2), generator=draws)
    y = torch.randint(0, 2, (40,), generator=draws)
    attack = ready("pgd-20", restarts=4)
    x_adv = expectation(lines, attack, x, y, torch.arange(40), chances)

    def values(images):
        logits = torch.stack([line(images) for line in lines], 1)
        each = torch.tensor(chances)
        loss = expected_losses(logits, y, each)
        return ((logits.argmax(2) == y[:, None]) * each).sum(1), loss

    corners = [torch.tensor([a, b]).view(1, 1, 1, 2) for a in (-EPS, EPS) for b in (-EPS, EPS)]
    tried = [values(x + corner) for corner in corners]
    highest = torch.stack([loss for _, loss in tried]).amax(0)
    chance, loss = values(x_adv)
    top = torch.isclose(loss, highest)
    # a local optimum is kept only where fewer are right there
    assert top.float().mean() > 0.9
    at_top = torch.stack([c for c, _ in tried]).gather(
        0, torch.stack([loss for _, loss in tried]).argmax(0)[None]
    )[0]
    assert (chance[~top] <= at_top[~top] + 1e-6).all()


@pytest.mark.parametrize("chances", [None, (0.6, 0.3, 0.1)])
def test_restarts_keep_the_image_that_is_least_likely_answered_right(data, chances):
    family = Turning(turn=3.0)
    networks = [family.at(lam) for lam in LAMBDAS]
    judges = [Turning(turn=2.0).at(lam) for lam in LAMBDAS]
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))
    weights = torch.tensor(chances or [1 / 3] * 3)

    def chance(answering, **options):
        attack = ready("pgd-7", step_size=EPS / 8, **options)
        x_adv = expectation(networks, attack, x, y, ids, chances, judges)
        logits = torch.stack([network(x_adv) for network in answering], 1)
        return ((logits.argmax(2) == y[:, None]) * weights).sum(1)

    single = torch.stack([chance(judges, seed=seed) for seed in range(3)])
    assert (single.amin(0) < single[0]).any()  # something to choose from
    assert torch.allclose(chance(judges, restarts=3), single.amin(0))


def test_no_single_lambda_raises_the_expected_loss_as_far(data):
    family, attack = Turning(turn=3.0), ready("pgd-20")
    networks = [family.at(lam) for lam in LAMBDAS]
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))

    def loss(images):
        logits = torch.stack([network(images) for network in networks], 1)
        return expected_losses(logits, y, torch.ones(3) / 3).sum().item()

    ours = loss(expectation(networks, attack, x, y, ids))
    assert loss(x) < ours
    for network in networks:
        assert loss(attack(network, x, y, ids)) < ours


def test_an_image_outside_the_threat_model_is_not_broken(data):
    far = ready("pgd-7", eps=10 * EPS)
    frame = run(Turning(), data, far)
    assert (frame["attacked_prediction"] == frame["clean_prediction"]).all()
    broken = run(Turning(), data)
    assert (broken["attacked_prediction"] != broken["clean_prediction"]).any()


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "apgd-ce"])
def test_other_attacks_are_refused(data, name):
    with pytest.raises(UserError, match="cannot attack the expectation over lambda; expected"):
        run(Turning(), data, ready(name))


# --- what is counted


def test_expected_and_worst_count_what_they_say(data):
    draw = Draw.of(LAMBDAS, [1, 2, 5])
    frame = run(Turning(), data, draw=draw)
    found, table = random_lambda.summarize([frame], draw), right(frame).to_numpy()
    assert found.expected.value == pytest.approx(100 * (table @ [0.125, 0.25, 0.625]).mean())
    assert found.worst.value == pytest.approx(100 * table.all(axis=1).mean())
    assert found.worst.value <= found.expected.value <= found.expected_clean.value
    assert found.worst_clean.value <= found.expected_clean.value
    assert found.expected.low <= found.expected.value <= found.expected.high


def test_the_worst_of_several_attacks_is_that_of_each_image(data):
    family, attack = Turning(turn=3.0), ready("pgd-7")
    subject = Subject(family, data, "dots")
    moved = transfer.transfer(subject, LAMBDAS, LAMBDAS, attack, show=False)
    frames = [run(family, data), *[moved[moved["crafted"] == source] for source in LAMBDAS]]
    all_right = np.stack([right(frame)[LAMBDAS].to_numpy() for frame in frames])
    found = random_lambda.summarize(frames, UNIFORM)
    assert found.expected.value == pytest.approx(100 * all_right.mean(axis=2).min(axis=0).mean())
    assert found.worst.value == pytest.approx(100 * all_right.all(axis=(0, 2)).mean())
    for frame in frames:
        alone = random_lambda.summarize([frame], UNIFORM)
        assert found.expected.value <= alone.expected.value
        assert found.worst.value <= alone.worst.value
        gain = random_lambda.gain(frames[0], frame, UNIFORM)
        ours = random_lambda.summarize(frames[:1], UNIFORM).expected.value
        assert gain.value == pytest.approx(ours - alone.expected.value)
        assert gain.low <= gain.value <= gain.high


# --- nothing is computed twice, and nothing else matters


def test_an_expectation_is_stored_and_read(data, tmp_path):
    family, store = Turning(), OutcomeStore(tmp_path)
    run(family, data, store=store, examples=torch.arange(20))
    known = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    whole = run(family, data, store=store, batch_size=9)
    built = family.built
    again = run(family, data, store=store)
    assert family.built == built
    pd.testing.assert_frame_equal(whole, again)
    pd.testing.assert_frame_equal(whole, run(family, data))
    assert {path: path.stat().st_mtime_ns for path in known} == known
    for cell in [path for path in tmp_path.iterdir() if path.is_dir()]:
        rows = pd.concat([pd.read_parquet(path) for path in cell.glob("*.parquet")])
        assert sorted(rows["example"]) == list(range(len(data)))
    described = {info.crafted for _, info in store.cells()}
    assert described == {"expectation over lambda 0, 0.5, 1"}


def test_another_draw_is_another_cell(data, tmp_path):
    store = OutcomeStore(tmp_path)
    for count, draw in enumerate(
        (UNIFORM, Draw.of(LAMBDAS, [1, 1, 2]), Draw.of([0.0, 0.5])), start=1
    ):
        run(Turning(), data, draw=draw, store=store, examples=torch.arange(4))
        described = {info.crafted for _, info in store.cells()}
        assert len(described) == count
    assert "expectation over lambda 0, 0.5, 1, drawn 0.25, 0.25, 0.5" in described


def test_order_and_batches_do_not_matter_to_a_network(trained, digits):
    card = attack_card("pgd-7")
    card = card.model_copy(update={"parameters": card.parameters | {"restarts": 2}})
    attack = prepare(card, Threat(eps=0.2, step_size=0.05), n_classes=10, seed=0)
    ids, draw = torch.arange(12), Draw.of([0.0, 0.4, 1.0], [1, 2, 3])
    frames = [
        run(trained, digits.test, attack, draw, examples=order, batch_size=size).sort_values(
            ["lam", "example"], ignore_index=True
        )
        for order, size in ((ids, 100), (ids, 3), (ids.flip(0), 15))
    ]
    broken = frames[0]["attacked_prediction"] != frames[0]["label"]
    assert 0 < broken.sum() < len(broken)
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])
