"""Targeted attacks against the libraries' own, and what counts as broken."""

import json

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.estimators.classification import PyTorchClassifier
from scipy.stats import chisquare
from torch import nn

from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.with_torchattacks import _classes
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation import random_lambda, transfer
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.results.points import summarize
from oat_bench.results.records import read
from oat_bench.run import prepare_attacks
from oat_bench.statistics.phases import Design
from oat_bench.training.pgd import pgd

THREAT = Threat(eps=0.3, step_size=0.05)
TARGETS = ["next", "random", "least-likely"]


def make(engine="oat_bench", class_="PGD", targeted="next", seed=0, **parameters):
    given = {"eps": "$eps"} | parameters
    card = AttackCard.model_validate(
        {"name": "a", "engine": engine, "class": class_, "parameters": given, "targeted": targeted}
    )
    return prepare(card, THREAT, n_classes=10, seed=seed)


def make_pgd(targeted="next", **parameters):
    parameters = {"step_size": "$step_size", "steps": 10, "random_start": False} | parameters
    return make(targeted=targeted, **parameters)


@pytest.fixture(scope="module")
def model(trained_folder):
    return load(trained_folder).at(1.0)


@pytest.fixture(scope="module")
def batch(model, digits):
    x, y = digits.test.inputs(slice(0, 80)), digits.test.labels[:80]
    right = (model(x).argmax(1) == y).nonzero()[:, 0]
    return x[right], y[right], right


# --- targets


@pytest.mark.parametrize("targeted", TARGETS)
def test_targets_belong_to_the_example(model, batch, targeted):
    x, y, ids = batch
    attack = make_pgd(targeted)
    target = attack.aim(model, x, y, ids)
    assert (target != y).all()
    assert ((target >= 0) & (target < 10)).all()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(attack.aim(model, x[order], y[order], ids[order]), target[order])
    assert torch.equal(attack.aim(model, x[:3], y[:3], ids[:3]), target[:3])


def test_the_next_class_and_the_least_likely(model, batch):
    x, y, ids = batch
    assert torch.equal(make_pgd("next").aim(model, x, y, ids), (y + 1) % 10)
    theirs = torchattacks.PGD(model)
    theirs.set_mode_targeted_least_likely(quiet=True)
    expected = theirs.get_target_label(x, y)
    assert torch.equal(make_pgd("least-likely").aim(model, x, y, ids), expected)


def test_random_targets_are_uniform_over_the_other_classes_and_follow_the_seed():
    y, ids = torch.arange(10).repeat(900), torch.arange(9000)
    first, other = (make_pgd("random", seed=seed).aim(nn.Identity(), y, y, ids) for seed in (0, 1))
    assert chisquare(np.bincount((first - y) % 10, minlength=10)[1:]).pvalue > 1e-3
    assert ((first - y) % 10 == 0).sum() == 0
    assert 0.05 < (first == other).float().mean() < 0.2


# --- the same as the libraries'


@pytest.mark.parametrize("targeted", TARGETS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"class_": "FGSM"}, lambda m: torchattacks.FGSM(m, eps=0.3)),
        (
            {"class_": "MIFGSM", "step_size": 0.03},
            lambda m: torchattacks.MIFGSM(m, eps=0.3, alpha=0.03, steps=10, decay=1.0),
        ),
        (
            {"step_size": 0.05, "steps": 20, "random_start": False},
            lambda m: torchattacks.PGD(m, 0.3, alpha=0.05, steps=20, random_start=False),
        ),
    ],
)
def test_in_house_attacks_equal_torchattacks_in_targeted_mode(model, batch, ours, theirs, targeted):
    x, y, ids = batch
    attack, other = make(targeted=targeted, **ours), theirs(model)
    other.set_mode_targeted_by_label(quiet=True)
    target = attack.aim(model, x, y, ids)
    x_adv, expected = attack(model, x, target, ids), other(x, target)
    assert torch.equal(model(x_adv).argmax(1), model(expected).argmax(1))
    # towards the target, and not merely away from the label
    loss = nn.CrossEntropyLoss()
    assert loss(model(x_adv), target) < loss(model(x), target)


def test_targeted_pgd_from_the_same_random_start_equals_torchattacks(model, batch):
    x, y, _ = batch
    other = torchattacks.PGD(model, 0.3, alpha=0.05, steps=10, random_start=True)
    other.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 10, quiet=True)
    torch.manual_seed(11)
    expected = other(x, y)
    torch.manual_seed(11)
    start = x + torch.empty_like(x).uniform_(-0.3, 0.3)
    common = {"eps": 0.3, "step_size": 0.05, "steps": 10, "start": start, "targeted": True}
    ours = pgd(model, x, (y + 1) % 10, **common)
    assert torch.equal(model(ours).argmax(1), model(expected).argmax(1))
    assert (model(ours).argmax(1) == (y + 1) % 10).any()


def test_a_restart_goes_on_with_what_missed_its_target(model, batch):
    x, y, ids = batch
    reached = []
    for restarts in (1, 3):
        attack = make_pgd("least-likely", steps=3, random_start=True, restarts=restarts)
        target = attack.aim(model, x, y, ids)
        reached.append(model(attack(model, x, target, ids)).argmax(1) == target)
    assert (reached[0] <= reached[1]).all()
    assert 0 < reached[0].sum() < reached[1].sum()


def test_the_other_engines_aim_as_their_libraries_do(model, batch):
    x, y, ids = (part[:16] for part in batch)
    target = (y + 1) % 10
    card = make("torchattacks", "BIM", alpha="$step_size", steps=10)
    theirs = torchattacks.BIM(model, eps=0.3, alpha=0.05, steps=10)
    theirs.set_mode_targeted_by_label(quiet=True)
    assert torch.equal(card(model, x, target, ids), theirs(x, target))
    name = "ProjectedGradientDescentNumpy"
    card = make("art", name, eps_step="$step_size", max_iter=10)
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    theirs = ProjectedGradientDescentNumpy(
        estimator, eps=0.3, eps_step=0.05, max_iter=10, targeted=True, verbose=False
    )
    expected = torch.as_tensor(theirs.generate(x.numpy(), target.numpy()))
    assert torch.equal(card(model, x, target, ids), expected)
    assert (model(expected).argmax(1) == target).any()


@pytest.mark.parametrize(
    ("class_", "parameters"),
    [
        ("CW", {"steps": 5, "lr": 0.05}),
        ("DIFGSM", {"alpha": 0.05}),
        ("FAB", {"steps": 5, "n_classes": "$n_classes"}),
        ("JSMA", {"theta": 1.0, "gamma": 0.2}),
        ("OnePixel", {"pixels": 1, "steps": 2, "popsize": 3}),
        ("PGDL2", {"steps": 3}),
        ("SPSA", {"nb_iter": 2}),
        ("Square", {"n_queries": 50}),
        ("VNIFGSM", {"steps": 2}),
    ],
)
def test_classes_of_torchattacks_run_in_targeted_mode(model, batch, class_, parameters):
    x, y, ids = (part[:6] for part in batch)
    unbounded = ("CW", "JSMA", "OnePixel")
    attack = make("torchattacks", class_, **parameters) if class_ not in unbounded else None
    if attack is None:
        card = {"name": "a", "engine": "torchattacks", "class": class_, "targeted": "next"}
        card = AttackCard.model_validate(card | {"parameters": parameters})
        attack = prepare(card, THREAT, n_classes=10, seed=0)
    x_adv = attack(model, x, attack.aim(model, x, y, ids), ids)
    assert attack.allowed(x_adv, x).all()


# --- what counts


@pytest.fixture(scope="module")
def outcomes(trained_folder, digits):
    attacks = [make_pgd("next"), make_pgd(None)]
    subject = Subject(load(trained_folder), digits.test, "digits", torch.arange(80))
    frame = evaluate(subject, [OperatingPoint(1.0)], attacks, show=False)
    return {name: part.set_index("example") for name, part in frame.groupby("attack")}, frame


def test_broken_is_what_is_taken_for_its_target(outcomes, model, digits):
    rows = outcomes[0]["a-targeted"]
    y = digits.test.labels[:80]
    right = model(digits.test.inputs(slice(0, 80))).argmax(1) == y
    x = digits.test.inputs(slice(0, 80))[right]
    theirs = torchattacks.PGD(model, 0.3, alpha=0.05, steps=10, random_start=False)
    theirs.set_mode_targeted_by_label(quiet=True)
    target = (y[right] + 1) % 10
    prediction = model(theirs(x, target)).argmax(1)
    expected = torch.where(prediction == target, target, y[right])
    assert rows["attacked_prediction"][right.numpy()].to_list() == expected.tolist()
    # some became another class, which is no success
    assert ((prediction != target) & (prediction != y[right])).any()
    assert 0 < (prediction == target).sum() < len(x)
    assert (rows["attacked_prediction"][~right.numpy()] != y[~right].numpy()).all()


def test_the_worst_case_leaves_it_out(outcomes):
    by_name, frame = outcomes
    (result,) = summarize(frame, Design(["a"]))
    assert result.robust["worst"] == result.robust["a"]
    assert result.robust["a-targeted"].value > result.robust["a"].value
    assert set(by_name) == {"a", "a-targeted"}


def test_a_run_says_what_its_columns_are(invoke, trained_folder, brief_toml, tmp_path):
    (tmp_path / "brief.toml").write_text(brief_toml)
    for name, head in [("mine", "targeted = 'least-likely'"), ("plain", "")]:
        (tmp_path / f"{name}.toml").write_text(
            f"engine = 'oat_bench'\nclass = 'FGSM'\n{head}\n[parameters]\neps = '$eps'\n"
        )
    code, out, err = invoke(
        *["evaluate", trained_folder, "--attacks", "./mine.toml,./plain.toml", "--out", "out"],
        *["--benchmark", "./brief.toml", "--lambda", 1, "--n-examples", 50],
    )
    assert (code, err) == (0, "table, entry, outcomes and figures in out\n")
    header = next(line for line in out.splitlines() if line.startswith("|"))
    names = [cell.strip() for cell in header.split("|")[1:-1]]
    assert names == ["lambda", "n", "SA", "mine-targeted", "plain", "worst"]
    note = "mine-targeted: an image is broken where it is taken for its target (least-likely)"
    assert note in out
    assert note in (tmp_path / "out" / "table.tex").read_text()
    entry = json.loads((tmp_path / "out" / "entry.json").read_text())
    assert [attack["targeted"] for attack in entry["attacks"]] == ["least-likely", None]
    (point,) = entry["operating_points"]
    assert point["worst_case_acc"]["value"] == point["robust_acc"]["plain"]["value"]
    assert read(tmp_path / "out").worst_over() == ["plain"]
    code, out, _ = invoke("leaderboard", "validate", "out")
    assert code == 0
    # a baseline is run again as it was
    code, out, err = invoke("check", trained_folder, "--baseline", "out", "--out", "checked")
    assert (code, err) == (0, "outcomes in checked\n")
    assert "mine-targeted" in out


# --- what is refused


@pytest.mark.parametrize(
    ("engine", "class_", "parameters", "words"),
    [
        ("oat_bench", "Noise", {"draws": 3}, "cannot aim at a class"),
        ("torchattacks", "APGDT", {"n_classes": 10}, "cannot aim at a class"),
        ("torchattacks", "AutoAttack", {}, "cannot aim at a class"),
        ("torchattacks", "FAB", {"multi_targeted": True}, "leave out parameter 'multi_targeted'"),
        ("art", "SquareAttack", {}, "cannot aim at a class"),
    ],
)
def test_what_cannot_aim_is_refused_in_a_line(engine, class_, parameters, words):
    with pytest.raises(UserError, match=words) as error:
        make(engine, class_, **parameters)
    assert "\n" not in str(error.value)
    assert class_ in str(error.value)


def test_a_card_says_once_that_it_is_targeted():
    card = {"name": "a", "engine": "art", "class": "FastGradientMethod", "targeted": "next"}
    card = AttackCard.model_validate(card | {"parameters": {"eps": 0.1, "targeted": True}})
    with pytest.raises(UserError, match="leave out parameter 'targeted'"):
        prepare(card, THREAT, n_classes=10, seed=0)


def test_cards_that_cannot_be_targeted(tmp_path):
    (tmp_path / "a.toml").write_text("extends = 'autoattack'\ntargeted = 'next'\n")
    (tmp_path / "b.toml").write_text("extends = 'fgsm'\ntargeted = 'nearest'\n")
    with pytest.raises(UserError, match=r"targeted is for a card of one class.*\[\[parts\]\]"):
        attack_card(str(tmp_path / "a.toml"))
    with pytest.raises(UserError, match=r"targeted: .*'random', 'least-likely' or 'next'"):
        attack_card(str(tmp_path / "b.toml"))


def test_two_attacks_of_one_column_are_refused(tmp_path, brief):
    (tmp_path / "mine.toml").write_text("extends = 'fgsm'\ntargeted = 'next'\n")
    (tmp_path / "mine-targeted.toml").write_text("extends = 'pgd-7'\n")
    chosen = f"{tmp_path}/mine.toml,{tmp_path}/mine-targeted.toml"
    evaluation = brief.evaluation.model_copy(update={"attacks": chosen})
    with pytest.raises(UserError, match="'mine-targeted'; rename a card"):
        prepare_attacks(brief.model_copy(update={"evaluation": evaluation}), 10, 0)


def test_transfer_and_random_lambda_refuse_targets(trained, digits):
    attack = make_pgd("next")
    with pytest.raises(UserError, match="targeted"):
        random_lambda.check_attack(attack)
    with pytest.raises(UserError, match="leave out targeted"):
        transfer.transfer(Subject(trained, digits.test, "d"), [0.0], [1.0], attack)


def test_a_card_without_the_key_is_what_it_was():
    card = attack_card("pgd-20")
    assert "targeted" not in card.model_dump_json()
    plain, aimed = make_pgd(None), make_pgd("next")
    assert len({plain.fingerprint(), aimed.fingerprint(), make_pgd("random").fingerprint()}) == 3
    assert (plain.label, aimed.label) == ("a", "a-targeted")


def test_every_class_of_torchattacks_that_supports_targets_is_let_through():
    supporting = {"BIM", "CW", "FGSM", "MIFGSM", "PGD", "PGDL2", "TIFGSM", "UPGD"}
    for name in _classes():
        parameters = {"eps": 0.1} if name in supporting - {"CW"} else {}
        if name in supporting:
            card = {"name": "a", "engine": "torchattacks", "class": name, "targeted": "random"}
            card = AttackCard.model_validate(card | {"parameters": parameters})
            assert prepare(card, THREAT, n_classes=10, seed=0).targeted
