"""Attack cards against the libraries themselves, called by hand."""

import random
import warnings

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn
from tqdm.auto import tqdm

from oat_bench import cards
from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.errors import UserError
from oat_bench.training.pgd import pgd

THREAT = Threat(eps=0.2, step_size=0.05)

GRADIENT = {
    "BIM": "eps = '$eps'\nalpha = '$step_size'",
    "DIFGSM": "eps = '$eps'\nalpha = '$step_size'",
    "EOTPGD": "eps = '$eps'\nalpha = '$step_size'",
    "FFGSM": "eps = '$eps'\nalpha = '$eps'",
    "FGSM": "eps = '$eps'",
    "MIFGSM": "eps = '$eps'\nalpha = '$eps/10'",
    "NIFGSM": "eps = '$eps'\nalpha = '$eps/10'",
    "PGD": "eps = '$eps'\nalpha = '$step_size'",
    "RFGSM": "eps = '$eps'\nalpha = '$step_size'",
    "SINIFGSM": "eps = '$eps'\nalpha = '$step_size'",
    "UPGD": "eps = '$eps'\nalpha = '$step_size'",
    "VMIFGSM": "eps = '$eps'\nalpha = '$step_size'",
    "VNIFGSM": "eps = '$eps'\nalpha = '$step_size'",
    "APGD": "eps = '$eps'\nsteps = 10\nseed = '$seed'",
    "APGDT": "eps = '$eps'\nsteps = 5\nn_classes = '$n_classes'\nseed = '$seed'",
    "FAB": "eps = '$eps'\nsteps = 5\nn_classes = '$n_classes'\nseed = '$seed'",
    "Square": "eps = '$eps'\nn_queries = 200\nseed = '$seed'",
}
#: these minimise a norm or change few pixels: broken only counts inside the ball
UNBOUNDED = {
    "CW": "steps = 20\nlr = 0.05",
    "DeepFool": "steps = 20",
    "OnePixel": "pixels = 3\nsteps = 5\npopsize = 5",
    "Pixle": "max_iterations = 5",
    "JSMA": "theta = 1.0\ngamma = 0.2",
    "EADL1": "max_iterations = 10\nbinary_search_steps = 2",
    "GN": "std = 0.5",
}
ART_GRADIENT = {
    "FastGradientMethod": "eps = '$eps'",
    "BasicIterativeMethod": "eps = '$eps'\neps_step = '$step_size'\nmax_iter = 10",
    "MomentumIterativeMethod": "eps = '$eps'\neps_step = '$step_size'\nmax_iter = 10",
    "ProjectedGradientDescent": "eps = '$eps'\neps_step = '$step_size'\nmax_iter = 10",
    "ProjectedGradientDescentNumpy": "eps = '$eps'\neps_step = '$step_size'\nmax_iter = 10",
    "ProjectedGradientDescentPyTorch": "eps = '$eps'\neps_step = '$step_size'\nmax_iter = 10",
    "AutoProjectedGradientDescent": (
        "norm = '$norm'\neps = '$eps'\neps_step = '$eps*2'\nmax_iter = 10\nnb_random_init = 1"
    ),
    "AutoConjugateGradient": (
        "norm = '$norm'\neps = '$eps'\neps_step = '$eps*2'\nmax_iter = 10\nnb_random_init = 1"
    ),
    "SquareAttack": "norm = '$norm'\neps = '$eps'\nmax_iter = 100",
}
ART_UNBOUNDED = {
    "DeepFool": "max_iter = 20",
    "NewtonFool": "max_iter = 10",
    "CarliniL2Method": "max_iter = 3\nbinary_search_steps = 2\nlearning_rate = 0.1",
    "CarliniLInfMethod": "max_iter = 5",
    "ElasticNet": "max_iter = 5\nbinary_search_steps = 2",
    "HopSkipJump": "norm = inf\nmax_iter = 2\nmax_eval = 50\ninit_eval = 5",
    "BoundaryAttack": "targeted = false\nmax_iter = 10",
    "ZooAttack": "max_iter = 5\nuse_resize = false\nuse_importance = false\nnb_parallel = 8",
    "SaliencyMapMethod": "theta = 0.5\ngamma = 0.3",
    "SpatialTransformation": "max_translation = 10.0\nnum_translations = 3",
    "PixelAttack": "th = 1\nmax_iter = 2",
    "SignOPTAttack": "targeted = false\nmax_iter = 2\nnum_trial = 5\nquery_limit = 200",
    "UniversalPerturbation": "attacker = 'fgsm'\nmax_iter = 1\neps = 0.2\nnorm = inf",
}
SLOW = ("CarliniLInfMethod", "SignOPTAttack", "PixelAttack", "ElasticNet", "ZooAttack")
ALL = [
    *[("torchattacks", *item) for item in (GRADIENT | UNBOUNDED).items()],
    *[("art", *item) for item in (ART_GRADIENT | ART_UNBOUNDED).items()],
]
STRONG = [
    *[("torchattacks", *item) for item in GRADIENT.items()],
    *[("art", *item) for item in ART_GRADIENT.items()],
]


@pytest.fixture
def write(tmp_path):
    """Write a card as a user does, and read it by its path."""

    def write(engine, class_, parameters="", name=None, head=""):
        path = tmp_path / f"{name or class_.lower()}.toml"
        path.write_text(
            f"engine = '{engine}'\nclass = '{class_}'\n{head}\n[parameters]\n{parameters}"
        )
        return attack_card(str(path))

    return write


@pytest.fixture(scope="module")
def model(trained_folder):
    return load(trained_folder).at(1.0)


@pytest.fixture(scope="module")
def batch(model, digits):
    """Images that the model gets right, with labels and ids."""
    x, y = digits.test.inputs(slice(0, 40)), digits.test.labels[:40]
    right = (model(x).argmax(1) == y).nonzero()[:8, 0]
    return x[right], y[right], right


def attacked(card, model, batch, threat=THREAT, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numerics inside ART
        return prepare(card, threat, n_classes=10, seed=seed)(model, *batch)


def broken(model, x_adv, y):
    return (model(x_adv).argmax(1) != y).sum().item()


def generator_states():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def assert_same_states(before):
    torch_state, numpy_state, python_state = generator_states()
    assert torch.equal(torch_state, before[0])
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, before[1], strict=True))
    assert python_state == before[2]


# --- any class of the two libraries


@pytest.mark.parametrize(
    ("engine", "class_", "parameters"),
    [pytest.param(*item, marks=[pytest.mark.slow] * (item[1] in SLOW)) for item in ALL],
)
def test_any_class_runs_from_a_card(write, model, batch, engine, class_, parameters):
    card = write(engine, class_, parameters)
    x = batch[0]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = generator_states()
    x_adv = attacked(card, model, batch)
    assert_same_states(before)

    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert not x_adv.requires_grad
    assert (x_adv - x).abs().max() <= THREAT.eps + 2e-5
    assert x_adv.min() >= -1e-5
    assert x_adv.max() <= 1 + 1e-5
    # the model is left as it was
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for module in model.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    # another state of the global generators, another attack between: the same images
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert torch.equal(attacked(card, model, batch), x_adv)


@pytest.mark.parametrize(("engine", "class_", "parameters"), STRONG)
def test_attacks_of_the_ball_break_images_there(write, model, batch, engine, class_, parameters):
    x_adv = attacked(write(engine, class_, parameters), model, batch)
    assert broken(model, x_adv, batch[1]) >= 2


@pytest.mark.parametrize(
    ("engine", "class_", "parameters"),
    [
        ("torchattacks", "CW", "c = 10\nsteps = 50\nlr = 0.05"),
        ("torchattacks", "DeepFool", "steps = 50"),
        ("art", "DeepFool", "max_iter = 50"),
        pytest.param(
            "art",
            "CarliniL2Method",
            "max_iter = 20\nbinary_search_steps = 3\nlearning_rate = 0.05\ninitial_const = 1.0",
            marks=pytest.mark.slow,
        ),
        ("art", "HopSkipJump", "norm = inf\nmax_iter = 3\nmax_eval = 100\ninit_eval = 10"),
        ("art", "BoundaryAttack", "targeted = false\nmax_iter = 10"),
    ],
)
def test_a_wider_ball_admits_what_minimises_the_norm(
    write, model, batch, engine, class_, parameters
):
    card = write(engine, class_, parameters)
    x, y, _ = batch
    narrow = attacked(card, model, batch, Threat(eps=0.01, step_size=0.01))
    wide = attacked(card, model, batch, Threat(eps=1.0, step_size=0.1))
    assert broken(model, wide, y) >= len(y) // 2
    assert broken(model, narrow, y) < broken(model, wide, y)
    # an image is either inside the ball or untouched
    moved = (narrow != x).flatten(1).any(1)
    assert (narrow - x)[moved].abs().sum() == 0 or (narrow - x).abs().max() <= 0.01 + 2e-5


def test_torchattacks_through_a_card_is_torchattacks(write, model, batch):
    x, y, ids = batch
    card = write("torchattacks", "PGD", "eps = '$eps'\nalpha = '$step_size'\nsteps = 5")
    torch.manual_seed(3 + int(ids[0]))
    expected = torchattacks.PGD(model, eps=0.2, alpha=0.05, steps=5)(x, y)
    assert torch.equal(attacked(card, model, batch, seed=3), expected)


def test_art_through_a_card_is_art(write, model, batch):
    x, y, _ = batch
    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    expected = FastGradientMethod(estimator, eps=0.2).generate(x.numpy(), y.numpy())
    x_adv = attacked(write("art", "FastGradientMethod", "eps = '$eps'"), model, batch)
    assert torch.equal(x_adv, torch.as_tensor(expected))


@pytest.mark.parametrize(
    ("class_", "parameters"),
    [
        ("HopSkipJump", "norm = 2\nmax_iter = 1\nmax_eval = 20\ninit_eval = 5"),
        ("BoundaryAttack", "targeted = false\nmax_iter = 3"),
        ("SquareAttack", "norm = 2\neps = 3.0\nmax_iter = 20"),
    ],
)
def test_random_attacks_of_art_follow_the_seed(write, model, batch, class_, parameters):
    card = write("art", class_, parameters)
    everything = Threat(norm="L2", eps=8.0, step_size=1.0)
    first, again = (attacked(card, model, batch, everything, seed=1) for _ in range(2))
    other = attacked(card, model, batch, everything, seed=2)
    moved = (first != batch[0]).flatten(1).any(1)
    assert moved.sum() >= 4
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.random.RandomState.__module__.startswith("numpy")


@pytest.mark.parametrize(
    ("class_", "parameters"),
    [
        ("AutoAttack", "eps = 0.9\neps_step = 0.9"),  # takes no verbose
        ("UniversalPerturbation", "attacker = 'deepfool'\nmax_iter = 1\neps = 0.2\nnorm = inf"),
        ("DeepFool", "max_iter = 2\nverbose = true"),
    ],
)
def test_art_draws_no_bars_not_even_inside(write, model, batch, class_, parameters, capfd):
    attacked(write("art", class_, parameters), model, [part[:2] for part in batch])
    assert capfd.readouterr().err == ""
    list(tqdm(range(2)))  # those of others are what they were
    assert "2/2" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["autoattack", "apgd-ce", "apgd-t", pytest.param("square", marks=pytest.mark.slow)]
)
def test_shipped_cards_of_torchattacks_run(model, batch, name):
    card = attack_card(name)
    x_adv = attacked(card, model, batch)
    weaker = attacked(attack_card("fgsm"), model, batch)
    assert broken(model, x_adv, batch[1]) >= broken(model, weaker, batch[1]) - 1
    assert broken(model, x_adv, batch[1]) >= 3


# --- the in-house attacks against torchattacks


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fgsm", lambda m: torchattacks.FGSM(m, eps=0.2)),
        ("mi-fgsm", lambda m: torchattacks.MIFGSM(m, eps=0.2, alpha=0.02, steps=10, decay=1.0)),
        ("pgd-7", lambda m: torchattacks.PGD(m, 0.2, alpha=0.05, steps=7, random_start=False)),
        ("pgd-20", lambda m: torchattacks.PGD(m, 0.2, alpha=0.05, steps=20, random_start=False)),
    ],
)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_shipped_in_house_cards_equal_torchattacks(trained, digits, name, theirs, lam):
    model = trained.at(lam)
    x, y = digits.test.inputs(slice(0, 64)), digits.test.labels[:64]
    card = attack_card(name)
    if "PGD" in card.class_:
        fixed = card.parameters | {"random_start": False}
        card = card.model_copy(update={"parameters": fixed})
    attack = prepare(card, THREAT, n_classes=10, seed=0)
    # only what is right clean is attacked with restarts; so does the evaluation
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    ours = model(attack(model, x, y, torch.arange(len(x)))).argmax(1) == y
    expected = model(theirs(model)(x, y)).argmax(1) == y
    assert torch.equal(ours, expected)
    assert 0 < expected.sum() < len(expected)


@pytest.mark.parametrize("steps", [7, 20])
def test_pgd_from_the_same_start_equals_torchattacks(model, digits, steps):
    x, y = digits.test.inputs(slice(0, 64)), digits.test.labels[:64]
    torch.manual_seed(11)
    expected = torchattacks.PGD(model, 0.2, alpha=0.05, steps=steps, random_start=True)(x, y)
    torch.manual_seed(11)
    start = x + torch.empty_like(x).uniform_(-0.2, 0.2)
    ours = pgd(model, x, y, eps=0.2, step_size=0.05, steps=steps, start=start)
    assert torch.equal(model(ours).argmax(1), model(expected).argmax(1))


def test_l2_pgd_equals_torchattacks(model, digits):
    x, y = digits.test.inputs(slice(0, 64)), digits.test.labels[:64]
    attack = prepare(
        AttackCard.model_validate(
            {
                "name": "l2",
                "engine": "oat_bench",
                "class": "PGD",
                "parameters": {
                    "norm": "$norm",
                    "eps": "$eps",
                    "step_size": "$step_size",
                    "steps": 10,
                    "random_start": False,
                },
            }
        ),
        Threat(norm="L2", eps=1.0, step_size=0.25),
        n_classes=10,
        seed=0,
    )
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    expected = torchattacks.PGDL2(model, eps=1.0, alpha=0.25, steps=10, random_start=False)(x, y)
    ours = attack(model, x, y, torch.arange(len(x)))
    assert torch.equal(model(ours).argmax(1), model(expected).argmax(1))
    assert (ours - x).flatten(1).norm(dim=1).max() <= 1 + 1e-5
    assert 0 < broken(model, ours, y) < len(y)


def test_fgm_is_that_of_art(model, digits):
    x, y = digits.test.inputs(slice(0, 64)), digits.test.labels[:64]
    attack = prepare(attack_card("fgm"), Threat(norm="L2", eps=1.0), n_classes=10, seed=0)
    shape = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0, 1)}
    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), **shape, device_type="cpu")
    theirs = FastGradientMethod(estimator, norm=2, eps=1.0).generate(x.numpy(), y.numpy())
    ours = attack(model, x, y, torch.arange(64))
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-5)
    assert 0 < broken(model, ours, y) < 64


def test_mi_fgm_goes_ten_steps_of_a_tenth_of_eps_and_breaks_more_than_fgm(model, batch):
    l2 = Threat(norm="L2", eps=1.0)
    attack = prepare(attack_card("mi-fgm"), l2, n_classes=10, seed=0)
    assert (attack.parameters["step_size"], attack.parameters["steps"]) == (0.1, 10)
    x_adv = attack(model, *batch)
    assert (x_adv - batch[0]).flatten(1).norm(dim=1).max() <= 1 + 1e-5
    once = attacked(attack_card("fgm"), model, batch, l2)
    assert broken(model, x_adv, batch[1]) >= broken(model, once, batch[1]) > 0


@pytest.mark.parametrize(
    "name", ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "pgd-50-10", "noise", "pgd-7-published-step"]
)
def test_in_house_outcomes_depend_on_neither_batch_nor_order(model, digits, name):
    x, y, ids = digits.test.inputs(slice(0, 40)), digits.test.labels[:40], torch.arange(40)
    attack = prepare(attack_card(name), THREAT, n_classes=10, seed=7)
    together = model(attack(model, x, y, ids)).argmax(1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = model(attack(model, x[order], y[order], ids[order])).argmax(1)
    assert torch.equal(shuffled, together[order])
    for size in (1, 7):
        parts = [
            model(attack(model, x[part], y[part], part)).argmax(1)
            for part in torch.split(ids, size)
        ]
        assert torch.equal(torch.cat(parts), together)


def test_restarts_only_ever_break_more_and_do_not_depend_on_the_batch(write, model, digits):
    x, y, ids = digits.test.inputs(slice(0, 40)), digits.test.labels[:40], torch.arange(40)
    found = []
    for restarts in (1, 2, 6):
        card = write(
            "oat_bench",
            "PGD",
            f"eps = '$eps'\nstep_size = '$step_size'\nsteps = 2\nrestarts = {restarts}",
        )
        attack = prepare(card, THREAT, n_classes=10, seed=0)
        standing = model(attack(model, x, y, ids)).argmax(1) == y
        halves = [model(attack(model, x[h], y[h], h)).argmax(1) for h in torch.split(ids, 20)]
        assert torch.equal(torch.cat(halves) == y, standing)
        found.append(standing)
    assert (found[1] <= found[0]).all()
    assert (found[2] <= found[1]).all()
    assert found[2].sum() < found[0].sum()


# --- what counts as an attacked image


def _offset(model, x, y, *, size: float):
    return x + size


@pytest.fixture
def shifting(monkeypatch):
    """An in-house class that adds a number to every pixel."""
    monkeypatch.setitem(in_house.CLASSES, "Shift", _offset)

    def shifted(x, size, threat):
        card = AttackCard.model_validate(
            {
                "name": "shift",
                "engine": "oat_bench",
                "class": "Shift",
                "parameters": {"size": size},
            }
        )
        attack = prepare(card, threat, n_classes=2, seed=0)
        return attack(nn.Identity(), x, torch.zeros(len(x)).long(), torch.arange(len(x)))

    return shifted


def test_only_images_inside_ball_and_box_count(shifting):
    x = torch.full((1, 1, 4, 4), 0.5)
    linf = Threat(eps=0.25)
    for size, counts in [(0.25, True), (-0.25, True), (0.2500001, True), (0.26, False)]:
        assert torch.equal(shifting(x, size, linf), x + size if counts else x)
    # L2: sixteen pixels each moved by s are s * 4 away
    l2 = Threat(norm="L2", eps=0.25)
    for size, counts in [(0.0625, True), (0.06, True), (0.0626, False), (0.25, False)]:
        assert torch.equal(shifting(x, size, l2), x + size if counts else x)
    # the box, however wide the ball
    for size, counts in [(0.5, True), (0.51, False), (-0.5, True), (-0.51, False)]:
        assert torch.equal(shifting(x, size, Threat(eps=1)), x + size if counts else x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_do_not_count(shifting, monkeypatch, value):
    def poison(model, x, y):
        out = x + 0.1
        out[1, 0, 2, 2] = value
        return out

    monkeypatch.setitem(in_house.CLASSES, "Poison", poison)
    card = AttackCard.model_validate({"name": "p", "engine": "oat_bench", "class": "Poison"})
    x = torch.full((3, 1, 4, 4), 0.5)
    attack = prepare(card, Threat(eps=0.2), n_classes=2, seed=0)
    x_adv = attack(nn.Identity(), x, torch.zeros(3).long(), torch.arange(3))
    assert torch.equal(x_adv[1], x[1])
    assert torch.equal(x_adv[[0, 2]], x[[0, 2]] + 0.1)


def test_a_card_with_its_own_eps_has_its_own_ball(write, model, batch):
    card = write("oat_bench", "FGSM", "eps = '$eps'", head="eps = '4/255'")
    attack = prepare(card, THREAT, n_classes=10, seed=0)
    assert attack.threat.eps == 4 / 255
    x_adv = attack(model, *batch)
    assert (x_adv - batch[0]).abs().max() == pytest.approx(4 / 255, abs=1e-6)


def test_a_model_in_training_mode_is_attacked_in_eval_mode_and_put_back(write, batch):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            assert not self.training
            assert not self.drop.training
            return self.linear(self.drop(x.flatten(1)))

    noisy = Noisy().train()
    for engine, class_ in [
        ("oat_bench", "FGSM"),
        ("torchattacks", "FGSM"),
        ("art", "FastGradientMethod"),
    ]:
        attack = prepare(write(engine, class_, "eps = 0.1"), THREAT, n_classes=10, seed=0)
        attack(noisy, *batch)
        assert all(module.training for module in noisy.modules())


def test_what_a_library_prints_goes_to_stderr(write, model, batch, capsys):
    card = write("torchattacks", "FAB", "eps = '$eps'\nsteps = 3\nverbose = true")
    attacked(card, model, batch)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Clean accuracy" in err


# --- what is refused, before anything costly


@pytest.mark.parametrize(
    ("engine", "class_", "near"),
    [
        ("oat_bench", "PDG", "PGD"),
        ("oat_bench", "MI-FGSM", "MIFGSM"),
        ("torchattacks", "DeepFol", "DeepFool"),
        ("torchattacks", "AutoAtack", "AutoAttack"),
        ("art", "HopSkipJmp", "HopSkipJump"),
        ("art", "CarliniL2", "CarliniL2Method"),
    ],
)
def test_an_unknown_class_names_the_nearest(write, engine, class_, near):
    with pytest.raises(UserError, match=rf"unknown class .*{engine}.*{class_}.*{near}"):
        prepare(write(engine, class_), THREAT, n_classes=10, seed=0)


@pytest.mark.parametrize("class_", ["Attack", "Attacker", "attacks", "torch", "__all__"])
def test_what_is_no_attack_is_no_class(write, class_):
    for engine in ("torchattacks", "art"):
        with pytest.raises(UserError, match="unknown class"):
            prepare(write(engine, class_, name="card"), THREAT, n_classes=10, seed=0)


@pytest.mark.parametrize(
    ("engine", "class_", "parameters", "words"),
    [
        ("oat_bench", "PGD", "eps = 0.1\nstep_sise = 0.1\nsteps = 1", "step_size"),
        ("oat_bench", "FGSM", "eps = 0.1\nmodel = 1", "takes no parameter 'model'"),
        ("oat_bench", "PGD", "eps = 0.1\nstep_size = 0.1\nsteps = 1\nseed = 3", "'seed'"),
        ("oat_bench", "PGD", "eps = 0.1\nstep_size = 0.1", "needs parameter 'steps'"),
        ("oat_bench", "FGSM", "", "needs parameter 'eps'"),
        ("torchattacks", "PGD", "epss = 0.1", "'epss'.*did you mean eps"),
        ("torchattacks", "PGD", "model = 1", "takes no parameter 'model'"),
        ("torchattacks", "LGV", "", "needs parameter 'trainloader'"),
        ("art", "ProjectedGradientDescent", "eps_stp = 0.1", "did you mean eps_step"),
        ("art", "ProjectedGradientDescent", "estimator = 0.1", "takes no parameter 'estimator'"),
        ("art", "DeepFool", "classifier = 0.1", "takes no parameter 'classifier'"),
    ],
)
def test_unknown_and_missing_parameters_are_refused(write, engine, class_, parameters, words):
    with pytest.raises(UserError, match=words) as error:
        prepare(write(engine, class_, parameters, name="mine"), THREAT, n_classes=10, seed=0)
    assert "'mine'" in str(error.value)
    assert class_ in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("engine", "class_", "parameters", "words"),
    [
        ("oat_bench", "FGSM", "eps = 'a lot'", "eps is 'a lot'"),
        ("oat_bench", "FGSM", "eps = -0.1", "eps is -0.1"),
        ("oat_bench", "FGSM", "eps = nan", "eps is nan"),
        ("oat_bench", "FGSM", "eps = inf", "eps is inf"),
        ("oat_bench", "FGSM", "eps = true", "eps is True"),
        ("oat_bench", "PGD", "eps = 0.1\nstep_size = 0.1\nsteps = 2.5", "steps is 2.5"),
        ("oat_bench", "PGD", "eps = 0.1\nstep_size = 0.1\nsteps = 0", "steps is 0"),
        ("oat_bench", "PGD", "eps = 0.1\nstep_size = 0.1\nsteps = 1\nnorm = 'L1'", "norm is 'L1'"),
        ("oat_bench", "PGD", "eps = 1\nstep_size = 1\nsteps = 1\nrandom_start = 'no'", "'no'"),
        ("torchattacks", "AutoAttack", "version = 'new'", "AutoAttack fails: ValueError"),
        ("torchattacks", "MultiAttack", "attacks = []", "MultiAttack fails"),
        ("art", "ProjectedGradientDescent", "eps = -1", "eps"),
        ("art", "ProjectedGradientDescent", "max_iter = 'many'", "TypeError.*'str' and 'int'"),
        ("art", "DPatch", "", "DPatch fails: EstimatorError"),
    ],
)
def test_a_value_that_a_class_refuses_is_refused(write, engine, class_, parameters, words):
    with pytest.raises(UserError, match=words) as error:
        prepare(write(engine, class_, parameters, name="mine"), THREAT, n_classes=10, seed=0)
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


def test_preparing_leaves_the_generators_alone(write):
    before = generator_states()
    for engine, class_, parameters in ALL:
        prepare(write(engine, class_, parameters), THREAT, n_classes=10, seed=0)
    assert_same_states(before)


def test_a_library_that_fails_at_work_is_reported_in_one_line(write, model, batch):
    # torchattacks builds this kernel for three channels whatever the images have
    attack = prepare(write("torchattacks", "TIFGSM"), THREAT, n_classes=10, seed=0)
    before = generator_states()
    with pytest.raises(UserError, match="'tifgsm': torchattacks class TIFGSM fails") as error:
        attack(model, *batch)
    assert "\n" not in str(error.value)
    assert_same_states(before)


def test_a_card_for_one_norm_is_refused_under_another():
    l2 = Threat(norm="L2", eps=0.5, step_size=0.1)
    for name in ("fgsm", "mi-fgsm", "pgd-7-published-step"):
        with pytest.raises(UserError, match=f"{name}.*for Linf.*L2.*--attacks"):
            prepare(attack_card(name), l2, n_classes=10, seed=0)
    for name in ("fgm", "mi-fgm"):
        with pytest.raises(UserError, match=f"{name}.*for L2.*Linf.*--attacks"):
            prepare(attack_card(name), THREAT, n_classes=10, seed=0)
        assert prepare(attack_card(name), l2, n_classes=10, seed=0).parameters["norm"] == "L2"
    for name in ("pgd-7", "pgd-20", "autoattack", "apgd-ce", "apgd-t", "square", "noise"):
        assert prepare(attack_card(name), l2, n_classes=10, seed=0).parameters["norm"] == "L2"


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_shipped_card_can_be_prepared(norm):
    threat = Threat(norm=norm)
    for name in cards.names("attacks"):
        card = attack_card(name)
        if card.norm in (None, norm):
            attack = prepare(card, threat, n_classes=10, seed=3)
            assert all(run.parameters["eps"] == 8 / 255 for run in attack.chain)
            assert "$" not in repr(attack.chain)


# --- fingerprints: what decides the outcomes, and nothing else


def test_a_fingerprint_changes_with_all_that_decides_outcomes():
    base = {
        "name": "a",
        "engine": "oat_bench",
        "class": "PGD",
        "parameters": {"eps": "$eps", "step_size": "$step_size", "steps": 3, "norm": "$norm"},
    }
    changes = [
        {},
        {"version": 2},
        {"eps": 0.1},
        {"step_size": 0.01},
        {"parameters": base["parameters"] | {"steps": 4}},
        {"parameters": base["parameters"] | {"random_start": False}},
        {"engine": "torchattacks", "parameters": {"eps": "$eps"}},
        {"engine": "torchattacks", "class": "BIM", "parameters": {"eps": "$eps"}},
    ]
    attacks = [
        prepare(AttackCard.model_validate(base | change), THREAT, n_classes=10, seed=0)
        for change in changes
    ]
    card = AttackCard.model_validate(base)
    attacks += [
        prepare(card, THREAT, n_classes=10, seed=1),
        prepare(card, Threat(eps=0.3, step_size=0.05), n_classes=10, seed=0),
        prepare(card, Threat(eps=0.2, step_size=0.1), n_classes=10, seed=0),
        prepare(card, Threat(eps=0.2, step_size=0.05, norm="L2"), n_classes=10, seed=0),
    ]
    prints = [attack.fingerprint() for attack in attacks]
    assert len(set(prints)) == len(prints)
    same = AttackCard.model_validate(
        base | {"name": "b", "description": "words", "source": "a paper", "default": True}
    )
    assert prepare(same, THREAT, n_classes=10, seed=0).fingerprint() == prints[0]


def test_a_fingerprint_does_not_change_with_a_step_size_that_nothing_uses():
    attack = prepare(attack_card("fgsm"), THREAT, n_classes=10, seed=0)
    other = prepare(attack_card("fgsm"), Threat(eps=0.2, step_size=0.9), n_classes=10, seed=0)
    assert attack.fingerprint() == other.fingerprint()
