"""AutoAttack against the code of its authors (pyautoattack), and cards against definitions."""

import inspect
from pathlib import Path

import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

from oat_bench import cards
from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.errors import UserError
from oat_bench.statistics.pairs import mcnemar

ROOT = Path(__file__).parents[2]
PARTS = ["apgd-ce", "apgd-t", "fab-t", "square"]


class Counted(nn.Module):
    """A linear classifier of wide margins that counts what passes through it."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, n_classes)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(n_classes, 16))
            self.linear.bias.copy_(10.0 * torch.arange(n_classes))
        self.forwards = self.gradients = 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._differentiated)
        return self.linear(x.flatten(1))

    def _differentiated(self, gradient):
        self.gradients += len(gradient)

    def counted(self, attack, *batch):
        """Return the passes that an attack makes of an image: forward, and to the gradient."""
        self.forwards = self.gradients = 0
        attack(*batch)
        return self.forwards / len(batch[0]), self.gradients / len(batch[0])


@pytest.mark.parametrize("n_classes", [4, 12])
def test_each_part_makes_the_passes_of_the_authors(n_classes):
    torch.manual_seed(0)
    model = Counted(n_classes)
    x, y = torch.rand(3, 1, 4, 4), torch.full((3,), n_classes - 1)
    theirs = AutoAttack(model, eps=0.01, seed=0)
    if n_classes < 10:  # their standard asks for as many classes as it has targets and one
        theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = n_classes - 1
    theirs.fab.targeted = True
    originals = [theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square]
    attack = prepare(attack_card("autoattack"), Threat(eps=0.01), n_classes=n_classes, seed=0)
    assert [run.name for run in attack.chain] == theirs.attacks_to_run == PARTS
    for part, original in zip(attack.parts(), originals, strict=True):
        original.seed = 0
        expected = model.counted(original.perturb, x, y)
        found = model.counted(lambda *batch, part=part: part(model, *batch, torch.arange(3)), x, y)
        # one library looks at the clean images, or at the result, once more than the other
        assert found[1] == expected[1]
        assert abs(found[0] - expected[0]) <= 2 * min(9, n_classes - 1)
        assert part.passes == pytest.approx(sum(expected), rel=0.35)
    # 5,000 queries, the first squares, and the clean images
    assert expected == (5003, 0)


def test_the_numbers_stand_in_the_card_as_the_authors_state_them():
    theirs = AutoAttack(nn.Identity(), eps=0.1, seed=0)
    ce, targeted, fab, square = attack_card("autoattack").parts
    for part, original in ((ce, theirs.apgd), (targeted, theirs.apgd_targeted), (fab, theirs.fab)):
        assert part.parameters["n_restarts"] == original.n_restarts == 1
        assert part.parameters["steps"] == original.n_iter == 100
    for part, original in ((ce, theirs.apgd), (targeted, theirs.apgd_targeted)):
        assert part.parameters["rho"] == original.thr_decr == 0.75
        assert part.parameters["eot_iter"] == original.eot_iter == 1
    assert ce.parameters["loss"] == "ce"
    for name in ("alpha_max", "eta", "beta"):
        assert fab.parameters[name] == getattr(theirs.fab, name)
    assert square.parameters["n_queries"] == theirs.square.n_queries == 5000
    assert square.parameters["p_init"] == theirs.square.p_init == 0.8
    assert square.parameters["resc_schedule"] is theirs.square.rescale_schedule is False
    assert square.parameters["loss"] == theirs.square.loss == "margin"
    for n_classes in (10, 100, 1000):
        for part in (targeted, fab):
            aimed = part.resolve(Threat(), n_classes=n_classes, seed=0)["n_classes"] - 1
            assert aimed == theirs.fab.n_target_classes == 9
    assert targeted.resolve(Threat(), n_classes=4, seed=0)["n_classes"] == 4


@pytest.mark.parametrize("part", attack_card("autoattack").parts, ids=PARTS)
def test_the_cards_of_the_parts_are_the_parts(part):
    card = attack_card(part.name)
    assert (card.class_, card.parameters) == (part.class_, part.parameters)
    assert card.min_classes == part.min_classes


@pytest.mark.parametrize("name", cards.names("attacks"))
def test_every_parameter_that_defines_an_attack_is_stated(name):
    """No default of another library decides what a card does."""
    import torchattacks

    for part in attack_card(name).chain():
        if attack_card(name).engine == "oat_bench":
            continue
        taken = set(inspect.signature(getattr(torchattacks, part.class_)).parameters)
        assert taken - {"model", "verbose"} == set(part.parameters)


def test_the_defaults_of_the_in_house_attacks_are_their_definitions():
    """PGD starts at random, once (Madry et al., section 2.1); FGSM and MI-FGSM at the image."""
    defaults = {
        name: {
            key: parameter.default
            for key, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not inspect.Parameter.empty and key != "targeted"
        }
        for name, function in in_house.CLASSES.items()
    }
    pgd = {"norm": "Linf", "random_start": True, "restarts": 1}
    # MI-FGSM: ten iterations, decay 1 (Dong et al., section 4.1)
    mi_fgsm = {"steps": 10, "decay": 1.0}
    assert defaults == {
        "FGSM": {},
        "MIFGSM": mi_fgsm,
        "PGD": pgd,
        "EOTPGD": pgd | {"eot_iter": 10},
        "Noise": {"norm": "Linf"},
    }


@pytest.mark.parametrize("n_classes", [2, 3])
def test_with_few_classes_the_parts_that_apply_run_and_are_named(n_classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, n_classes)).eval()
    x = torch.rand(16, 1, 4, 4)
    y = model(x).argmax(1)
    attack = prepare(attack_card("autoattack"), Threat(eps=0.3), n_classes=n_classes, seed=0)
    assert attack.label == "apgd-ce+fab-t+square"
    broken = model(attack(model, x, y, torch.arange(16))).argmax(1) != y
    # of a linear model the corner of ball and box that is best against a class is known
    weight, reachable = model[1].weight, torch.zeros(16, dtype=torch.bool)
    for target in range(n_classes):
        sign = (weight[target] - weight[y]).sign().view_as(x)
        reachable |= model((x + 0.3 * sign).clamp(0, 1)).argmax(1) != y
    assert torch.equal(broken, reachable)
    assert 0 < broken.sum() < 16
    with pytest.raises(
        UserError, match=r"'apgd-t' needs 4 classes or more, the model has .*; leav"
    ):
        prepare(attack_card("apgd-t"), Threat(), n_classes=n_classes, seed=0)


def test_a_card_of_parts_needs_no_class_and_its_parts_have_names_of_their_own():
    part = {"name": "a", "class": "PGD"}
    base = {"name": "x", "engine": "oat_bench"}
    with pytest.raises(ValueError, match="belong to the"):
        AttackCard.model_validate(base | {"class": "PGD", "parts": [part]})
    with pytest.raises(ValueError, match="same name"):
        AttackCard.model_validate(base | {"parts": [part, part]})


def test_what_a_part_does_depends_on_those_before_it():
    whole = prepare(attack_card("autoattack"), Threat(), n_classes=10, seed=0)
    prints = [part.fingerprint() for part in [whole, *whole.parts()]]
    assert len(set(prints)) == 5
    card = attack_card("autoattack")
    shorter = card.model_copy(update={"parts": card.parts[1:]})
    other = prepare(shorter, Threat(), n_classes=10, seed=0)
    assert not set(prints) & {part.fingerprint() for part in other.parts()}


@pytest.mark.slow
def test_robust_accuracy_is_that_of_the_authors_within_the_noise_of_seeds(digits):
    model = load(ROOT / "leaderboards/digits/Linf/oat-wrn-10-1.safetensors").at(1.0)
    ids = torch.arange(200)
    x, y = digits.test.inputs(ids), digits.test.labels[ids]
    right = model(x).argmax(1) == y
    attack = prepare(attack_card("autoattack"), Threat(eps=6 / 16), n_classes=10, seed=0)
    ours = right.clone()
    ours[right] = model(attack(model, x[right], y[right], ids[right])).argmax(1) == y[right]
    x_adv, _ = AutoAttack(model, eps=6 / 16, seed=0).run_standard_evaluation(x, y)
    theirs = model(x_adv).argmax(1) == y
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    assert mcnemar(only_ours, only_theirs, "two-sided") > 0.01
    assert abs(only_ours - only_theirs) <= 6
