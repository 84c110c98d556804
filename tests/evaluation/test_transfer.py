"""Transfer between lambda against linear classifiers, whose worst image has a closed form."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turning import EPS, LAMBDAS, Turning, make_data, ready

from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import integrity, transfer
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import OutcomeStore

KEYS = ["crafted", "lam", "example"]


@pytest.fixture(scope="module")
def data():
    return make_data()


def run(family, data, attack=None, crafted=LAMBDAS, tested=LAMBDAS, **options):
    width = options.pop("width", 1.0)
    subject = Subject(family, data, **{"data_fingerprint": "dots"} | options)
    return transfer.transfer(subject, crafted, tested, attack or ready(), width=width, show=False)


def ordered(frame):
    return frame.sort_values(KEYS, ignore_index=True)


def margins(family, data, source, lam):
    """How far images lie on the right side at ``lam``, clean and attacked at ``source``."""
    x, sign = data.images.double().flatten(1) / 255 - 0.5, 2.0 * data.labels - 1
    here, there = family.weights(lam).double(), family.weights(source).double()
    clean = (x @ here) * sign
    return clean, clean - EPS * (here @ there.sign())


def synthetic(broken, n=40):
    """Outcomes of images that are all right when clean: {(crafted, lam): which are broken}."""
    rows = [
        (source, lam, 1.0, example, 0, 0, int(example in examples))
        for (source, lam), examples in broken.items()
        for example in range(n)
    ]
    return pd.DataFrame(rows, columns=transfer.KEYS)


# --- what is measured


@pytest.mark.parametrize("name", ["fgsm", "pgd-7"])
def test_an_image_attacked_elsewhere_moves_by_eps_times_the_signs_there(data, name):
    family = Turning()
    frame = run(family, data, ready(name))
    assert list(frame) == transfer.KEYS
    right = transfer.rightness(frame)
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
    grid = evaluate(Subject(family, data, ""), points, [attack], show=False)
    diagonal = frame[frame["crafted"] == frame["lam"]].drop(columns="crafted")
    pd.testing.assert_frame_equal(
        diagonal.reset_index(drop=True), grid.drop(columns="attack")[diagonal.columns]
    )


def test_any_lambda_is_the_worst_of_each_example(data):
    frame = run(Turning(), data)
    right, worst = transfer.rightness(frame), transfer.any_lambda(frame)
    cells = transfer.matrix(frame)
    for lam in LAMBDAS:
        every = right.loc[lam].to_numpy().all(axis=1)
        assert not (every & ~right.loc[lam][lam].to_numpy()).any()  # of each, at most the diagonal
        assert worst[lam].value == pytest.approx(100 * every.mean())
        for source in LAMBDAS:
            share = right.loc[lam][source].mean()
            assert cells[(source, lam)].value == pytest.approx(100 * share)


def test_what_is_right_nowhere_is_not_attacked_and_what_is_wrong_at_its_own_lambda_is(
    data, monkeypatch
):
    attacked = []

    def watch(model, x, y, *, example_ids):
        attacked.extend(example_ids.tolist())
        return x

    monkeypatch.setitem(in_house.CLASSES, "Watch", watch)
    card = AttackCard.model_validate({"name": "w", "engine": "oat_bench", "class": "Watch"})
    attack = prepare(card, Threat(eps=EPS), n_classes=2, seed=0)
    family = Turning()
    frame = run(family, data, attack, crafted=[0.0], tested=[0.5, 1.0], batch_size=7)
    here = margins(family, data, 0.0, 0.0)[0] > 0
    there = (margins(family, data, 0.0, 0.5)[0] > 0) | (margins(family, data, 0.0, 1.0)[0] > 0)
    assert sorted(attacked) == torch.nonzero(there).flatten().tolist()
    assert (there & ~here).any()
    assert (~there).any()
    wrong = frame["clean_prediction"] != frame["label"]
    assert (frame["attacked_prediction"] == frame["clean_prediction"])[wrong].all()


# --- verdicts


def test_a_lambda_without_gradients_is_named_and_an_honest_one_is_not(data):
    assert transfer.masked(run(Turning(turn=0.3), data)) == []
    found = transfer.masked(run(Turning(flat=(0.5,), turn=0.3), data))
    assert {(one.lam, one.crafted) for one in found} == {(0.5, 0.0), (0.5, 1.0)}
    for one in found:
        assert one.only_there > one.only_here == 0
        assert one.p_value <= 0.01


@pytest.mark.parametrize("lams", [(0.0, 1.0), (0.0, 0.5, 1.0), tuple(np.linspace(0, 1, 6))])
def test_masking_is_found_from_as_many_images_as_it_says(lams):
    pairs = len(lams) * (len(lams) - 1)
    least = integrity.fewest(pairs)
    for count in (least - 1, least):
        broken = {(source, lam): range(0) for source in lams for lam in lams}
        frame = synthetic(broken | {(1.0, 0.0): range(count)})
        assert len(transfer.pairs(frame)) == pairs
        found = transfer.masked(frame)
        assert [(one.crafted, one.lam) for one in found] == [(1.0, 0.0)] * (count == least)
        if found:  # all on one side: a coin that falls so every time, for each pair
            assert found[0].p_value == pytest.approx(pairs * 0.5**count)


def test_only_a_lambda_that_was_attacked_itself_can_be_found_masked():
    frame = synthetic({(0.0, 0.5): range(40), (1.0, 0.5): range(0)})
    assert transfer.pairs(frame) == []
    assert transfer.masked(frame) == []


def test_the_strongest_is_the_lambda_itself_where_others_are_as_strong():
    frame = synthetic(
        {
            (0.0, 0.0): range(5),
            (1.0, 0.0): range(6),
            (0.0, 1.0): range(3),
            (1.0, 1.0): range(10, 13),
        }
    )
    assert transfer.strongest(frame) == {0.0: 1.0, 1.0: 1.0}
    assert transfer.any_lambda(frame)[1.0].value == pytest.approx(100 * 34 / 40)


# --- nothing is computed twice, and nothing else matters


def test_what_was_transferred_is_not_attacked_again(data, tmp_path):
    family, store = Turning(), OutcomeStore(tmp_path)
    half = run(family, data, crafted=[0.0], tested=[0.0, 1.0], store=store)
    built = family.built
    again = run(family, data, crafted=[0.0], tested=[0.0, 1.0], store=store)
    assert family.built == built
    pd.testing.assert_frame_equal(half, again)
    whole = run(family, data, store=store)
    pd.testing.assert_frame_equal(whole, run(family, data))


@pytest.mark.parametrize("engine", ["oat_bench", "torchattacks"])
def test_more_lambda_and_examples_add_what_is_missing_alone(data, tmp_path, engine):
    attack = ready("pgd-7", step_size=EPS / 3)
    if engine == "torchattacks":
        card = AttackCard.model_validate(
            {
                "name": "theirs",
                "engine": engine,
                "class": "PGD",
                "parameters": {"eps": "$eps", "alpha": "$eps/3", "steps": 4},
            }
        )
        attack = prepare(card, Threat(eps=EPS), n_classes=2, seed=0)
    family, store = Turning(), OutcomeStore(tmp_path)
    few = torch.arange(20)
    first = run(family, data, attack, [0.0], [0.0, 1.0], store=store, examples=few, batch_size=8)
    known = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    before = family.seen["images"]
    run(family, data, attack, [0.0], [0.0, 1.0], store=store, examples=few)
    assert family.seen["images"] == before
    whole = run(family, data, attack, [0.0], LAMBDAS, store=store, batch_size=30)
    alone = run(Turning(), data, attack, [0.0], LAMBDAS)
    pd.testing.assert_frame_equal(whole, alone)
    kept = whole[whole["example"].isin(few.tolist()) & whole["lam"].isin([0.0, 1.0])]
    pd.testing.assert_frame_equal(ordered(kept), ordered(first))
    # what was there is as it was, and no example is in a cell twice
    assert {path: path.stat().st_mtime_ns for path in known} == known
    assert len(list(tmp_path.iterdir())) == 3
    for cell in tmp_path.iterdir():
        rows = pd.concat([pd.read_parquet(path) for path in cell.glob("*.parquet")])
        assert sorted(rows["example"]) == list(range(len(data)))


def test_all_that_decides_outcomes_leads_to_a_new_cell(data, tmp_path):
    changes = [
        {},
        {"family": Turning(turn=2.5)},
        {"data_fingerprint": "other dots"},
        {"crafted": [0.25]},
        {"tested": [0.75]},
        {"attack": ready("pgd-7", seed=1)},
        {"attack": ready("pgd-7", steps=8)},
        {"width": 0.5},
        {"gradients": "bf16"},
    ]
    for number, change in enumerate(changes, start=1):
        options = {"attack": ready("pgd-7"), "crafted": [0.0], "tested": [1.0]} | change
        family = options.pop("family", Turning())
        examples = torch.arange(3)
        run(family, data, **options, examples=examples, store=OutcomeStore(tmp_path))
        assert len(list(tmp_path.iterdir())) == number, change


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 80), batch=st.integers(8, 80))
def test_order_and_batches_do_not_matter(seed, size, batch):
    data, attack = make_data(), ready("pgd-7", step_size=EPS / 3)
    ids = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:size]
    part = run(Turning(), data, attack, examples=ids, batch_size=batch)
    assert part["example"].to_list() == ids.tolist() * len(LAMBDAS) ** 2
    whole = run(Turning(), data, attack)
    expected = whole[whole["example"].isin(ids.tolist())]
    pd.testing.assert_frame_equal(ordered(part), ordered(expected))


def test_order_and_batches_do_not_matter_to_a_network(trained, digits):
    attack = prepare(attack_card("pgd-7"), Threat(eps=0.2, step_size=0.05), n_classes=10, seed=0)
    ids, lams = torch.arange(16), [0.0, 0.7]
    frames = [
        run(trained, digits.test, attack, lams, lams, examples=order, batch_size=size)
        for order, size in ((ids, 16), (ids, 1), (ids.flip(0), 7))
    ]
    broken = frames[0]["attacked_prediction"] != frames[0]["label"]
    assert 0 < broken.sum() < len(broken)
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(ordered(frame), ordered(frames[0]))
