"""Cards: the TOML files that say everything about an attack or a benchmark.

A card is found by name among those that ship with the package (``attacks/`` and ``benchmarks/`` at
the top of the repository), or by path. Numbers may be written as fractions, ``"8/255"``.

With ``extends = "cifar10"`` a card states only where it differs from another one of its kind:
tables are merged, anything else is replaced. What is read is the merged card. A path starts at the
card's own folder and may lead anywhere; of a file elsewhere no error says what is in it.
"""

import math
import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticSerializationError

from oat_bench.errors import UserError, nearest, one_line, unknown
from oat_bench.files import read_bounded, sha256

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"
_FRACTION = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER}))?\s*")
_REFERENCE = re.compile(rf"\$([a-z_]+)(?:\s*([*/+])\s*({_NUMBER}))?")
#: AutoAttack's targeted parts try so many of the other classes, at most
_MAX_TARGETS = 9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
#: what tables and options call something else
_TAKEN = ("all", "lambda", "n", "sa", "trained", "width", "worst")
#: cards are small; a larger file is a mistake or an attack
_MAX_CARD_BYTES = 1 << 16
#: in a line; tomllib takes the square of the parts of a key in time
_MAX_DOTS = 1000
#: cards that extend each other in a row
_MAX_CHAIN = 8


def _number(value: object) -> object:
    """Read ``"8/255"`` as a number; leave anything else, but for truth values, to pydantic."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if not isinstance(value, str):
        return value
    match = _FRACTION.fullmatch(value)
    if not match or (match[2] and float(match[2]) == 0):
        raise ValueError('expected a number or a fraction such as "8/255"')
    return float(match[1]) / float(match[2] or 1)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _architecture(value: str) -> str:
    from oat_bench.networks.backbones import check_architecture

    return check_architecture(value)


def _widths(value: list[float]) -> list[float]:
    from oat_bench.networks.slimmable import check_widths

    return check_widths(value)


def _method(value: str) -> str:
    from oat_bench.methods import named

    named(value)
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or value.lower() in _TAKEN:
        raise ValueError(
            f"expected up to 64 letters, digits and . _ + -, and none of {', '.join(_TAKEN)}"
        )
    return value


def publishable(text: str) -> str:
    """Make a `Name` out of any text, such as a folder's name; what is one stays as it is.

    Letters lose their accents; what else a name may not hold becomes a hyphen.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain).lstrip("._+-")[:64] or "images"
    return f"{name}-images" if name.lower() in _TAKEN else name


Fraction = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
NonNegative = Annotated[Fraction, Field(ge=0)]
Positive = Annotated[Fraction, Field(gt=0)]
Lambda = Annotated[Fraction, Field(ge=0, le=1)]
Lambdas = Annotated[list[Lambda], Field(min_length=1), AfterValidator(lambda v: sorted(set(v)))]
Width = Annotated[Fraction, Field(gt=0, le=1)]
Widths = Annotated[
    list[Width], Field(min_length=1), AfterValidator(lambda v: sorted(set(v), reverse=True))
]
Norm = Literal["Linf", "L2"]
ImageSize = Annotated[int, Field(ge=1, le=4096)]
Targeted = Literal["random", "least-likely", "next"]
#: names of cards are parts of file names and heads of columns
Name = Annotated[str, AfterValidator(_name)]


class Recorded(BaseModel):
    """Base of what fingerprints hash and checkpoints hold: no unknown keys, no changes.

    A key that came after the first release is written only where it is not at its default, so that
    published fingerprints survive new keys. The default of such a key must therefore mean what was
    done before there was the key, and stay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    #: the keys of the first release: always written
    first_keys: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        for name, field in type(self).model_fields.items():
            if name not in self.first_keys and getattr(self, name) == field.get_default(
                call_default_factory=True
            ):
                values.pop(name, None)
        return values


def _first(keys: str) -> frozenset[str]:
    return frozenset(keys.split())


class Card(Recorded):
    """Base of all cards."""

    model_config = ConfigDict(populate_by_name=True, ser_json_inf_nan="strings")

    def fingerprint(self) -> str:
        """Hash of the card's values, but for those that only describe it."""
        return sha256(self.model_dump_json(exclude={"name", "description", "source"}))


class Threat(Card):
    """What the adversary may do: perturb by at most eps, searching in steps of step_size."""

    first_keys = _first("norm eps step_size")

    norm: Norm = "Linf"
    eps: NonNegative = 8 / 255
    step_size: NonNegative = 2 / 255


class AttackPart(Recorded):
    """One attack class of a library, with its parameters.

    A parameter may refer to what the evaluation knows: ``"$eps"``, ``"$step_size"``, ``"$norm"``,
    ``"$n_classes"``, ``"$n_targets"`` (the other classes, at most 9, as AutoAttack's authors have
    it), ``"$seed"``; also ``"$eps/10"``, ``"$eps*2"`` and ``"$n_targets+1"``.
    """

    model_config = ConfigDict(populate_by_name=True)
    first_keys = _first("name class_ parameters")

    name: Name
    class_: str = Field(alias="class")
    parameters: dict[str, Any] = Field(default_factory=dict)
    min_classes: Annotated[int, Field(ge=2)] = Field(
        default=2, description="left out where the model has fewer"
    )

    def resolve(self, threat: Threat, *, n_classes: int, seed: int) -> dict[str, Any]:
        """Return the parameters with every reference replaced by its value.

        Raises:
            ValueError: if a reference is to something that does not exist.
        """
        known = {
            "eps": threat.eps,
            "step_size": threat.step_size,
            "norm": threat.norm,
            "n_classes": n_classes,
            "n_targets": min(_MAX_TARGETS, n_classes - 1),
            "seed": seed,
        }
        return {key: _resolve(key, value, known) for key, value in self.parameters.items()}


class AttackCard(Card):
    """An attack: which library runs it, under which threat, with which parameters.

    It is one class of a library, or several ``[[parts]]``, each on what the last left standing.
    `AttackPart` says what a parameter may refer to.
    """

    first_keys = _first(
        "name version description engine class_ norm eps step_size parameters source default"
    )

    name: Name
    version: int = 1
    description: str = ""
    engine: Literal["oat_bench", "torchattacks", "art", "file"]
    class_: str = Field(default="", alias="class")
    norm: Norm | None = Field(default=None, description="the only norm it is for; any if absent")
    eps: NonNegative | None = Field(default=None, description="fixes eps; else the benchmark's")
    step_size: NonNegative | None = Field(default=None, description="likewise")
    parameters: dict[str, Any] = Field(default_factory=dict)
    min_classes: Annotated[int, Field(ge=2)] = Field(
        default=2, description="the fewest classes that it can tell apart"
    )
    parts: list[AttackPart] = []
    targeted: Targeted | None = Field(
        default=None,
        description="the class that an image is to be taken for: drawn for the example, the one "
        "that the clean image is least likely of, or the label + 1; broken is what is taken for it",
    )
    source: str = ""
    default: bool = Field(default=False, description="belongs to --attacks all")

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
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> "AttackCard":
        for part in self.chain():
            part.resolve(Threat(), n_classes=10, seed=0)
        return self

    def threat(self, threat: Threat) -> Threat:
        """Return the benchmark's threat model with what this card fixes in its place."""
        fixed = {"eps": self.eps, "step_size": self.step_size}
        return threat.model_copy(update={k: v for k, v in fixed.items() if v is not None})

    def chain(self) -> list[AttackPart]:
        """Return the attacks that it runs in turn; of most cards one, itself."""
        itself = {"name": self.name, "class": self.class_, "parameters": self.parameters}
        own = AttackPart.model_validate(itself | {"min_classes": self.min_classes})
        return self.parts or [own]


def _resolve(key: str, value: object, known: dict[str, Any]) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("$"):
        match = _FRACTION.fullmatch(value)
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


class NetworkCard(Card):
    """The network and how it is conditioned on lambda."""

    first_keys = _first("architecture encoding encoding_dim norm film dropout")

    architecture: Annotated[str, AfterValidator(_architecture)]
    encoding: Literal["scalar", "one-hot", "dct", "orthogonal"] = "orthogonal"
    encoding_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    norm: Literal["dual", "single"] = "dual"
    film: Literal["identity-start", "published", "none"] = "identity-start"
    dropout: Annotated[Fraction, Field(ge=0, lt=1)] = 0.0
    widths: Annotated[Widths, AfterValidator(_widths)] = Field(
        default=[1.0], description="shares of the channels, widest first"
    )
    heads: Literal["shared", "per-width"] = "shared"
    interpolation: Literal["linear-codes", "spherical-codes", "film"] = "linear-codes"

    @model_validator(mode="after")
    def _heads_per_width_need_widths(self) -> "NetworkCard":
        if self.heads == "per-width" and len(self.widths) == 1:
            raise ValueError('heads = "per-width" needs several widths, such as [1, 0.75, 0.5]')
        return self

    @model_validator(mode="after")
    def _only_wide_networks_have_dropout(self) -> "NetworkCard":
        if self.dropout and not self.architecture.startswith("wrn"):
            raise ValueError(f"{self.architecture} has no dropout; set dropout = 0")
        return self

    @model_validator(mode="after")
    def _the_encoding_has_the_rule(self) -> "NetworkCard":
        from oat_bench.networks.conditioning import check_interpolation

        check_interpolation(self.interpolation, self.encoding)
        return self


class ObjectiveCard(Card):
    """The form of L_a, the loss of attacked images; `oat_bench.training.objectives` has each."""

    first_keys = _first("loss")

    loss: Literal["cross-entropy", "trades", "mma"] = "cross-entropy"
    beta: Positive = Field(default=6.0, description="trades: weight of the KL term")
    eps_max: Positive | None = Field(
        default=None, description="mma: the longest margin to enlarge; the threat's eps if absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"loss": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parameters_are_of_the_loss(self) -> "ObjectiveCard":
        for key, loss in (("beta", "trades"), ("eps_max", "mma")):
            if key in self.model_fields_set and self.loss != loss:
                raise ValueError(f'{key} is of loss = "{loss}", not of "{self.loss}"')
        return self


class TrainingCard(Card):
    """The recipe: OAT's Algorithm 1, attack first, by SGD with a cosine schedule."""

    first_keys = _first(
        "epochs batch_size lr momentum weight_decay nesterov lr_warmup_epochs eps_warmup_epochs "
        "ema_decay attack_steps lambdas sampling validate_every selection order precision compile"
    )

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive
    momentum: Annotated[Fraction, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    nesterov: bool = False
    lr_warmup_epochs: NonNegative = 0.0
    eps_warmup_epochs: NonNegative = 0.0
    ema_decay: Annotated[Fraction, Field(ge=0, lt=1)] | None = None
    attack_steps: Annotated[int, Field(ge=1)] = 7
    lambdas: Lambdas = [0, 0.1, 0.2, 0.3, 0.4, 1]
    sampling: Literal["per-image", "per-batch"] = "per-image"
    augmentation: Literal["none", "crop", "crop-flip"] = "none"
    crop_padding: Annotated[int, Field(ge=0, le=1024)] = 4
    lambda_sampling: Literal["list", "uniform"] = Field(
        default="list", description="uniform: on [0, 1]; lambdas are then the anchors of codes"
    )
    standard_share: Annotated[Fraction, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of lambda = 0; if absent that of one value of the list"
    )
    objective: ObjectiveCard = ObjectiveCard()
    validate_every: Annotated[int, Field(ge=1)] = 1
    validation_examples: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="a stratified part of the validation split; absent: all of it"
    )
    selection: Literal["last", "best"] = "last"
    order: Literal["attack-first", "published"] = "attack-first"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool | None = Field(default=None, description="absent: where it pays")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "TrainingCard":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self

    @model_validator(mode="after")
    def _lambdas_fit_the_sampling(self) -> "TrainingCard":
        ends = (self.lambdas[0], self.lambdas[-1])
        if self.lambda_sampling == "uniform" and ends != (0, 1):
            raise ValueError('lambda_sampling = "uniform" needs 0 and 1 among lambdas')
        if self.standard_share is not None and not ends[0] == 0 < ends[1]:
            raise ValueError("standard_share needs 0 and one value above it among lambdas")
        return self

    @model_validator(mode="after")
    def _every_lambda_has_labels(self) -> "TrainingCard":
        if (self.objective.loss, self.lambda_sampling, self.lambdas[-1]) == ("trades", "list", 1):
            raise ValueError(
                'objective "trades" has no labels at lambda = 1, where KL is all that is left; end '
                "lambdas below 1 (TRADES at beta alone is lambda = 0.5)"
            )
        return self


class EvaluationCard(Card):
    """What is measured: lambda against attacks, on the first n of the test set's nested order."""

    first_keys = _first("lambdas attacks n_examples batch_size gradients")

    lambdas: Lambdas = [0, 0.1, 0.2, 0.3, 0.4, 1]
    widths: Annotated[Widths, AfterValidator(lambda v: sorted(set(v), reverse=True))] | None = (
        Field(default=None, description="absent: every width of the network")
    )
    attacks: Annotated[str, Field(min_length=1)] = "all"
    n_examples: Annotated[int, Field(ge=1)] | None = None
    fewer_examples: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="for attacks that take long: of the same order, the first"
    )
    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="absent: what fills the device"
    )
    gradients: Literal["float32", "bf16"] = "float32"
    compile: bool | None = Field(default=None, description="absent: where it pays")


class BenchmarkCard(Card):
    """A benchmark: data set, network, method, recipe, threat model and evaluation."""

    first_keys = _first(
        "name version description source dataset method network threat training evaluation"
    )

    name: Name
    version: int = 1
    description: str = ""
    source: str = ""
    dataset: str
    image_size: ImageSize | None = Field(
        default=None, description="of a folder: the shorter side is resized to it, the centre kept"
    )
    method: Annotated[str, AfterValidator(_method)] = "oat"
    network: NetworkCard
    threat: Threat = Threat()
    training: TrainingCard
    evaluation: EvaluationCard = EvaluationCard()

    def for_folder(self, folder: str, *, named: bool, label: str | None = None) -> "BenchmarkCard":
        """Return the card with a folder of images in the place of its data set.

        Args:
            folder: path of the images.
            named: whether the card's own name stays a part of its name.
            label: the data set's name; made from the folder's if None.
        """
        name = publishable(label or Path(folder).resolve().name)[:32]
        name = "-".join([name, *([self.name] if named else [])])[:64]
        return self.model_copy(update={"dataset": folder, "name": name})

    @model_validator(mode="after")
    def _every_lambda_has_a_code(self) -> "BenchmarkCard":
        from oat_bench.methods import METHODS

        network = METHODS[self.method].network_card(self.network)
        count, dim = len(self.training.lambdas), network.encoding_dim
        if network.encoding != "scalar" and count > dim:
            raise ValueError(
                f"network.encoding_dim is {dim}; expected at least {count}, one for each lambda of "
                "training.lambdas"
            )
        return self

    @model_validator(mode="after")
    def _several_widths_need_a_method_that_slims(self) -> "BenchmarkCard":
        from oat_bench.methods import METHODS

        if len(self.network.widths) > 1 and not METHODS[self.method].slims:
            slimming = " or ".join(repr(name) for name, kind in METHODS.items() if kind.slims)
            raise ValueError(
                f"network.widths has several widths; expected one with method {self.method!r}, or "
                f"method {slimming}"
            )
        return self

    @model_validator(mode="after")
    def _dedicated_networks_have_labels(self) -> "BenchmarkCard":
        from oat_bench.methods import METHODS

        dedicated = not METHODS[self.method].continuous
        if dedicated and self.training.objective.loss == "trades" and 1 in self.training.lambdas:
            raise ValueError(
                f'{self.method} at lambda = 1 has no labels with training.objective "trades"; take '
                "1 out of training.lambdas"
            )
        return self

    @model_validator(mode="after")
    def _one_batch_norm_is_a_method_of_its_own(self) -> "BenchmarkCard":
        if self.method in ("oat", "oats") and self.network.norm == "single":
            raise ValueError(
                f'network.norm is "single"; expected "dual" with method "{self.method}", or method '
                f'"{self.method}-single-bn"'
            )
        return self

    def with_method(self, method: str) -> "BenchmarkCard":
        """Return the card with another method; its name then ends in the method's.

        Raises:
            UserError: if there is no such method, or the card does not go with it.
        """
        if method == self.method:
            return self
        values = self.model_dump() | {"method": method, "name": f"{self.name}-{method}"}
        try:
            return BenchmarkCard.model_validate(values)
        except ValidationError as error:
            raise UserError(
                f"benchmark {self.name!r} by method {method!r}: {explain(error, BenchmarkCard)}"
            ) from error

    def with_widths(self, widths: list[float]) -> "BenchmarkCard":
        """Return the card with a network of other widths, all evaluated; they end its name.

        Raises:
            UserError: if the card does not go with them.
        """
        from oat_bench.methods import METHODS

        if widths == METHODS[self.method].network_card(self.network).widths:
            return self
        values = self.model_dump()
        values["name"] += "-widths-" + "-".join(f"{width:g}" for width in widths)
        values["network"]["widths"] = widths
        values["evaluation"]["widths"] = None
        try:
            return BenchmarkCard.model_validate(values)
        except ValidationError as error:
            raise UserError(f"benchmark {self.name!r}: {explain(error, BenchmarkCard)}") from error


C = TypeVar("C", AttackCard, BenchmarkCard)


def folder(kind: str) -> Path:
    """Return where the cards of a kind lie: inside an installed package, else in the checkout."""
    installed = Path(__file__).parent / "_cards" / kind
    return installed if installed.is_dir() else Path(__file__).parents[1] / kind


def names(kind: str) -> list[str]:
    """List the cards that ship: ``attacks`` or ``benchmarks``."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def attack(name_or_path: str) -> AttackCard:
    """Read an attack card by name or by path.

    Raises:
        UserError: if there is none, or it is not a valid card.
    """
    return _find("attack", name_or_path, AttackCard)


def benchmark(name_or_path: str) -> BenchmarkCard:
    """Read a benchmark card by name or by path.

    Raises:
        UserError: if there is none, or it is not a valid card.
    """
    return _find("benchmark", name_or_path, BenchmarkCard)


def attacks(selection: str) -> list[AttackCard]:
    """Read the attacks of a comma-separated selection of names and paths.

    ``all`` stands for every card of the default suite, ``file:PATH`` for attacked images that were
    saved (`oat_bench.attacks.saved`). The order is by strength as the field ranks
    them: cards of the default suite keep the order of `DEFAULT_ORDER`, others follow as given.

    Raises:
        UserError: if one does not exist or is invalid, if two share a name, or none is named.
    """
    found: dict[str, AttackCard] = {}
    for item in (part.strip() for part in selection.split(",")):
        if not item:
            continue
        if item == "all":
            chosen = [card for card in map(attack, names("attacks")) if card.default]
        elif item.startswith("file:"):
            from oat_bench.attacks.saved import cards_of

            chosen = cards_of(Path(item.removeprefix("file:")))
        else:
            chosen = [attack(item)]
        for card in chosen:
            if found.setdefault(card.name, card) != card:
                raise UserError(
                    f"two attack cards are called {card.name!r}; rename one file, or give "
                    "one at a time"
                )
    if not found:
        raise UserError(
            "no attack is named; use --attacks all or names from `oat-bench list attacks`"
        )
    rank = {name: place for place, name in enumerate(DEFAULT_ORDER)}
    return sorted(found.values(), key=lambda card: rank.get(card.name, len(rank)))


#: the columns of a table, weakest attack first
DEFAULT_ORDER = ("fgsm", "mi-fgsm", "pgd-7", "pgd-20", "pgd-50-10", "autoattack")


def _find(kind: str, name_or_path: str, model: type[C]) -> C:
    return read(_locate(kind, name_or_path), model)


def _locate(kind: str, name_or_path: str, beside: Path = Path()) -> Path:
    """Find the file of a card; a relative path starts at the folder ``beside``."""
    if "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(".toml"):
        path = beside / name_or_path
        try:
            missing = not path.is_file()
        except (OSError, ValueError):  # no file can be called so
            missing = True
        if missing:
            raise UserError(f"no {kind} card at {_one_line(path)}; expected a TOML file")
        return path
    if name_or_path not in names(f"{kind}s"):
        raise unknown(kind, name_or_path, names(f"{kind}s"))
    return folder(f"{kind}s") / f"{name_or_path}.toml"


def read(path: Path, model: type[C]) -> C:
    """Read a card from a file, and with it those that it extends.

    Raises:
        UserError: naming file, key and what was expected.
    """
    chain = _read_chain(path, "attack" if model is AttackCard else "benchmark")
    values: dict[str, Any] = {}
    try:
        for _, stated in reversed(chain):
            values = _merged(values, stated)
        # of the card that is extended, a card does not take the name
        values["name"] = chain[0][1].get("name", path.stem)
        card = model.model_validate(values)
        card.fingerprint()  # fails on what is nested too deeply to be written down
    except ValidationError as error:
        location = _first_complaint(error)["loc"]
        told = next((file for file, stated in chain if _holds(stated, location)), None)
        far = next((file for file, _ in chain if not _near(file, path)), None)
        if far is not None and told in (None, far):
            raise _untold(path, far) from error
        raise UserError(f"{told or path}: {explain(error, model)}") from error
    except (RecursionError, PydanticSerializationError) as error:
        raise UserError(f"{path}: nested too deeply for a card") from error
    return card


def _read_chain(path: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Read what a card states, then the card that it extends, and so on."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        try:
            stated, parent = _parse(path, kind)
        except UserError as error:
            if chain and not _near(path, chain[0][0]):
                raise _untold(chain[0][0], path) from error
            raise
        chain.append((path, stated))
        if parent is None:
            return chain
        if any(parent.samefile(file) for file, _ in chain):
            raise UserError(f"{path}: extends {_shown(parent)}, which extends this card in turn")
        if len(chain) == _MAX_CHAIN:
            raise UserError(
                f"{chain[0][0]}: more than {_MAX_CHAIN} cards extend each other; expected fewer"
            )
        path = parent


def _near(path: Path, card: Path) -> bool:
    """Whether a file ships, or lies in the folder of a card or below."""
    places = (card.parent, folder("attacks"), folder("benchmarks"))
    return any(path.resolve().is_relative_to(place.resolve()) for place in places)


def _untold(card: Path, far: Path) -> UserError:
    """Build the error for a file elsewhere: a card from a stranger must not show what is in it."""
    return UserError(
        f"{card}: extends {_one_line(far)}, which does not make it a valid card; that file lies in "
        "another folder, so nothing of it is shown: read it by its own path to see what is wrong"
    )


def _parse(path: Path, kind: str) -> tuple[dict[str, Any], Path | None]:
    """Read what one card states, and find the card that it extends."""
    content = read_bounded(path, _MAX_CARD_BYTES, "a card")
    try:
        text = content.decode()
        if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
            raise ValueError(f"more than {_MAX_DOTS} dots in a line")
        stated = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also what tomllib says of a number too long
        raise UserError(f"{path}: not valid TOML: {_one_line(error)}") from error
    extends = stated.pop("extends", None)
    if extends is None:
        return stated, None
    if not isinstance(extends, str):
        raise UserError(
            f"{path}: extends: expected the name or the path of a card, got {_shown(extends)}"
        )
    try:
        return stated, _locate(kind, extends, beside=path.parent)
    except UserError as error:
        raise UserError(f"{path}: extends: {error}") from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``: tables key by key, all else as a whole."""
    result = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            result[key] = _merged(base[key], changes[key])
    return result


def _holds(stated: Any, location: tuple[int | str, ...]) -> bool:
    """Whether a file itself states what lies at a location."""
    for part in location:
        if not isinstance(stated, dict) or part not in stated:
            return not isinstance(stated, dict)  # a list holds its items
        stated = stated[part]
    return bool(location)


def _first_complaint(error: ValidationError) -> ErrorDetails:
    # a misspelt key is also a missing one
    return min(error.errors(), key=lambda complaint: complaint["type"] == "missing")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Put pydantic's first complaint in one line: the key, what was wrong, what is allowed."""
    first = _first_complaint(error)
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys(model, location[:-1])
        return f"unknown key {key!r}; {nearest(str(location[-1]), allowed)}{more}"
    if first["type"] == "missing":
        return f"key {key!r} is missing{more}"
    message = _one_line(first["msg"].removeprefix("Value error, "))
    prefix = f"{key}: " if key else ""
    # values that do not go together are too many to repeat
    whole = first["type"] == "value_error" and isinstance(first["input"], dict)
    got = f", got {_shown(first['input'])}" if key and not whole else ""
    return f"{prefix}{message[0].lower() + message[1:]}{got}{more}"


def _shown(value: object) -> str:
    try:
        return repr(str(value)[:80])
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return "a number too long"


def _one_line(text: object) -> str:
    return one_line(text, limit=None)


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    also = [] if location else ["extends"]
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:  # and not a place in a list or a key of a table
            annotation = fields[str(part)].annotation
            kinds = [annotation, *get_args(annotation)]
            inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
            model = inner[0] if inner else model
    return also + [field.alias or name for name, field in model.model_fields.items()]
