"""The in-house engine: PGD, also on an expectation, FGSM, MI-FGSM, noise, AutoAttack's parts.

Annotations say what a card may write.
"""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from oat_bench.attacks.apgd import apgd, apgd_t
from oat_bench.attacks.card import Count, Number, Seed, Switch
from oat_bench.attacks.engines import Attack, check_class, check_parameters, check_targeted, failed
from oat_bench.attacks.expectation import climb, expected_losses, mixture_losses
from oat_bench.attacks.fab import fab
from oat_bench.attacks.square import square
from oat_bench.cards import Norm
from oat_bench.networks.drawn import Drawn, RandomNetwork
from oat_bench.randomness import generator
from oat_bench.training.pgd import Walk, follow, walk

DISTRIBUTION = "oat-bench"  #: whose version goes into results
PER_EXAMPLE = True  #: random numbers belong to examples, not to the batch
REVISED_L2 = ("PGD", "Noise")  #: starts were of uniform length, most of them near the centre

_DRAWS = 3  #: draws of the model take this stream of the seed, and a stream for each step


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    eps: Number,
    norm: Norm = "Linf",
) -> Walk:
    """One step of length eps along the gradient's sign (arXiv:1412.6572); of L2 along itself."""
    step = partial(walk, eps=eps, step_size=eps, steps=1, norm=norm)
    return step(x, y, random_start=False, targeted=targeted)


def mi_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    eps: Number,
    step_size: Number,
    steps: Count = 10,
    decay: Number = 1.0,
    norm: Norm = "Linf",
) -> Walk:
    """Iterative FGSM with momentum (arXiv:1710.06081; of L2 its MI-FGM, section 3.3)."""
    path = partial(walk, eps=eps, step_size=step_size, steps=steps, decay=decay, norm=norm)
    return path(x, y, random_start=False, targeted=targeted)


def projected_gradient_descent(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    seed: int,
    targeted: bool = False,
    eps: Number,
    step_size: Number,
    steps: Count,
    norm: Norm = "Linf",
    random_start: Switch = True,
    restarts: Count = 1,
) -> Walk:
    """PGD with restarts; each restart only attacks what still stands (arXiv:1706.06083)."""
    path = partial(walk, norm=norm, eps=eps, step_size=step_size, steps=steps)
    x_adv, standing = x.clone(), torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        if restart > 0:
            standing = standing[(model(x_adv[standing]).argmax(1) == y[standing]) != targeted]
        if len(standing) == 0:
            break
        x_adv[standing] = yield from path(
            x[standing],
            y[standing],
            random_start=random_start,
            targeted=targeted,
            example_ids=example_ids[standing],
            seed=seed + restart,
        )
    return x_adv


def eot_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    seed: int,
    eps: Number,
    step_size: Number,
    steps: Annotated[int, Field(strict=True, ge=0)],
    norm: Norm = "Linf",
    random_start: Switch = True,
    restarts: Count = 1,
    eot_iter: Count = 10,
) -> Tensor:
    """PGD on a random model: on its expected loss, and on that of its mean probabilities.

    Of both (arXiv:1707.07397, section 2.1; 2206.06737 says why one is not enough) each image gets
    what is least likely answered right. Means are those of ``eot_iter`` draws, new ones at each
    step, or exact where the model is drawn from a few networks; others are drawn from one.
    """

    def draw(number: int) -> Drawn:
        if not isinstance(model, RandomNetwork):
            return Drawn([model], torch.ones(1))
        return model.draws(eot_iter, generator(seed, _DRAWS, number).initial_seed())

    given: dict[str, Any] = {"eps": eps, "step_size": step_size, "steps": steps, "norm": norm}
    given |= {"random_start": random_start, "example_ids": example_ids}
    if isinstance(model, RandomNetwork):
        given["losses"] = (expected_losses, mixture_losses)
    return climb(draw, draw(-1), x, y, seed=seed, restarts=restarts, **given)


def noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    example_ids: Tensor,
    seed: int,
    eps: Number,
    draws: Count,
    norm: Norm = "Linf",
) -> Tensor | Walk:
    """Uniform noise in the ball; each draw only tries what still stands (arXiv:1802.00420)."""
    attack = eot_pgd if isinstance(model, RandomNetwork) else projected_gradient_descent
    still = partial(attack, eps=eps, step_size=0.0, steps=0, norm=norm)
    return still(model, x, y, example_ids=example_ids, seed=seed, restarts=draws)


CLASSES: dict[str, Callable[..., Tensor | Walk]] = {
    "FGSM": fgsm,
    "MIFGSM": mi_fgsm,
    "PGD": projected_gradient_descent,
    "EOTPGD": eot_pgd,
    "Noise": noise,
    "APGD": apgd,
    "APGDT": apgd_t,
    "FAB": fab,
    "Square": square,
}
#: classes that break the images that torchattacks' break, from the same start and draws
ALIKE = ("APGD", "APGDT", "FAB", "Square")
#: what the engine passes, not the card
_PASSED = ("model", "x", "y", "example_ids", "seed", "targeted")


def check(attack: Attack) -> None:
    """Refuse a class or parameter that does not exist, and a value that it cannot have."""
    check_class(attack, CLASSES)
    known = signature(CLASSES[attack.class_]).parameters
    check_targeted(attack, "targeted" in known)
    written = [p for p in known.values() if p.name not in _PASSED or p.annotation == Seed]
    check_parameters(attack, written)
    for key, value in attack.parameters.items():
        if complaint := _complaint(attack.class_, key, value):
            raise failed(attack, f"{key} is {value!r}: {complaint}")


def computes(class_: str, parameters: Mapping[str, object], *, targeted: bool) -> bool:
    """Whether the class is one of `ALIKE` and takes such parameters of torchattacks' class."""
    if class_ not in ALIKE:
        return False
    known = signature(CLASSES[class_]).parameters
    fits = all(key in known and not _complaint(class_, key, parameters[key]) for key in parameters)
    needed = {name for name, one in known.items() if one.default is one.empty}
    return fits and needed <= {*parameters, *_PASSED} and (not targeted or "targeted" in known)


def _complaint(class_: str, key: str, value: object) -> str:
    try:
        TypeAdapter(signature(CLASSES[class_]).parameters[key].annotation).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return ""


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Attack images with the card's class."""
    return together([attack], model, x, y, example_ids)[0]


def start(attack: Attack) -> Hashable | None:
    """Say where an attack starts, if at a gradient that others of the same start may share."""
    given = attack.parameters
    if attack.class_ == "PGD" and given.get("random_start", True):
        return given.get("norm", "Linf"), given["eps"], attack.seed
    return "image" if attack.class_ in ("FGSM", "MIFGSM", "PGD") else None


def together(
    attacks: Sequence[Attack], model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor
) -> list[Tensor]:
    """Attack images by several attacks; gradients at the same images are computed once.

    So FGSM takes MI-FGSM's first gradient, and PGD-7 all of its from PGD-20.
    """
    found: dict[int, Tensor] = {}
    walks: dict[int, Walk] = {}
    for number, attack in enumerate(attacks):
        function = CLASSES[attack.class_]
        passed = {"example_ids": example_ids, "seed": attack.seed, "targeted": attack.targeted}
        accepted = {k: v for k, v in passed.items() if k in signature(function).parameters}
        result = function(model, x, y, **(accepted | attack.parameters))
        if isinstance(result, Generator):
            walks[number] = result
        else:
            found[number] = result
    found |= zip(walks, follow(model, list(walks.values())), strict=True)
    return [found[number] for number in range(len(attacks))]
