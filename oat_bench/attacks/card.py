"""Attack cards: which library runs an attack, under which threat model, with which parameters."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from oat_bench import cards
from oat_bench.cards import Card, Name, NonNegative, Norm, Recorded, Targeted, Threat, first
from oat_bench.registry import ENGINES

_REFERENCE = re.compile(rf"\$([a-z_]+)(?:\s*([*/+])\s*({cards.NUMBER}))?")
#: classes of attacks that take no gradient of the model, by engine
GRADIENT_FREE = {
    "oat_bench": {"Noise", "Square"},
    "torchattacks": {"GN", "OnePixel", "Pixle", "SPSA", "Square"},
    "art": {
        *("BoundaryAttack", "GeoDA", "HopSkipJump", "PixelAttack", "SignOPTAttack", "SimBA"),
        *("SpatialTransformation", "SquareAttack", "ThresholdAttack", "ZooAttack"),
    },
}
# what a card may write for a parameter of an in-house attack
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]
Switch = Annotated[bool, Field(strict=True)]
Seed = Annotated[int, Field(strict=True)]
_MAX_TARGETS = 9  #: AutoAttack's targeted parts try so many of the other classes, at most


class AttackPart(Recorded):
    """One attack class of a library, with its parameters.

    A parameter may refer to what the evaluation knows: ``"$eps"``, ``"$step_size"``, ``"$norm"``,
    ``"$n_classes"``, ``"$n_targets"`` (the other classes, at most 9, as AutoAttack's authors have
    it), ``"$seed"``; also ``"$eps/10"``, ``"$eps*2"`` and ``"$n_targets+1"``.
    """

    model_config = ConfigDict(populate_by_name=True)
    first_keys = first("name class_ parameters")

    name: Name = Field(description="Name of the part")
    class_: str = Field(alias="class", description="Class of the library")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class")
    min_classes: Annotated[int, Field(ge=2)] = Field(
        default=2, description="The part is left out where the model has fewer classes"
    )

    def resolve(self, threat: Threat, *, n_classes: int, seed: int) -> dict[str, Any]:
        """Return the parameters with every reference replaced by its value, where there is one."""
        counts = {"n_classes": n_classes, "n_targets": min(_MAX_TARGETS, n_classes - 1)}
        bound = {key: getattr(threat, key) for key in ("eps", "step_size", "norm")}
        known = bound | counts | {"seed": seed}
        return {key: _resolve(key, value, known) for key, value in self.parameters.items()}

    @property
    def averages(self) -> bool:
        """See `averages`."""
        return averages(self.class_, self.parameters)


class AttackCard(Card):
    """An attack: a library's class, or ``[[parts]]``, each on what the last left standing."""

    kind = "attack"
    first_keys = first(
        "name version description engine class_ norm eps step_size parameters source default"
    )

    name: Name = Field(description="Name of the card, and of the attack's column")
    version: int = Field(default=1, description="Raised when a card changes under its name")
    description: str = Field(default="", description="What it is, in a line")
    engine: Annotated[str, AfterValidator(ENGINES.known)] = Field(
        description="Library that runs it: oat_bench, torchattacks, art or file"
    )
    class_: str = Field(
        default="", alias="class", description="Class of the library; empty where there are parts"
    )
    norm: Norm | None = Field(default=None, description="The only norm it is for; absent: any")
    eps: NonNegative | None = Field(
        default=None, description="Radius of the ball; absent: the benchmark's"
    )
    step_size: NonNegative | None = Field(
        default=None, description="Length of a step; absent: the benchmark's"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class")
    min_classes: Annotated[int, Field(ge=2)] = Field(
        default=2, description="The fewest classes that it can tell apart"
    )
    parts: list[AttackPart] = Field(
        default=[], description="Classes to run in turn, each on what the last left standing"
    )
    targeted: Targeted | None = Field(
        default=None,
        description="What an image is to be taken for, and only then is broken: a class drawn for "
        "the example, the least likely of the clean image, or the label + 1; absent: any other",
    )
    source: str = Field(default="", description="Paper and section that it is from")
    default: bool = Field(default=False, description="Whether it belongs to --attacks all")

    @model_validator(mode="after")
    def _one_class_or_parts(self) -> "AttackCard":
        if not self.parts:
            if not self.class_:
                raise ValueError("key 'class' is missing")
        elif self.class_ or self.parameters:
            raise ValueError("class and parameters belong to the [[parts]], each to its own")
        elif self.targeted is not None:
            raise ValueError("targeted is for a card of one class; this one has [[parts]]")
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError("two of the [[parts]] have the same name")
        for part in self.chain():  # references exist
            part.resolve(Threat(), n_classes=10, seed=0)
        return self

    def threat(self, threat: Threat) -> Threat:
        """Return the benchmark's threat model with what this card fixes in its place."""
        fixed = {"eps": self.eps, "step_size": self.step_size}
        return threat.model_copy(update={k: v for k, v in fixed.items() if v is not None})

    @property
    def fits_random(self) -> bool:
        """Whether it is an attack on a model that is random: on its expectation, or gradient-free.

        Images that were attacked elsewhere are too.
        """
        free = GRADIENT_FREE.get(self.engine, set())
        fit = all(part.averages or part.class_ in free for part in self.chain())
        return self.engine == "file" or (fit and self.targeted is None)

    def chain(self) -> list[AttackPart]:
        """Return the attacks that it runs in turn; of most cards one, itself."""
        return self.parts or [AttackPart(**self.model_dump(include=set(AttackPart.model_fields)))]


def averages(class_: str, parameters: Mapping[str, object]) -> bool:
    """Whether an attack takes means over draws of a random model (EOT, arXiv:1707.07397)."""
    count = parameters.get("eot_iter", 1 + (class_ == "EOTPGD"))
    drawn = isinstance(count, int | float) and count > 1
    return drawn or parameters.get("version") == "rand"


def _resolve(key: str, value: object, known: dict[str, Any]) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("$"):
        match = cards.FRACTION.fullmatch(value)
        if not match or not match[2]:
            return value
        if float(match[2]) == 0:
            raise ValueError(f"parameters.{key} divides by zero: {value!r}")
        return float(match[1]) / float(match[2])
    match = _REFERENCE.fullmatch(value)
    if match is None or match[1] not in known:
        names = ", ".join(f"${name}" for name in known)
        raise ValueError(
            f"parameters.{key} refers to {value!r}; expected one of {names}, or such as $eps/10 or "
            "$n_targets+1"
        )
    base, operator, operand = known[match[1]], match[2], match[3]
    if operator is None:
        return base
    if operator == "+" and isinstance(base, int) and operand.isdigit():
        return base + int(operand)
    if operator == "+" or not isinstance(base, float) or (operator == "/" and float(operand) == 0):
        raise ValueError(f"parameters.{key}: cannot compute {value!r}")
    return base / float(operand) if operator == "/" else base * float(operand)


def attack_card(name_or_path: str) -> AttackCard:
    """Read an attack card by name or by path."""
    return cards.find(name_or_path, AttackCard)
