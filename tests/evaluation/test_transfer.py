"""The lambda adversary against linear classifiers, whose worst image is known in closed form."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oat_bench import cards
from oat_bench.attacks import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation import random_lambda, transfer
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.outcomes import OutcomeStore
from oat_bench.training.pgd import pgd

EPS = 0.05
LAMBDAS = [0.0, 0.5, 1.0]


class Line(nn.Module):
    def __init__(self, w, flat):
        super().__init__()
        self.w, self.flat = w, flat

    def forward(self, x):
        score = (x - 0.5).flatten(1) @ self.w
        if self.flat:  # the sign alone: no gradient
            score = torch.sign(score.detach()) + 0.0 * score
        return torch.stack([-score, score], dim=1) / 2


class Turning(TunableClassifier):
    """Lines whose direction turns with lambda; some give no gradient."""

    def __init__(self, flat=(), turn=2.0):
        self.flat, self.turn = flat, turn
        network = SimpleNamespace(architecture="line")
        self.info = SimpleNamespace(dataset="dots", method="lines", network=network)
        self.built = 0

    def weights(self, lam):
        return torch.cos(torch.arange(9.0) + self.turn * lam)

    def at(self, lam, width=1.0):
        OperatingPoint(lam, width)
        self.built += 1
        return Line(self.weights(lam), lam in self.flat).eval()

    def state_dict(self):
        return {}

    @classmethod
    def from_state(cls, info, state):
        raise NotImplementedError

    def to(self, device):
        return self

    def fingerprint(self):
        return f"turning {self.flat} {self.turn}"


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    # far enough from 0 and 1 that the box never binds
    images = torch.randint(90, 166, (80, 1, 3, 3), generator=draw).to(torch.uint8)
    return Split(images, torch.randint(0, 2, (80,), generator=draw))


def ready(name="fgsm", **changes):
    card = cards.attack(name)
    card = card.model_copy(update={"parameters": card.parameters | changes})
    return prepare(card, Threat(eps=EPS, step_size=EPS), n_classes=2, seed=0)


def run(family, data, attack=None, crafted=LAMBDAS, tested=LAMBDAS, **options):
    return transfer.transfer(
        family,
        data,
        crafted,
        tested,
        attack or ready(),
        data_fingerprint="dots",
        show=False,
        **options,
    )


def margins(family, data, source, lam):
    """How far images attacked at ``source`` lie on the right side at ``lam``."""
    x, sign = data.images.double().flatten(1) / 255 - 0.5, 2.0 * data.labels - 1
    here, there = family.weights(lam).double(), family.weights(source).double()
    clean = (x @ here) * sign
    return clean, clean - EPS * (here @ there.sign())


# --- transfer


@pytest.mark.parametrize("name", ["fgsm", "pgd-7"])
def test_an_image_attacked_elsewhere_moves_by_eps_times_the_signs_there(data, name):
    family = Turning()
    right = transfer.rightness(run(family, data, ready(name)))
    for source in LAMBDAS:
        for lam in LAMBDAS:
            clean, attacked = margins(family, data, source, lam)
            expected = (clean > 0) & (attacked > 0)
            assert right.loc[lam][source].to_list() == expected.tolist()
            assert 0 < expected.sum() < len(data)


def test_the_diagonal_is_the_ordinary_grid(data):
    family, attack = Turning(), ready("pgd-7")
    frame = run(family, data, attack)
    points = [OperatingPoint(lam) for lam in LAMBDAS]
    grid = evaluate(family, data, points, [attack], data_fingerprint="", show=False)
    diagonal = frame[frame["crafted"] == frame["lam"]].drop(columns="crafted")
    columns = ["lam", "example", "label", "clean_prediction", "attacked_prediction"]
    pd.testing.assert_frame_equal(diagonal.reset_index(drop=True), grid[columns])


def test_any_lambda_is_the_worst_of_each_example(data):
    frame = run(Turning(), data)
    right, worst = transfer.rightness(frame), transfer.any_lambda(frame)
    cells = transfer.matrix(frame)
    for lam in LAMBDAS:
        share = right.loc[lam].to_numpy().all(axis=1).mean()
        assert worst[lam].value == pytest.approx(100 * share)
        assert worst[lam].value <= min(cells[(source, lam)].value for source in LAMBDAS)
        for source in LAMBDAS:
            share = right.loc[lam][source].mean()
            assert cells[(source, lam)].value == pytest.approx(100 * share)


def test_a_lambda_without_gradients_is_named_and_an_honest_one_is_not(data):
    assert transfer.masked(run(Turning(turn=0.3), data)) == []
    found = transfer.masked(run(Turning(flat=(0.5,), turn=0.3), data))
    assert {(one.lam, one.crafted) for one in found} == {(0.5, 0.0), (0.5, 1.0)}
    for one in found:
        assert one.only_there > one.only_here == 0
        assert one.p_value <= 0.01


def test_what_was_transferred_is_not_attacked_again(data, tmp_path):
    family, store = Turning(), OutcomeStore(tmp_path)
    half = run(family, data, crafted=[0.0], tested=[0.0, 1.0], store=store)
    built = family.built
    again = run(family, data, crafted=[0.0], tested=[0.0, 1.0], store=store)
    assert family.built == built
    pd.testing.assert_frame_equal(half, again)
    whole = run(family, data, store=store)
    pd.testing.assert_frame_equal(whole, run(family, data))


def test_order_and_batches_do_not_matter(data):
    attack = ready("pgd-7", step_size=EPS / 3)
    whole = run(Turning(), data, attack)
    ids = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:40]
    part = run(Turning(), data, attack, examples=ids, batch_size=7)
    keys = ["crafted", "lam", "example"]
    expected = whole[whole["example"].isin(ids.tolist())].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(part.sort_values(keys, ignore_index=True), expected)


# --- lambda drawn at random


def draw(family, data, attack=None, lams=LAMBDAS, **options):
    return random_lambda.evaluate(
        family, data, lams, attack or ready("pgd-7"), data_fingerprint="dots", show=False, **options
    )


def test_of_two_networks_that_are_one_the_expectation_is_the_network(data):
    network, attack = Turning().at(0.5), ready("pgd-20")
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))
    ours = random_lambda.attack_expectation([network, network], attack, x, y, ids)
    alone = pgd(network, x, y, **attack.parameters, example_ids=ids, seed=0)
    assert torch.equal(ours, alone)


@given(seed=st.integers(0, 2**31))
def test_the_expected_loss_is_the_mean_of_the_losses(seed):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn((5, 3, 4), generator=draw)
    y = torch.randint(0, 4, (5,), generator=draw)
    each = [nn.functional.cross_entropy(logits[:, place], y, reduction="sum") for place in range(3)]
    torch.testing.assert_close(random_lambda.expected_loss(logits, y), torch.stack(each).mean())


def test_the_attack_finds_the_corner_of_the_ball_with_the_highest_expected_loss(data):
    """In a ball of two pixels the best corner is found by trying all four."""
    lines = [Line(torch.tensor([1.0, 0.4]), False), Line(torch.tensor([0.3, -0.2]), False)]
    draws = torch.Generator().manual_seed(3)
    x = 0.4 + 0.2 * torch.rand((40, 1, 1, 2), generator=draws)
    y = torch.randint(0, 2, (40,), generator=draws)
    x_adv = random_lambda.attack_expectation(lines, ready("pgd-20"), x, y, torch.arange(40))

    def loss(images):
        logits = torch.stack([line(images) for line in lines], 1)
        return torch.stack([random_lambda.expected_loss(logits[[i]], y[[i]]) for i in range(40)])

    corners = [torch.tensor([a, b]).view(1, 1, 1, 2) for a in (-EPS, EPS) for b in (-EPS, EPS)]
    best = torch.stack([loss(x + corner) for corner in corners]).amax(0)
    torch.testing.assert_close(loss(x_adv), best)


def test_expected_and_worst_count_what_they_say(data):
    frame = draw(Turning(), data)
    found = random_lambda.summarize(frame)
    right = (frame["clean_prediction"] == frame["label"]) & (
        frame["attacked_prediction"] == frame["label"]
    )
    table = frame.assign(right=right).pivot(index="example", columns="lam", values="right")
    assert found.expected.value == pytest.approx(100 * table.to_numpy().mean())
    assert found.worst.value == pytest.approx(100 * table.to_numpy().all(axis=1).mean())
    assert found.worst.value <= found.expected.value <= found.expected_clean.value
    assert found.worst_clean.value <= found.expected_clean.value
    assert found.expected.low <= found.expected.value <= found.expected.high
    assert found.lams == LAMBDAS


def test_no_single_lambda_raises_the_expected_loss_as_far(data):
    family, attack = Turning(turn=3.0), ready("pgd-20")
    networks = [family.at(lam) for lam in LAMBDAS]
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))

    def loss(images):
        return random_lambda.expected_loss(torch.stack([n(images) for n in networks], 1), y).item()

    ours = loss(random_lambda.attack_expectation(networks, attack, x, y, ids))
    assert loss(x) < ours
    for network in networks:
        assert loss(attack(network, x, y, ids)) < ours


def test_restarts_only_ever_break_more(data):
    family = Turning(turn=3.0)
    networks = [family.at(lam) for lam in LAMBDAS]
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))

    def standing(restarts):
        attack = ready("pgd-7", restarts=restarts)
        x_adv = random_lambda.attack_expectation(networks, attack, x, y, ids)
        return np.stack([(net(x_adv).argmax(1) == y).numpy() for net in networks]).sum(0)

    assert (standing(3) <= standing(1)).all()


def test_an_expectation_is_stored_and_read(data, tmp_path):
    family, store = Turning(), OutcomeStore(tmp_path)
    draw(family, data, store=store, examples=torch.arange(20))
    whole = draw(family, data, store=store, batch_size=9)
    built = family.built
    again = draw(family, data, store=store)
    assert family.built == built
    pd.testing.assert_frame_equal(whole, again)
    pd.testing.assert_frame_equal(whole, draw(family, data))
    described = {info.crafted for _, info in store.cells()}
    assert described == {"expectation over lambda 0, 0.5, 1"}


def test_other_attacks_are_refused(data):
    with pytest.raises(UserError, match="cannot attack the expectation over lambda; expected"):
        draw(Turning(), data, ready("fgsm"))
