"""The in-house parts of AutoAttack against torchattacks' classes, given the same draws."""

import inspect

import pytest
import torch
import torchattacks
from pyautoattack.square import SquareAttack
from torch import nn

from oat_bench.acceleration import Accelerated, spending
from oat_bench.attacks import apgd, in_house, square, with_torchattacks
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.standing import fooled
from oat_bench.cards import Threat
from oat_bench.results.entries import EntryAttack

IDS = torch.arange(40)


@pytest.mark.parametrize("class_", in_house.ALIKE)
def test_what_a_card_leaves_out_is_what_torchattacks_takes(class_):
    ours = inspect.signature(in_house.CLASSES[class_]).parameters
    theirs = inspect.signature(getattr(torchattacks, class_)).parameters
    assert {*theirs} - {"model"} <= {*ours}
    for name in {*theirs} - {"model", "multi_targeted"}:
        assert ours[name].default == theirs[name].default


def test_cards_go_on_naming_torchattacks_and_entries_what_computed():
    attack = prepare(attack_card("autoattack"), Threat(), n_classes=10, seed=0)
    assert (attack.card.engine, attack.engine, attack.per_example) == (
        "torchattacks",
        "oat_bench",
        True,
    )
    assert EntryAttack.of(attack).engine == "oat_bench"
    # means over draws of a random model are torchattacks' own
    attack = prepare(attack_card("autoattack-rand"), Threat(), n_classes=10, seed=0)
    assert (attack.engine, attack.per_example) == ("torchattacks", False)


class Rounded(Accelerated):
    """A network whose rounded logits call every image broken."""

    def forward(self, x):
        return self.plain(x).flip(1)


def test_only_float32_says_that_an_image_is_broken():
    torch.set_default_dtype(torch.float32)
    model, x, y = problem()
    logits = model(x).flip(1)
    assert (logits.argmax(1) != y).sum() > 20
    with spending() as spent:
        assert not fooled(Rounded(model, precision="bf16"), x, y, logits).any()
    assert spent.forward == (logits.argmax(1) != y).sum()
    assert fooled(Rounded(model), x, y, logits).sum() > 20


@pytest.fixture(autouse=True)
def _double():
    """In double precision no near tie is decided by the order of a sum."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Asked(nn.Module):
    """A small network that keeps the images it is asked about."""

    def __init__(self, channels=3, size=8, n_classes=6):
        super().__init__()
        torch.manual_seed(0)
        body = nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(), nn.Flatten()
        self.layers = nn.Sequential(*body, nn.Linear(8 * size * size, n_classes))
        self.images = []
        self.eval()

    def forward(self, x):
        self.images.append(x.detach().clone())
        return self.layers(x)

    def asked(self, attack, *batch):
        self.images.clear()
        return attack(*batch), list(self.images)


def problem(**shape):
    model = Asked(**shape)
    x = torch.rand(len(IDS), shape.get("channels", 3), *[shape.get("size", 8)] * 2)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def resolved(name, norm, eps, **changes):
    """Return the parameters of a shipped card, some of them others."""
    attack = prepare(attack_card(name), Threat(norm=norm, eps=eps), n_classes=6, seed=3)
    assert attack.engine == "oat_bench"
    return attack.parameters | changes


def replayed(monkeypatch, module, seed=3):
    """Have the in-house attack draw what torchattacks draws, in its order."""

    def uniform(ids, shape, *_, **__):
        return torch.rand(len(ids), *shape)

    monkeypatch.setattr(module, "uniform", uniform)
    if module is apgd:
        monkeypatch.setattr(module, "normal", lambda ids, shape, *_: torch.randn(len(ids), *shape))
    torch.manual_seed(seed)


@pytest.mark.parametrize(
    ("norm", "narrow", "wide"), [("Linf", 1e-4, 0.03), ("L2", 1e-3, 0.25)], ids=["Linf", "L2"]
)
@pytest.mark.parametrize(
    ("name", "class_", "changes"),
    [
        ("apgd-ce", "APGD", {"steps": 30}),
        ("apgd-ce", "APGD", {"steps": 8, "loss": "dlr", "n_restarts": 3, "rho": 0.5}),
        ("apgd-t", "APGDT", {"steps": 20}),
    ],
    ids=["ce", "dlr", "targeted"],
)
def test_apgd_asks_the_same_and_breaks_the_same(
    monkeypatch, name, class_, changes, norm, narrow, wide
):
    model, x, y = problem()
    kind = with_torchattacks._classes()[class_]
    broken = []
    for eps in (narrow, wide):
        given = resolved(name, norm, eps, **changes)
        theirs, expected = model.asked(kind(model, **given), x, y)
        replayed(monkeypatch, apgd)
        run = in_house.CLASSES[class_]
        ours, found = model.asked(
            lambda x, y, run=run, given=given: run(model, x, y, example_ids=IDS, **given), x, y
        )
        stands = model(theirs).argmax(1) == y
        assert torch.equal(model(ours).argmax(1) == y, stands)
        assert torch.equal(ours[stands], x[stands])
        broken.append(int((~stands).sum()))
        if not broken[-1]:
            # the clean images are asked about more often there
            expected, found = (
                [some for some in asked if not torch.equal(some, x)] for asked in (expected, found)
            )
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        else:
            assert sum(map(len, found)) < sum(map(len, expected))
    assert broken[0] == 0 < broken[1] < len(x)


@pytest.mark.parametrize(
    ("size", "eps", "changes"),
    [
        (8, 0.06, {}),
        (13, 0.06, {}),
        (8, 0.06, {"loss": "ce", "p_init": 0.3, "n_restarts": 2, "n_queries": 150}),
        (13, 0.03, {"resc_schedule": True}),
        (8, 0.03, {"targeted": True}),
    ],
    ids=["card", "larger", "ce", "rescaled", "targeted"],
)
def test_square_of_linf_breaks_with_the_same_images(monkeypatch, size, eps, changes):
    model, x, y = problem(size=size)
    given = resolved("square", "Linf", eps, **({"n_queries": 600} | changes))
    aimed = given.pop("targeted", False)
    attack = torchattacks.Square(model, **given)
    if aimed:
        attack.set_mode_targeted_by_label(quiet=True)
        y = model(x).argsort(1)[:, -2]
    theirs, expected = model.asked(attack, x, y)

    def uniform(ids, shape, *_, **__):
        if len(shape) == 3:
            return torch.rand(len(ids), *shape)
        # one window, and its signs, for the batch
        drawn = [torch.rand(1), torch.rand(1), torch.rand(3, 1, 1).flatten()]
        return torch.cat(drawn).expand(len(ids), -1)

    replayed(monkeypatch, square)
    monkeypatch.setattr(square, "uniform", uniform)
    ours, found = model.asked(
        lambda *batch: square.square(model, *batch, example_ids=IDS, targeted=aimed, **given), x, y
    )
    assert torch.equal(ours, theirs)
    broken = int(((model(ours).argmax(1) != y) != aimed).sum())
    assert 5 < broken < len(x)
    # what clipping undoes is not asked about
    assert sum(map(len, found)) < sum(map(len, expected))


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (11, 1), (13, 3), (28, 1)])
def test_square_of_l2_is_the_authors_draw_for_draw(monkeypatch, size, channels):
    """torchattacks 3.5.1 takes the norm of a window over all channels at once."""
    model, x, y = problem(size=size, channels=channels)
    given = resolved("square", "L2", 0.4, n_queries=200)
    theirs = SquareAttack(
        model, norm="L2", eps=0.4, n_queries=200, p_init=0.8, resc_schedule=False, seed=3
    )
    expected = theirs.perturb(x, y)

    def bump(ids):
        turn = torch.rand(1).expand(len(ids), 1)
        return torch.cat([turn, torch.rand(len(ids), channels, 1, 1).flatten(1)], 1)

    def uniform(ids, shape, *_, **__):
        if len(shape) == 2:
            return torch.stack([bump(ids) for _ in range(shape[0])], 1)
        corners = torch.cat([torch.rand(1) for _ in range(4)]).expand(len(ids), -1)
        return torch.cat([corners, bump(ids)], 1)

    replayed(monkeypatch, square)
    monkeypatch.setattr(square, "uniform", uniform)
    ours = square.square(model, x, y, example_ids=IDS, **given)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert 5 < int((model(ours).argmax(1) != y).sum()) <= len(x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_outcomes_depend_on_the_example_alone(name, norm):
    torch.set_default_dtype(torch.float32)
    model, x, y = problem()
    few = {"square": {"n_queries": 60}}.get(name, {"steps": 6})
    eps = {"Linf": 0.03, "L2": 0.3}[norm]
    threat = Threat(norm=norm, eps=eps)
    attack = prepare(attack_card(name), threat, n_classes=6, seed=3, recorded={name: few})
    assert attack.per_example
    whole = attack(model, x, y, IDS)
    assert int((whole != x).flatten(1).any(1).sum()) > 0
    for part in (IDS[5:12], IDS[[30, 2]]):
        again = attack(model, x[part], y[part], part)
        torch.testing.assert_close(again, whole[part], rtol=0, atol=1e-5)
