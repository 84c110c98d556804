"""Attacks that share gradients: the outcomes and images of each alone, from fewer passes."""

from collections import Counter

import pandas as pd
import pytest
import torch

from oat_bench.acceleration import spending
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import chains, prepare, together
from oat_bench.attacks.saved import read
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation.cost import with_attack_costs
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.images import ImageFolder
from oat_bench.evaluation.subject import Subject, alike
from oat_bench.reports import per_lambda
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.results.points import AttackCost, summarize, total_costs
from oat_bench.statistics.phases import Design

THREAT = Threat(eps=0.15, step_size=0.03)
IDS = torch.tensor([*range(5), 60, 95, *range(5, 28)])  # 60 and 95 are wrong clean
N = len(IDS)
SUITE = ("fgsm", "mi-fgsm", "pgd-7", "pgd-20")


def ready(of, threat=THREAT, seed=0, **changes):
    card = attack_card(of)
    parameters = card.parameters | changes.pop("parameters", {})
    card = card.model_copy(update={"parameters": parameters, **changes})
    return prepare(card, threat, n_classes=10, seed=seed)


def started_again():
    """PGD of 9 steps from each of three starts: the first is that of PGD-7."""
    return ready("pgd-20", name="pgd-9-3", parameters={"steps": 9, "restarts": 3})


@pytest.fixture
def run(trained, digits):
    """Evaluate at lambda 0.7; return the rows by attack and example, and the passes made."""

    def run(attacks, **options):
        images = options.pop("images", None)
        options = {"examples": IDS, "compile_it": False, **options}
        subject = Subject(trained, digits.test, digits.fingerprint(), **options)
        with spending() as spent:
            frame = evaluate(subject, [OperatingPoint(0.7)], attacks, images=images, show=False)
        return frame.set_index(["attack", "example"]), spent

    return run


def alone(run, attacks, **options):
    """Evaluate each attack alone; what is predicted of clean images is computed for each."""
    found = [run([attack], **options) for attack in attacks]
    return pd.concat([frame for frame, _ in found]), [spent for _, spent in found]


# --- the engine


@pytest.mark.parametrize("targeted", [None, "least-likely"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_each_has_the_images_it_has_alone_and_gradients_are_computed_once(
    trained, digits, norm, targeted
):
    threat = THREAT if norm == "Linf" else Threat(norm="L2", eps=0.7, step_size=0.2)
    names = SUITE if norm == "Linf" else ("fgm", "mi-fgm", "pgd-7", "pgd-20")
    attacks = [ready(name, threat, targeted=targeted) for name in names]
    assert chains(attacks) == [[0, 1], [2, 3]]
    model, ids = trained.at(0.7), torch.arange(N)
    x, y = digits.test.inputs(ids), digits.test.labels[ids]
    y = attacks[0].aim(model, x, y, ids)
    passes = []
    model.register_forward_pre_hook(lambda _, args: passes.append(args[0].requires_grad))
    for pair, gradients in [(attacks[:2], 10), (attacks[2:], 20)]:
        passes.clear()
        found = together(pair, model, x, y, ids)
        assert passes == [True] * gradients
        for attack, x_adv in zip(pair, found, strict=True):
            assert torch.equal(attack(model, x, y, ids), x_adv)
            assert not torch.equal(x_adv, x)


def test_walks_share_gradients_for_as_long_as_they_are_on_one_path(trained, digits):
    own_step = ready("pgd-7-published-step")
    still = ready("pgd-7", name="still", parameters={"random_start": False})
    attacks = [ready("pgd-7"), own_step, started_again(), still, ready("fgsm")]
    assert chains(attacks) == [[0, 1, 2], [3, 4]]
    model, ids = trained.at(0.7), torch.arange(N)
    x, y, gradients = digits.test.inputs(ids), digits.test.labels[ids], []
    model.register_forward_pre_hook(
        lambda _, args: gradients.append(len(args[0])) if args[0].requires_grad else None
    )
    found = together(attacks[:3], model, x, y, ids)
    # nine of three walks at first, and the six that another step leads elsewhere
    assert Counter(gradients)[N] == 9 + 6
    assert len(gradients) == 9 + 6 + 2 * 9
    gradients.clear()
    found += together(attacks[3:], model, x, y, ids)
    assert gradients == [N] * 7
    for attack, x_adv in zip(attacks, found, strict=True):
        assert torch.equal(attack(model, x, y, ids), x_adv)


def test_what_starts_elsewhere_is_no_chain():
    other_ball = ready("pgd-7", name="narrow", eps=0.1)
    other_seed, aimed = ready("pgd-7", seed=1), ready("pgd-7", targeted="next")
    parts = prepare(attack_card("autoattack"), THREAT, n_classes=10, seed=0)
    attacks = [ready("pgd-7"), other_ball, other_seed, aimed, parts, ready("noise"), parts]
    assert chains(attacks) == [[place] for place in range(len(attacks))]


def test_alike_places_are_grouped():
    wanted = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 0, 0]]).bool()
    found = [(rows, places.tolist()) for rows, places in alike(wanted)]
    assert sorted(found) == [([0], [4]), ([0, 1], [0, 2]), ([1], [1])]


# --- the grid


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"batch_size": 500}, {}),
        ({"batch_size": 7}, {}),
        ({"gradients": "bf16", "batch_size": 11}, {}),
        ({"fewer": {"pgd-7": 9, "fgsm": 12}, "batch_size": 8}, {}),
        ({}, {"targeted": "random"}),
    ],
    ids=["whole", "batches", "bf16", "fewer", "targeted"],
)
def test_a_chain_has_the_outcomes_of_each_attack_alone_from_fewer_passes(
    run, tmp_path, options, changes
):
    attacks = [ready(name, **changes) for name in SUITE]
    expected, apart = alone(run, attacks, **options, store=OutcomeStore(tmp_path / "alone"))
    frame, spent = run(attacks, **options, store=OutcomeStore(tmp_path / "together"))
    pd.testing.assert_frame_equal(frame, expected)
    robust = (frame["attacked_prediction"] == frame["label"]).groupby("attack").mean()
    assert 0 < robust.min() < robust.max() < 1
    cells = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in (tmp_path / "together").iterdir()} == cells
    assert spent.backward < 0.95 * sum(one.backward for one in apart)
    assert spent.forward < sum(one.forward for one in apart)
    # what is there is not computed again, in whatever order it is asked for
    again, nothing = run(attacks[::-1], **options, store=OutcomeStore(tmp_path / "together"))
    pd.testing.assert_frame_equal(again.loc[frame.index], frame)
    assert (nothing.forward, nothing.backward) == (0, 0)


def test_passes_are_counted_as_they_are_made(run):
    frame, spent = run([ready(name) for name in SUITE])
    right = frame.loc["fgsm"]
    right = int((right["clean_prediction"] == right["label"]).sum())
    assert 0 < right < N
    assert spent.backward == right * (10 + 20)
    assert spent.forward == N + right * (10 + 20 + len(SUITE))


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_a_chain_that_was_stopped_goes_on_with_what_it_lacks(run, tmp_path, monkeypatch, stops):
    attacks = [ready("pgd-7"), ready("pgd-20")]
    expected, whole = run(attacks, batch_size=7)
    own, kept = OutcomeStore.append, []

    def stop(store, cell, rows):
        kept.append(cell)
        if len(kept) > 2 + stops:  # two of what is wrong already
            raise KeyboardInterrupt
        own(store, cell, rows)

    with monkeypatch.context() as patch:
        patch.setattr(OutcomeStore, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            run(attacks, batch_size=7, store=OutcomeStore(tmp_path))
    frame, second = run(attacks, batch_size=7, store=OutcomeStore(tmp_path))
    pd.testing.assert_frame_equal(frame, expected)
    assert whole.backward == (N - 2) * 20
    # a batch that one of the two has kept takes as many passes for the other
    assert second.backward == (N - 2 - 7 * (stops // 2)) * 20


def test_what_one_attack_has_stored_is_not_computed_for_the_other(run, tmp_path):
    seven, twenty = ready("pgd-7"), ready("pgd-20")
    expected, _ = alone(run, [seven, twenty])
    right = expected["clean_prediction"] == expected["label"]
    first, rest = (int(right.loc["pgd-7"].loc[ids.numpy()].sum()) for ids in (IDS[:10], IDS[10:]))
    assert first == 8
    store = OutcomeStore(tmp_path)
    run([twenty], examples=IDS[:10], store=store)
    frame, spent = run([seven, twenty], store=store)
    pd.testing.assert_frame_equal(frame, expected)
    assert spent.backward == 7 * first + 20 * rest
    store = OutcomeStore(tmp_path / "other")
    run([seven], examples=IDS[:10], store=store)
    _, spent = run([seven, twenty], store=store)
    assert spent.backward == 20 * (first + rest)


def test_a_chain_keeps_the_images_of_each_attack_alone(run, tmp_path):
    attacks, store = [ready(name) for name in SUITE], OutcomeStore(None)
    expected, apart = alone(run, attacks, images=ImageFolder(tmp_path / "alone"), batch_size=8)
    run(attacks[2:3], store=store)  # outcomes without images
    folder = ImageFolder(tmp_path / "together")
    frame, spent = run(attacks, images=folder, store=store, batch_size=8)
    pd.testing.assert_frame_equal(frame, expected)
    files = sorted(path.name for path in folder.folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "alone").iterdir())
    for file in files:
        ours, theirs = read(folder.folder / file), read(tmp_path / "alone" / file)
        assert torch.equal(ours.images, theirs.images)
        assert ours.example.tolist() == theirs.example.tolist() == sorted(IDS.tolist())
    # those that are wrong clean too, for their images
    assert spent.backward == N * (10 + 20)
    assert sum(one.backward for one in apart) == N * (1 + 10 + 7 + 20)
    _, nothing = run(attacks, images=folder, store=store)
    assert (nothing.forward, nothing.backward) == (0, 0)


class Rough(torch.nn.Module):
    """A network whose best logit is lower by 1 in bfloat16, so that it seems broken too early."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        rough = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):
            logits = self.network(x)
        return logits - rough * torch.nn.functional.one_hot(logits.argmax(1), 10)


def test_what_only_rounding_breaks_is_attacked_again_for_the_attack_that_it_broke(
    run, trained, monkeypatch
):
    own = trained.at
    monkeypatch.setattr(trained, "at", lambda lam, width=1.0: Rough(own(lam, width)).eval())
    attacks, rough = [ready("pgd-7"), ready("pgd-20")], {"gradients": "bf16", "batch_size": 11}
    expected, apart = alone(run, attacks, **rough)
    frame, spent = run(attacks, **rough)
    pd.testing.assert_frame_equal(frame, expected)
    again = [one.backward / steps - (N - 2) for one, steps in zip(apart, (7, 20), strict=True)]
    assert again[0] != again[1]
    assert min(again) > 0
    # what both attack again is attacked once
    assert sum(one.backward for one in apart) - spent.backward > (N - 2) * 7


# --- what it took


@pytest.fixture
def costs(trained, digits, tmp_path):
    """Evaluate with a store; return the results with their costs, and the passes made now."""

    def costs(attacks, lambdas=(0.7,), examples=IDS, **options):
        store = OutcomeStore(tmp_path / "store")
        options = {"store": store, "batch_size": 11, "compile_it": False, **options}
        subject = Subject(trained, digits.test, digits.fingerprint(), examples, **options)
        points = [OperatingPoint(lam) for lam in lambdas]
        with spending() as spent:
            frame = evaluate(subject, points, attacks, show=False)
        results = summarize(frame, Design([attack.label for attack in attacks]))
        return with_attack_costs(results, subject, frame, attacks), spent

    return costs


def told(results):
    return {tuple(c.attacks): (c.n, c.forward, c.backward) for c in total_costs(results)}


def test_a_chain_costs_what_it_took_once_and_a_warm_run_says_the_same(costs):
    attacks, right = [ready(name) for name in SUITE], N - 2
    results, spent = costs(attacks)
    shared = {
        ("fgsm", "mi-fgsm"): (right, right * (10 + 2), right * 10),
        ("pgd-7", "pgd-20"): (right, right * (20 + 2), right * 20),
    }
    assert told(results) == shared
    found = results[0].attack_costs
    assert sum(c.backward for c in found) == spent.backward
    assert sum(c.forward for c in found) == spent.forward - N  # to predict clean images
    assert 0 < sum(c.seconds for c in found) < spent.seconds
    again, nothing = costs(attacks)
    assert (nothing.forward, again) == (0, results)
    # of some of the examples and attacks, what those took
    few, _ = costs(attacks[2:3], examples=IDS[:10])
    assert told(few) == {("pgd-7", "pgd-20"): (8, 8 * 22, 8 * 20)}
    # what is computed alone is said alone
    more, _ = costs([*attacks, ready("pgd-20", name="pgd-30", parameters={"steps": 30})])
    assert told(more) == shared | {("pgd-30",): (right, right * 31, right * 30)}


def test_parts_of_an_attack_cost_what_they_took_in_sum(costs):
    brief = {"steps": 3}
    recorded = {"apgd-ce": brief, "apgd-t": brief, "fab-t": brief, "square": {"n_queries": 20}}
    attack = prepare(attack_card("autoattack"), THREAT, n_classes=10, seed=0, recorded=recorded)
    results, spent = costs([attack], lambdas=(0.3, 0.7), examples=IDS[:8])
    ((names, (n, forward, backward)),) = told(results).items()
    assert names == ("autoattack",)
    # whole blocks are attacked: all of the test set's first that hold these
    assert 8 < n < 2 * 1000
    assert backward == spent.backward
    assert 0 < spent.forward - forward < 2 * 1000  # to predict clean images


def test_a_table_says_what_its_attacks_took(costs):
    results, _ = costs([ready("mi-fgsm"), ready("fgsm"), ready("pgd-7")], lambdas=(0.3, 0.7))
    note = next(n for n in per_lambda.page(results, [], "title").notes if "Cost" in n)
    n = total_costs(results)[0].n
    assert f"mi-fgsm + fgsm {n} images, 22.0 passes each" in note
    assert f"pgd-7 {n} images, 15.0 passes each" in note
    older = [result.model_copy(update={"attack_costs": None}) for result in results]
    assert not any("Cost" in n for n in per_lambda.page(older, [], "title").notes)


def test_costs_on_two_machines_are_not_added():
    one = AttackCost(attacks=["a"], n=1, forward=2, backward=1, seconds=0.5, machine="here")
    assert (one + one).passes == one.passes == 3
    other = one.model_copy(update={"machine": "there"})

    class Point:
        def __init__(self, *costs):
            self.attack_costs = list(costs)

    assert total_costs([Point(one, other), Point(one)]) == [one + one, other]
