"""AutoAttack against the code of its authors (pyautoattack), and cards against definitions."""

import inspect
from pathlib import Path

import pytest
import torch
import torchattacks
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import nn

from oat_bench import cards, datasets
from oat_bench.acceleration import Accelerated
from oat_bench.attacks import in_house, with_torchattacks
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
        self.linear = nn.Linear(25, n_classes)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(n_classes, 25))
            self.linear.bias.copy_(10.0 * torch.arange(n_classes))
        self.forwards = self.gradients = 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x = x.view_as(x)  # one image may pass several times: a hook for each
            x.register_hook(self._differentiated)
        return self.linear(x.flatten(1))

    def _differentiated(self, gradient):
        self.gradients += len(gradient)

    def counted(self, attack, *batch):
        """Return the passes that an attack makes of an image: forward, and to the gradient."""
        self.forwards = self.gradients = 0
        attack(*batch)
        return self.forwards / len(batch[0]), self.gradients / len(batch[0])


@pytest.mark.parametrize(("n_classes", "norm"), [(4, "Linf"), (12, "Linf"), (4, "L2")])
def test_each_part_makes_the_passes_of_the_authors(n_classes, norm):
    torch.manual_seed(0)
    model = Counted(n_classes)
    x, y = torch.rand(3, 1, 5, 5), torch.full((3,), n_classes - 1)
    theirs = AutoAttack(model, eps=0.01, norm=norm, seed=0)
    if n_classes < 10:  # their standard asks for as many classes as it has targets and one
        theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = n_classes - 1
    theirs.fab.targeted = True
    originals = [theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square]
    threat = Threat(norm=norm, eps=0.01)
    attack = prepare(attack_card("autoattack"), threat, n_classes=n_classes, seed=0)
    assert [run.name for run in attack.chain] == theirs.attacks_to_run == PARTS
    for part, original in zip(attack.parts(), originals, strict=True):
        original.seed = 0
        expected = model.counted(original.perturb, x, y)
        found = model.counted(lambda *batch, part=part: part(model, *batch, torch.arange(3)), x, y)
        # one library looks at the clean images, at the result, or at a last gradient once more
        spare = 2 * min(9, n_classes - 1)
        assert expected[1] - spare <= found[1] <= expected[1]
        assert found[0] <= expected[0] + spare
        said = (part.passes.forward, part.passes.backward)
        if part.class_ == "Square":  # it does not ask about what clipping undoes
            assert found[0] <= said[0] <= expected[0]
            assert found[1] == said[1]
        else:
            assert found[0] >= expected[0] - spare
            assert found == said
    # 5,000 queries, the first squares, and the clean images
    assert expected == (5003, 0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_numbers_stand_in_the_card_as_the_authors_state_them(norm):
    theirs = AutoAttack(nn.Identity(), eps=0.1, norm=norm, seed=0)
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
        if name not in in_house.ALIKE
    }
    linf = {"norm": "Linf"}
    pgd = {"random_start": True, "restarts": 1}
    # MI-FGSM: ten iterations, decay 1 (Dong et al., section 4.1)
    mi_fgsm = {"steps": 10, "decay": 1.0}
    expected = {"FGSM": {}, "MIFGSM": mi_fgsm, "PGD": pgd, "Noise": {}}
    expected |= {"EOTPGD": pgd | {"eot_iter": 10}}
    assert defaults == {name: linf | own for name, own in expected.items()}


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


# --- L2, where torchattacks departs from the authors' code


def problem(size, channels, n=24):
    """Images that a small network of random weights gets right, by definition."""
    torch.manual_seed(0)
    body = nn.Conv2d(channels, 6, 3, padding=1), nn.Tanh(), nn.Flatten()
    head = nn.Linear(6 * size * size, 30), nn.Tanh(), nn.Linear(30, 10)
    model = nn.Sequential(*body, *head).eval()
    x = torch.rand(n, channels, size, size)
    return model, x, model(x).argmax(1)


def made(name, model, eps, **changes):
    """Return torchattacks' object as the engine makes it of a shipped card."""
    attack = prepare(attack_card(name), Threat(norm="L2", eps=eps), n_classes=10, seed=3)
    found = with_torchattacks._made(attack, model)
    vars(found).update(changes)
    return found


def searched(attack, x, y):
    """Run once from a seed: what `perturb` hides of images that stand is seen too."""
    torch.manual_seed(1)
    return attack.attack_single_run(x, y)


def test_apgd_t_of_l2_is_the_authors_image_by_image():
    """torchattacks 3.5.1 gives every image the step size of the batch's first."""
    model, x, y = problem(8, 1)
    theirs = APGDAttack_targeted(model, norm="L2", eps=1.0, n_iter=60)
    theirs.init_hyperparam(x)
    theirs.y_target = model(x).sort(dim=1)[1][:, -3]
    _, stands, expected, _ = searched(theirs, x, y)
    target = {"steps": 60, "target_class": 3}
    _, ours, found, _ = searched(made("apgd-t", model, 1.0, **target), x, y)
    assert torch.equal(ours, stands)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    unmended = torchattacks.APGDT(model, norm="L2", eps=1.0)
    vars(unmended).update(target)
    assert (searched(unmended, x, y)[2] - expected).abs().max() > 5e-3


@pytest.mark.parametrize("shape", [(12, 12), (14, 14), (24, 24), (4, 4), (3, 8), (20, 9), (9, 20)])
def test_square_of_l2_takes_images_of_any_size(shape):
    """The authors' code stops at 12x12, 14x14, 18x18, 19x19, 24x24, and below 5."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], 10)).eval()
    x = torch.rand(16, 1, *shape)
    y = model(x).argmax(1)
    given = {"eps": 0.5, "n_queries": 200, "norm": "L2", "example_ids": torch.arange(16)}
    x_adv = in_house.CLASSES["Square"](model, x, y, **given)
    assert (x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
    assert (model(x_adv).argmax(1) != y).sum() >= 4


def test_what_was_mended_has_another_fingerprint_and_all_else_keeps_its_own(monkeypatch):
    """Outcomes that earlier releases stored under L2 are of other attacks."""

    def prints(name, norm):
        attack = prepare(attack_card(name), Threat(norm=norm, eps=0.5), n_classes=10, seed=0)
        return [part.fingerprint() for part in attack.parts()]

    names = ("autoattack", "apgd-ce", "pgd-20", "noise")
    now = {(name, norm): prints(name, norm) for name in names for norm in ("Linf", "L2")}
    for engine in (in_house, with_torchattacks):
        monkeypatch.setattr(engine, "REVISED_L2", ())
    changed = [
        (name, norm, number)
        for (name, norm), parts in now.items()
        for number, (new, old) in enumerate(zip(parts, prints(name, norm), strict=True))
        if new != old
    ]
    assert changed == [("pgd-20", "L2", 0), ("noise", "L2", 0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "norm", "eps", "parts"),
    [
        ("digits/Linf", "Linf", 6 / 16, 4),
        ("digits/Linf", "L2", 0.75, 4),
        ("fashion-12x12/L2", "L2", 1.25, 3),  # their Square fails on images of 12x12
    ],
)
def test_robust_accuracy_is_that_of_the_authors_within_the_noise_of_seeds(entry, norm, eps, parts):
    classifier = load(ROOT / "leaderboards" / entry / "oat-wrn-10-1.safetensors")
    model, test = Accelerated(classifier.at(1.0)), datasets.load(classifier.info.dataset).test
    ids = torch.arange(200)
    x, y = test.inputs(ids), test.labels[ids]
    right = model(x).argmax(1) == y
    threat = Threat(norm=norm, eps=eps)
    card = attack_card("autoattack")
    card = card.model_copy(update={"parts": card.parts[:parts]})
    attack = prepare(card, threat, n_classes=10, seed=0)
    ours = right.clone()
    ours[right] = model(attack(model, x[right], y[right], ids[right])).argmax(1) == y[right]
    authors = AutoAttack(model, eps=eps, norm=norm, seed=0)
    authors.attacks_to_run = PARTS[:parts]
    x_adv, _ = authors.run_standard_evaluation(x, y)
    theirs = model(x_adv).argmax(1) == y
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    assert mcnemar(only_ours, only_theirs, "two-sided") > 0.01
    assert abs(only_ours - only_theirs) <= 6
