"""The torchattacks engine: any of its attack classes (https://github.com/Harry24k)."""

from inspect import isclass, signature
from typing import Any

from torch import Tensor, nn

from oat_bench.attacks import engines, in_house
from oat_bench.attacks.card import AttackPart
from oat_bench.attacks.engines import Attack
from oat_bench.progress import note

DISTRIBUTION = "torchattacks"  #: whose version goes into results
REVISED_L2 = ("APGDT",)  #: `oat_bench.attacks.mended` has it


def instead(part: AttackPart, *, targeted: bool) -> str | None:
    """Name the engine that computes a class's outcomes in its place, in fewer passes, if any."""
    return (
        "oat_bench" if in_house.computes(part.class_, part.parameters, targeted=targeted) else None
    )


def _classes() -> dict[str, type]:
    import torchattacks
    from torchattacks.attack import Attack as Base

    from oat_bench.attacks.mended import APGDT

    found = (vars(torchattacks) | {"APGDT": APGDT}).items()
    return {name: c for name, c in found if isclass(c) and issubclass(c, Base) and c is not Base}


def check(attack: Attack) -> None:
    """Refuse a class, parameter or value that torchattacks does not take."""
    classes = _classes()
    engines.check_class(attack, classes)
    kind = classes[attack.class_]
    if attack.class_ == "AutoAttack":
        note(
            f"attack card {attack.card.name!r}: torchattacks' AutoAttack runs APGD, APGD-T and "
            "FAB for 10 iterations; the card autoattack runs the 100 of its authors"
        )
    parameters = signature(kind).parameters.values()
    engines.check_parameters(attack, [p for p in parameters if p.name != "model"])
    made = _made(attack, engines.stand_in(attack.n_classes))
    engines.check_targeted(attack, "targeted" in made.supported_mode)


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Attack images with the card's class."""
    made = _made(attack, model)
    if attack.targeted:
        made.set_mode_targeted_by_label(quiet=True)
    x_adv: Tensor = made(x, y)
    return x_adv.detach()


def _made(attack: Attack, model: nn.Module) -> Any:
    return _classes()[attack.class_](model, **attack.parameters)
