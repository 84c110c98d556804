"""The torchattacks engine: any of its attack classes (https://github.com/Harry24k)."""

from inspect import isclass, signature
from typing import Any

from torch import Tensor, nn

from oat_bench.attacks.engines import Attack, StandIn, check_class, check_parameters, failed


def _classes() -> dict[str, type]:
    import torchattacks
    from torchattacks.attack import Attack as Base

    found = vars(torchattacks).items()
    return {name: c for name, c in found if isclass(c) and issubclass(c, Base) and c is not Base}


def check(attack: Attack) -> None:
    """Refuse a class, parameter or value that torchattacks does not take."""
    classes = _classes()
    check_class(attack, classes)
    kind = classes[attack.card.class_]
    check_parameters(attack, [p for p in signature(kind).parameters.values() if p.name != "model"])
    try:
        _make(attack, StandIn(attack.n_classes))
    except Exception as error:
        raise failed(attack, error) from error


def count_parts(attack: Attack) -> int:
    """Return how many attacks torchattacks' AutoAttack runs in turn; 1 for every other class."""
    if attack.card.class_ != "AutoAttack":
        return 1
    return len(_make(attack, StandIn(attack.n_classes))._autoattack.attacks)


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Attack images with the card's class, or with one part of it."""
    generator = _make(attack, model)
    if attack.part is not None:
        generator = generator._autoattack.attacks[attack.part]
    x_adv: Tensor = generator(x, y)
    return x_adv.detach()


def _make(attack: Attack, model: nn.Module) -> Any:
    return _classes()[attack.card.class_](model, **attack.parameters)
