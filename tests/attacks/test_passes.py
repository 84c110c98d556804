"""The passes that an attack is said to make, against those that a model counts."""

import pytest
import torch
from test_autoattack import Counted
from torch import nn

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.networks.drawn import Drawn, RandomNetwork


def ready(name, **changes):
    card = attack_card(name)
    card = card.model_copy(update={"parameters": card.parameters | changes})
    return prepare(card, Threat(eps=0.01, step_size=0.005), n_classes=4, seed=0)


def counted(model, attack, inner=None):
    """Return the forward and backward passes of an image; none of the images breaks."""
    batch = torch.rand(3, 1, 5, 5), torch.full((3,), 3), torch.arange(3)
    return (inner or model).counted(lambda *given: attack(model, *given), *batch)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("fgsm", {}, (1, 1)),
        ("mi-fgsm", {}, None),
        ("pgd-7", {}, (7, 7)),
        ("pgd-20", {}, (20, 20)),
        ("pgd-50-10", {}, (509, 500)),  # between restarts what still stands is looked for
        ("pgd-20-eot", {}, (21, 20)),
        ("noise", {}, (99, 0)),
        ("apgd-ce", {"eot_iter": 3, "n_restarts": 2}, (1 + 2 * 3 * 101, 2 * 3 * 101)),
        ("fab-t", {"multi_targeted": False, "steps": 5}, (1 + 2 * 5 + 2, 5 * 4)),
        ("apgd-ce", {"n_restarts": 2}, (1 + 2 * 101, 2 * 100)),
        # in-house it is another count, and 0 no switch
        ("square", {"n_queries": 7, "n_restarts": 2, "verbose": 0}, (1 + 2 * 9, 0)),
    ],
)
def test_passes_are_those_that_are_made(name, changes, expected):
    torch.manual_seed(0)
    attack, model = ready(name, **changes), Counted(4)
    said = attack.passes.forward, attack.passes.backward
    assert counted(model, attack) == said
    assert expected in (None, said)


def test_a_square_is_not_asked_about_where_clipping_undoes_it():
    torch.manual_seed(0)
    attack, model = ready("square", n_queries=50, n_restarts=2), Counted(4)
    assert (attack.passes.forward, attack.passes.backward) == (1 + 2 * 51, 0)
    forward, backward = counted(model, attack)
    assert 1 + 2 * 21 < forward < attack.passes.forward
    assert backward == 0


class Random(RandomNetwork):
    """A random model: one network, drawn as often as is asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def draws(self, count, seed):
        return Drawn([self.network] * count, torch.full((count,), 1 / count))


@pytest.mark.parametrize("name", ["pgd-20-eot", "noise", "autoattack-rand"])
def test_a_random_model_passes_through_its_draws(name):
    torch.manual_seed(0)
    network = Counted(4)
    model = Random(network)
    for attack in ready(name).parts():
        said = attack.passes_on(model)
        assert counted(model, attack, network) == (said.forward, said.backward)


def test_of_an_unknown_class_steps_or_queries_are_counted():
    card = attack_card("pgd-7").model_copy(update={"engine": "art", "class_": "ZooAttack"})
    card = card.model_copy(update={"parameters": {"max_iter": 30}})
    attack = prepare(card, Threat(), n_classes=4, seed=0)
    assert (attack.passes.forward, attack.passes.backward) == (30, 0)
