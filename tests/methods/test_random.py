"""Models that are random at inference: what answers, what attacks, and what is said of them."""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

import oat_bench
from oat_bench import load, run
from oat_bench.attacks import in_house
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.selection import for_random, select_attacks
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation import grid, probes, random_lambda
from oat_bench.evaluation.subject import Subject
from oat_bench.methods.random_choice import Choice, RandomChoice
from oat_bench.networks.drawn import Expectation
from oat_bench.registry import METHODS
from oat_bench.results import ranking, records, reliability

THREAT = Threat(eps=0.2, step_size=0.05)
CPU = torch.device("cpu")


def ready(name="pgd-20-eot", seed=0, **changes):
    card = attack_card(name)
    card = card.model_copy(update={"parameters": card.parameters | changes})
    return prepare(card, THREAT, n_classes=10, seed=seed)


@pytest.fixture(scope="module")
def oat(trained_folder):
    return load(trained_folder)


@pytest.fixture(scope="module")
def choice(oat):
    """Lambda 0 or 1 of one OAT network."""
    changes = {"method": "random-choice", "trained_lambdas": [0.0, 0.5, 1.0], "options": {}}
    return RandomChoice.of(oat.info.model_copy(update=changes), {"standard": oat})


@pytest.fixture(scope="module")
def floating(brief, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("float")
    return run.train(brief.with_method("float"), digits, folder, seed=0, device=CPU)


def subject_of(classifier, digits, n=60, **options):
    ids = oat_bench.datasets.nested_order(digits.test.labels)[:n]
    return Subject(classifier, digits.test, digits.fingerprint(), ids, **options)


class Line(nn.Module):
    def __init__(self, *w):
        super().__init__()
        self.w = torch.tensor(w)

    def forward(self, x):
        score = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-score, score], dim=1)


# --- what answers


def test_a_choice_answers_by_one_of_two_and_as_often_as_lambda_says(oat, choice, digits):
    x, ids, shares = digits.test.inputs(slice(0, 6)), torch.arange(4000), []
    for lam in (0.0, 0.3, 0.75, 1.0):
        networks, chances = choice.at(lam).draws(1, seed=0)
        ends = [(0.0, 1 - lam), (1.0, lam)]
        for (end, chance), one, given in zip(
            [end for end in ends if end[1]], networks, chances, strict=True
        ):
            torch.testing.assert_close(one(x), oat.at(end)(x), rtol=1e-4, atol=1e-5)
            assert given.item() == pytest.approx(chance)
        model = Choice(Line(-1.0), Line(1.0), lam)
        answers = model.draws(1, 0).answer(torch.ones(4000, 1), ids, seed=3)
        shares.append(answers.argmax(1).double())
        # called, it tosses by torch's generator
        torch.manual_seed(0)
        called = model(torch.ones(4000, 1)).argmax(1).double()
        assert called.mean().item() == pytest.approx(lam, abs=0.025)
    assert [share.mean().item() for share in shares] == pytest.approx([0, 0.3, 0.75, 1], abs=0.025)
    # one coin for all lambda: who meets the robust one at .3 meets it at .75
    assert (shares[1] <= shares[2]).all()


def test_a_coin_belongs_to_the_example_and_the_seed(choice, digits):
    drawn, x = choice.at(0.5).draws(1, seed=0), digits.test.inputs(slice(0, 30))
    ids = torch.arange(100, 130)
    whole = drawn.answer(x, ids, seed=1)
    back = torch.arange(29, -1, -1)
    parts = [drawn.answer(x[own], ids[own], seed=1) for own in back.split(7)]
    torch.testing.assert_close(torch.cat(parts), whole[back], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn.answer(x, ids, seed=2), whole, atol=1e-2)
    assert drawn.answer(x[:0], ids[:0], seed=1).shape == (0, 10)


def test_a_choice_is_saved_and_read_back(choice, digits, tmp_path):
    oat_bench.save(choice, tmp_path / "c.safetensors")
    again, x = load(tmp_path / "c.safetensors"), digits.test.inputs(slice(0, 9))
    assert type(again) is RandomChoice
    assert again.fingerprint() == choice.fingerprint()
    for ours, theirs in zip(
        again.at(0.4).draws(1, 0)[0], choice.at(0.4).draws(1, 0)[0], strict=True
    ):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    for method in ("output-mixing", "random-choice"):
        info = choice.info.model_copy(update={"method": method, "options": {}})
        with pytest.raises(UserError, match=f"{method}: the standard model, of method 'random-ch"):
            METHODS[method].of(info, {"standard": choice})
    with pytest.raises(UserError, match="draws anew for each query"):
        oat_bench.export(choice, tmp_path / "c.onnx", lam=0.4)


# --- what attacks


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_the_attack_finds_a_corner_where_the_most_coins_are_wrong(chance):
    standard, robust = Line(3.0, -2.0, 0.5), Line(-1.0, -4.0, 2.0)
    draw = torch.Generator().manual_seed(0)
    x, y = 0.4 + 0.2 * torch.rand((12, 1, 1, 3), generator=draw), torch.arange(12) % 2
    attack = ready(steps=40, step_size=0.02, eps=0.1, random_start=False)
    found = attack(Choice(standard, robust, chance), x, y, torch.arange(12))

    def coins_right(images):
        right = [(one(images).argmax(1) == y).float() for one in (standard, robust)]
        return (1 - chance) * right[0] + chance * right[1]

    corners = torch.tensor(list(product((-0.1, 0.1), repeat=3)))
    least = torch.stack([coins_right(x + corner.view(1, 1, 1, 3)) for corner in corners]).amin(0)
    # where both can be broken at once PGD, which takes signs, may end at one: the likelier
    assert (coins_right(found) <= least + min(chance, 1 - chance) + 1e-6).all()
    assert chance == 0.9 or torch.allclose(coins_right(found), least)
    assert (least < coins_right(x)).any()


def test_outcomes_are_those_of_the_network_that_a_coin_chose(oat, choice, digits):
    p, attack = 0.4, ready(seed=5)
    subject = subject_of(choice, digits, seed=5)
    ours = grid.outcomes(subject, OperatingPoint(p), attack, subject.ids)
    ids, columns = subject.ids, ["clean_prediction", "attacked_prediction"]
    x, y = digits.test.inputs(ids), digits.test.labels[ids]
    x_adv = attack(choice.at(p), x, y, ids)
    ends = [oat.at(0.0), oat.at(1.0)]
    clean, broken = (torch.stack([one(images).argmax(1) for one in ends]) for images in (x, x_adv))
    coins = Choice(Line(-1.0), Line(1.0), p).draws(1, 0)
    met = coins.answer(torch.ones(len(ids), 1), ids, seed=5).argmax(1)
    for place, (row, end) in enumerate(zip(ours[columns].to_numpy(), met.tolist(), strict=True)):
        before, after = clean[end, place].item(), broken[end, place].item()
        # what is wrong already is not attacked
        assert row.tolist() == [before, after if before == y[place] else before]
    assert 10 < met.sum() < 50

    # by another route, the expected loss alone: no image is broken for fewer coins than by that
    pgd = prepare(attack_card("pgd-20"), THREAT, n_classes=10, seed=5)
    both = {"chances": [1 - p, p], "exact": ends}
    alone = random_lambda.attack_expectation(ends, pgd, x, y, ids, **both)
    each = torch.tensor([1 - p, p])
    chances = [
        each @ torch.stack([one(images).argmax(1) == y for one in ends]).float()
        for images in (x_adv, alone)
    ]
    assert (chances[0] <= chances[1] + 1e-6).all()


def test_where_one_network_is_broken_for_good_the_other_is_attacked():
    """The case that the expected loss alone gets wrong: its climb is that of the steep one."""
    steep, flat = Line(30.0, 0.0), Line(-0.4, 1.0)
    x, y = torch.full((1, 1, 1, 2), 0.5) + 0.01, torch.ones(1, dtype=torch.int64)
    given = {"step_size": 0.02, "eps": 0.08, "random_start": False}
    model, ids = Choice(steep, flat, 0.9), torch.arange(1)
    found = ready(**given)(model, x, y, ids)
    pgd = prepare(attack_card("pgd-20"), THREAT, n_classes=2, seed=0)
    pgd = replace(
        pgd,
        chain=tuple(
            part.model_copy(update={"parameters": given | {"steps": 20}}) for part in pgd.chain
        ),
    )
    alone = random_lambda.attack_expectation(
        [steep, flat], pgd, x, y, ids, chances=[0.1, 0.9], exact=[steep, flat]
    )
    assert steep(alone).argmax() == 0
    assert flat(found).argmax() == 0


def test_what_is_drawn_does_not_depend_on_the_batch(floating, digits):
    attack, frames = ready(steps=3, eot_iter=2), []
    for batch_size in (7, 40):
        subject = subject_of(floating, digits, 40, batch_size=batch_size)
        frames.append(grid.evaluate(subject, [OperatingPoint(1.0)], [attack], show=False))
    assert frames[0].equals(frames[1])
    other = subject_of(floating, digits, 40, seed=1)
    rules = [subject.at(OperatingPoint(1.0)).rules for subject in (subject, other)]
    assert rules[0] != rules[1]
    assert subject.at(OperatingPoint(0.0)).rules == ()


def test_the_attack_on_one_network_is_pgd(oat, digits):
    x, y = digits.test.inputs(slice(0, 16)), digits.test.labels[:16]
    one = oat.at(1.0)
    ours = ready()(one, x, y, torch.arange(16))
    pgd = prepare(attack_card("pgd-20"), THREAT, n_classes=10, seed=0)
    assert torch.equal(ours, pgd(one, x, y, torch.arange(16)))


def test_draws_are_new_at_each_step_and_averaged(monkeypatch):
    asked = []

    class Asked(Choice):
        def draws(self, count, seed):
            asked.append((count, seed))
            return super().draws(count, seed)

    x, y = torch.full((2, 1, 1, 3), 0.5), torch.tensor([0, 1])
    model = Asked(Line(1.0, 1.0, 1.0), Line(-2.0, 1.0, 1.0), 0.5)
    attack = partial(in_house.eot_pgd, eps=0.1, step_size=0.1, steps=3, eot_iter=6)
    attack(model, x, y, example_ids=torch.arange(2), seed=0)
    counts, seeds = zip(*asked, strict=True)
    assert set(counts) == {6}
    assert len(set(seeds)) == 7  # of three steps for each of two losses, and of the judges


def test_noise_on_a_random_model_counts_what_is_expected():
    model = Choice(Line(1.0, 1.0, 1.0), Line(1.0, 1.0, 1.0), 0.5)
    x, y = torch.full((30, 1, 1, 3), 0.53), torch.ones(30, dtype=torch.int64)
    attack = ready("noise", eps=0.05, draws=300)
    found = attack(model, x, y, torch.arange(30))
    assert (model.standard(found).argmax(1) != y).all()


def test_autoattack_rand_is_that_of_its_authors():
    theirs = AutoAttack(Line(1.0), eps=0.1, version="rand", device="cpu")
    card = attack_card("autoattack-rand")
    assert [part.name for part in card.parts] == theirs.attacks_to_run == ["apgd-ce", "apgd-dlr"]
    for part in card.parts:
        given = part.parameters
        assert given["steps"] == theirs.apgd.n_iter == 100
        assert given["eot_iter"] == theirs.apgd.eot_iter == 20
        assert given["n_restarts"] == theirs.apgd.n_restarts == 1
        assert given["rho"] == theirs.apgd.thr_decr == 0.75
        assert part.averages
    assert [part.parameters["loss"] for part in card.parts] == ["ce", "dlr"]


# --- what is said


def test_all_is_the_suite_on_the_expectation_said_in_one_line(capsys):
    chosen = for_random(select_attacks("all"), "float")
    assert [card.name for card in chosen] == ["pgd-20-eot", "autoattack-rand"]
    assert capsys.readouterr().err == (
        "float is random: attacked on its expectation, by pgd-20-eot and autoattack-rand in place "
        "of fgsm, mi-fgsm, pgd-7, pgd-20, autoattack\n"
    )
    kept = select_attacks("noise,square,pgd-20-eot")
    assert for_random(kept, "float") == kept
    assert capsys.readouterr().err == ""


def test_an_attack_that_takes_it_for_one_network_is_refused(choice, digits):
    subject = subject_of(choice, digits)
    for name in ("pgd-20", "autoattack"):
        attack = prepare(attack_card(name), THREAT, n_classes=10, seed=0)
        with pytest.raises(UserError, match="random; use pgd-20-eot or autoattack-rand"):
            grid.evaluate(subject, [OperatingPoint(0.5)], [attack], show=False)


def test_an_entry_says_random_and_is_ranked_by_attacks_on_the_expectation_alone(
    choice, digits, tmp_path
):
    result = oat_bench.evaluate(
        choice, dataset=digits, lambdas=[0.0, 0.5, 1.0], attacks="pgd-20", n_examples=24
    )
    entry = result.entry
    assert entry.randomized
    assert [attack.name for attack in entry.attacks] == ["pgd-20-eot"]
    assert reliability.on_expectation(entry.attacks[0])
    assert "Random: each image is answered by a draw" in str(result)
    (record,) = [records.read(result.save(tmp_path))]
    (row,) = ranking.rank([record], attack="pgd-20-eot").rows
    assert (row.rank, row.doubts) == (1, ())
    with pytest.raises(UserError, match="unknown attack of these entries 'pgd-20'"):
        ranking.rank([record], attack="pgd-20")


def test_integrity_knows_that_it_is_random(choice, floating, digits):
    for classifier in (choice, floating):
        at = subject_of(classifier, digits).at(OperatingPoint(0.5))
        _, repeat, logits = probes.outputs(at, torch.arange(60))
        assert repeat.verdict == "pass"
        assert repeat.evidence.startswith("random, as it says: another draw changes ")
        assert 0 <= repeat.numbers["changed"] < 40
        assert logits.verdict == "pass"
        alike, n = at.steady, torch.arange(8)
        assert isinstance(alike, Expectation)
        x = digits.test.inputs(n)
        assert torch.equal(alike(x), alike(x))
        torch.testing.assert_close(alike(x).exp().sum(1), torch.ones(8))


CARD = """
extends = "digits"
[method]
name = "random-choice"
standard = "{folder}"
[training]
lambdas = [0, 1]
[evaluation]
lambdas = [0, 0.5]
attacks = "pgd-7"
n_examples = 20
"""


def test_from_a_card_to_a_report_of_integrity(trained_folder, invoke):
    Path("choice.toml").write_text(CARD.format(folder=trained_folder))
    code, out, err = invoke("run", "--benchmark", "choice.toml", "--out", "runs/choice")
    assert code == 0, err
    assert "random-choice is random: attacked on its expectation, by pgd-20-eot" in err
    assert "RANDOM-CHOICE" in out
    brief = ("--lambda", "0.5", "--n-examples", "10,square=4,dial=4")
    code, out, err = invoke("integrity", "runs/choice", *brief)
    assert code in (0, 1), err
    assert "random, as it says" in out
    code, _, err = invoke("calibrate", "runs/choice", "--min-sa", "50%", "--split", "test")
    assert (code, err.count("\n")) == (2, 1)
    assert "answers at random (method random-choice)" in err
    code, _, err = invoke("transfer", "runs/choice", "--n-examples", "20")
    assert (code, err.count("\n")) == (2, 1)
    assert "is not on the expectation" in err
