"""An evaluation shared out over processes: the outcomes of one, whatever happens to the others."""

import os
import signal
from dataclasses import replace
from functools import partial
from itertools import chain

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_grid import PLAIN, Lines, make_data, other, ready

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import nested_order
from oat_bench.errors import Finished
from oat_bench.evaluation import examination, random_lambda, transfer
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.sharing import Job, Shard, Unit, finish
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import OutcomeStore

THREAT = Threat(eps=0.15, step_size=0.05)
POINTS = [OperatingPoint(0.0), OperatingPoint(0.7)]


def digits_subject(trained, digits, **options):
    ids = nested_order(digits.test.labels)[:150]  # of two blocks
    return Subject(trained, digits.test, "digits", ids, fewer={"other": 140}, **options)


@pytest.fixture(scope="module")
def attacks():
    """In-house, in batches, and in several parts."""
    brief, card = {"apgd-ce": {"steps": 2}, "square": {"n_queries": 3}}, attack_card("autoattack")
    card = card.model_copy(update={"parts": [part for part in card.parts if part.name in brief]})
    auto = prepare(card, THREAT, n_classes=10, seed=0, recorded=brief)
    fgsm = prepare(attack_card("fgsm"), THREAT, n_classes=10, seed=0)
    return [fgsm, other("torchattacks"), auto]


@pytest.fixture(scope="module")
def alone(trained_folder, digits, attacks):
    return evaluate(digits_subject(load(trained_folder), digits), POINTS, attacks, show=False)


def forbid(monkeypatch):
    def attacked(*_args):
        raise AssertionError("it was in the store")

    monkeypatch.setattr("oat_bench.evaluation.subject.AtPoint.craft", attacked)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_in_any_order_are_one_process(
    trained, digits, attacks, alone, count, tmp_path, monkeypatch
):
    subject = digits_subject(trained, digits, store=OutcomeStore(tmp_path))
    for number in torch.randperm(count, generator=torch.Generator().manual_seed(count)).tolist():
        shard = Shard(number + 1, count)
        rows = evaluate(replace(subject, executor=shard), POINTS, attacks, show=False)
        assert rows.empty
        with pytest.raises(Finished, match=f"shard {number + 1}/{count}: its "):
            shard.finish()
    forbid(monkeypatch)
    pd.testing.assert_frame_equal(evaluate(subject, POINTS, attacks, show=False), alone)


costs = st.lists(st.sampled_from([1.0, 2.0, 14.0, 100.0]), min_size=1, max_size=30)


@given(costs, st.integers(1, 9))
def test_shares_are_disjoint_complete_and_balanced(each, count):
    units = [
        Unit(Job(f"{k}", torch.arange(3), cost, print), torch.arange(3))
        for k, cost in enumerate(each)
    ]
    shares = [Shard(number, count).share(units) for number in range(1, count + 1)]
    names = [[unit.job.name for unit in share] for share in shares]
    assert sorted(chain(*names)) == sorted(unit.job.name for unit in units)
    loads = [sum(unit.cost for unit in share) for share in shares]
    assert max(loads) - min(loads) <= 3 * max(each)  # no more than the costliest unit
    again = [[unit.job.name for unit in Shard(n, count).share(units)] for n in (1, count)]
    assert again == [names[0], names[-1]]


def test_units_are_whole_blocks_of_an_attack_at_a_point(trained, digits, attacks, tmp_path):
    """What other libraries draw for a block is drawn once: no two shards attack one block."""

    class Looks(Shard):
        def run(self, subject, units, passes):
            self.units = units
            return super().run(replace(subject, store=OutcomeStore(None)), [], passes)

    looks = Looks(1, 1)
    subject = digits_subject(trained, digits, executor=looks)
    evaluate(subject, POINTS, attacks, show=False)
    sizes = [(unit.job.name.split(", ")[-1], len(unit.examples)) for unit in looks.units]
    each = [("fgsm", 128), ("fgsm", 22), ("other", 128), ("other", 12)]
    assert sizes == 2 * [*each, ("autoattack", 128), ("autoattack", 22)]


# --- what else is attacked


def lines_subject(**options):
    return Subject(Lines(torch.linspace(-2, 2, 9)), make_data(300), "dots", **PLAIN, **options)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_a_transfer_and_of_an_expectation(count, tmp_path, monkeypatch):
    attack = ready("pgd-7")
    draw = random_lambda.Draw.of([0.2, 0.8])

    def run(subject):
        moved = transfer.transfer(subject, [0.2, 0.8], [0.2, 0.5], attack, show=False)
        drawn = random_lambda.evaluate(subject, draw, attack, show=False)
        return moved, drawn

    expected = run(lines_subject())
    subject = lines_subject(store=OutcomeStore(tmp_path))
    for number in range(1, count + 1):
        assert all(rows.empty for rows in run(replace(subject, executor=Shard(number, count))))
    forbid(monkeypatch)
    monkeypatch.setattr(random_lambda, "attack_expectation", None)
    for rows, known in zip(run(subject), expected, strict=True):
        pd.testing.assert_frame_equal(rows, known)


def test_a_shard_examines_whole_operating_points(trained, digits, tmp_path, monkeypatch):
    suite = examination.make_suite(THREAT, n_classes=10, seed=0, ladder=["fgsm"])
    ids = nested_order(digits.test.labels)[:20]
    subject = Subject(trained, digits.test, "digits", ids, store=OutcomeStore(tmp_path))
    examined = []

    def watch(subject, point, suite):
        assert subject.ids.tolist() == ids.tolist()
        examined.append(point)

    monkeypatch.setattr(examination, "examine", watch)
    dials = [[*POINTS, OperatingPoint(0.3)]]
    for number in (1, 2):
        sharing = replace(subject, executor=Shard(number, 2))
        with pytest.raises(Finished):
            examination.share_out(sharing, POINTS, dials, ids, suite)
    assert sorted(examined, key=lambda point: point.lam) == POINTS
    forbid(monkeypatch)
    examination.share_out(subject, POINTS, dials, ids, suite)  # nobody shares: nothing to do
    assert examination.examine_dial(subject, dials[0], ids, suite)


def test_one_process_goes_on_to_the_report():
    finish(lines_subject())


# --- what happens to processes


class Deadly(Lines):
    """Lines whose process is killed in the middle of a batch, once it has seen so many."""

    kill_at = 0

    def at(self, lam, width=1.0):
        line = super().at(lam, width)
        if self.kill_at:
            line.register_forward_pre_hook(self._count)
        return line

    def _count(self, *_args):
        if self.seen["calls"] == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(work):
    """Run in a forked process; return how it ended."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return process


def ended(process):
    return os.waitpid(process, 0)[1]


@pytest.mark.parametrize("kill_at", [2, 5, 11, 12])
def test_a_shard_that_is_killed_in_mid_cell_goes_on(tmp_path, kill_at):
    attacks, options = [ready("pgd-7"), ready("fgsm")], {"batch_size": 20}
    line = Deadly(torch.linspace(-2, 2, 9))
    subject = Subject(line, make_data(300), "dots", **PLAIN | options)
    expected = evaluate(subject, POINTS, attacks, show=False)
    subject = replace(subject, store=OutcomeStore(tmp_path))
    run = partial(evaluate, points=POINTS, attacks=attacks, show=False)
    line.seen.clear()
    line.kill_at = kill_at
    assert os.WTERMSIG(ended(in_child(lambda: run(replace(subject, executor=Shard(1, 2)))))) == 9
    line.kill_at = 0
    done = sum(len(subject.store.read(name)) for name, _ in subject.store.cells())
    assert done < len(expected) / 2
    for number in (2, 1):
        run(replace(subject, executor=Shard(number, 2)))
    pd.testing.assert_frame_equal(run(subject), expected)
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_drivers_on_one_store(tmp_path):
    attacks = [ready("pgd-7"), ready("fgsm")]
    subject = lines_subject(store=OutcomeStore(tmp_path))
    run = partial(evaluate, points=POINTS, attacks=attacks, show=False)
    drivers = [in_child(lambda: run(subject)) for _ in range(2)]
    assert [ended(driver) for driver in drivers] == [0, 0]
    pd.testing.assert_frame_equal(run(subject), run(lines_subject()))
    for name, _ in subject.store.cells():
        assert subject.store.read(name)["example"].is_unique
