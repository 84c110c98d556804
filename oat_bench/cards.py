"""Cards: the TOML files that say everything about an attack or a benchmark.

With ``extends = "cifar10"`` a card states only where it differs from another one of its kind, by
name or by path from its own folder: tables are merged, anything else is replaced.
"""

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import PydanticSerializationError

from oat_bench.complaints import explain, first_complaint, shown
from oat_bench.errors import UserError, one_line, unknown
from oat_bench.files import is_file, read_bounded, sha256

NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"
FRACTION = re.compile(rf"\s*({NUMBER})\s*(?:/\s*({NUMBER}))?\s*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
#: what tables and options call something else
_TAKEN = ("all", "lambda", "n", "sa", "trained", "width", "worst")
_MAX_CARD_BYTES = 1 << 16  #: cards are small; a larger file is a mistake or an attack
_MAX_DOTS = 1000  #: in a line; tomllib takes the square of the parts of a key in time


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if not isinstance(value, str):
        return value
    match = FRACTION.fullmatch(value)
    if not match or (match[2] and float(match[2]) == 0):
        raise ValueError('expected a number or a fraction such as "8/255"')
    return float(match[1]) / float(match[2] or 1)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or value.lower() in _TAKEN:
        raise ValueError(
            f"expected up to 64 letters, digits and . _ + -, and none of {', '.join(_TAKEN)}"
        )
    return value


def publishable(text: str) -> str:
    """Make a `Name` out of any text: accents go, what else may not be in one becomes a hyphen."""
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain).lstrip("._+-")[:64] or "images"
    return f"{name}-images" if name.lower() in _TAKEN else name


Fraction = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
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

    A later key is written only where it is not at its default, so that published fingerprints
    survive: its default must mean what was done before the key, and stay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    first_keys: ClassVar[frozenset[str]] = (
        frozenset()
    )  #: those of the first release: always written

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        for name, field in type(self).model_fields.items():
            if name not in self.first_keys and getattr(self, name) == field.get_default(
                call_default_factory=True
            ):
                values.pop(name, None)
        return values


def first(keys: str) -> frozenset[str]:
    """Return the keys of a string, for `Recorded.first_keys`."""
    return frozenset(keys.split())


class Card(Recorded):
    """Base of all cards."""

    kind: ClassVar[str] = ""  #: of what there is a folder of cards
    model_config = ConfigDict(populate_by_name=True, ser_json_inf_nan="strings")

    def fingerprint(self) -> str:
        """Hash of the card's values, but for those that only describe it, or bound its memory."""
        return sha256(self.model_dump_json(exclude={"name", "description", "source", "memory"}))

    def stated(self) -> dict[str, Any]:
        """Return the values as a file has them: without later keys that are at their defaults."""
        return self.model_dump(by_alias=True)


class Threat(Card):
    """What the adversary may do: perturb by at most eps, searching in steps of step_size."""

    first_keys = first("norm eps step_size")

    norm: Norm = Field(default="Linf", description="Norm of the perturbation")
    eps: NonNegative = Field(default=8 / 255, description="Radius of the ball around an image")
    step_size: NonNegative = Field(
        default=2 / 255, description="Length of a step of an attack, absolute: no share of eps"
    )

    def __str__(self) -> str:
        return f"{self.norm} eps {format_eps(self.eps)}"


def format_eps(eps: float) -> str:
    """Write eps as entries do: 8/255, but 0.2."""
    levels = eps * 255
    whole = levels >= 1 and abs(levels - round(levels)) < 1e-9
    return f"{levels:.0f}/255" if whole and float(f"{eps:g}") != eps else f"{eps:g}"


C = TypeVar("C", bound=Card)


def folder(kind: str) -> Path:
    """Return where the cards of a kind lie: inside an installed package, else in the checkout."""
    installed = Path(__file__).parent / "_cards" / kind
    return installed if installed.is_dir() else Path(__file__).parents[1] / kind


def names(kind: str) -> list[str]:
    """List the cards that ship: ``attacks`` or ``benchmarks``."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def find(name_or_path: str, model: type[C]) -> C:
    """Read a card by its name among those that ship, or by path."""
    return read(_locate(model.kind, name_or_path), model)


def find_any(name_or_path: str, *kinds: type[Card]) -> Card:
    """Read a card of any of the kinds, which its name or the keys of its file tell apart."""
    if not _is_path(name_or_path):
        known = {name: kind for kind in kinds for name in names(f"{kind.kind}s")}
        if name_or_path not in known:
            raise unknown("card", name_or_path, known)
        return find(name_or_path, known[name_or_path])
    stated = _parse(_locate(kinds[0].kind, name_or_path))

    def alike(kind: type[Card]) -> int:
        shared = len(stated.keys() & keys(kind).keys())
        return shared + (stated.get("extends") in names(f"{kind.kind}s"))

    return find(name_or_path, max(kinds, key=alike))


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(".toml")


def _locate(kind: str, name_or_path: str, beside: Path = Path()) -> Path:
    if _is_path(name_or_path):
        path = beside / name_or_path
        if not is_file(path):
            raise UserError(f"no {kind} card at {one_line(path, None)}; expected a TOML file")
        return path
    if name_or_path not in names(f"{kind}s"):
        raise unknown(kind, name_or_path, names(f"{kind}s"))
    return folder(f"{kind}s") / f"{name_or_path}.toml"


@cache
def keys(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each key of a card, sections too, by its dotted name."""
    found, schema = {}, model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        key, kind = field.alias or name, field.annotation
        if key in schema:
            found[key] = schema[key]
        if isinstance(kind, type) and issubclass(kind, Card):
            found |= {f"{key}.{inner}": one for inner, one in keys(kind).items()}
    return found


def settings(model: type[Card], changes: Mapping[str, object]) -> dict[str, Any]:
    """Read changes of a card by dotted key, such as ``training.lr``, None for its default.

    Text is a value of TOML, or is taken as it is; of a list, its items may stand between commas; no
    text is the default. A key that there is not is a UserError that names the nearest.
    """
    known, read = keys(model), dict[str, Any]()
    for key, given in changes.items():
        above = key.rpartition(".")[0]
        if key not in known and "additionalProperties" not in known.get(above, {}):
            same = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
            if same:
                raise UserError(f"unknown key {key!r}; did you mean {' or '.join(same)}?")
            raise unknown("key", key, known)
        value = _value(given, known.get(key, {})) if isinstance(given, str) else given
        if isinstance(value, dict) and any(name.startswith(f"{key}.") for name in known):
            read |= settings(model, {f"{key}.{name}": one for name, one in value.items()})
        else:
            read[key] = value
    return read


def changed(card: C, values: Mapping[str, Any]) -> C:
    """Return a card with other values by dotted key, as `settings` reads them."""
    whole = card.stated()
    for key, value in values.items():
        *sections, last = key.split(".")
        place = whole
        for section in sections:
            inner = place.get(section)
            if not isinstance(inner, dict):  # a name alone stands for a table
                inner = place[section] = {} if inner is None else {"name": inner}
            place = inner
        place[last] = value
        if value is None:
            del place[last]
    try:
        made = type(card).model_validate(whole)
        made.fingerprint()
    except ValidationError as error:
        raise UserError(explain(error, type(card))) from error
    except (RecursionError, PydanticSerializationError) as error:
        raise UserError(f"{', '.join(values)}: not a value that can be written down") from error
    return made


def _value(text: str, schema: dict[str, Any]) -> object:
    if not text:
        return None
    try:
        table = tomllib.loads(f"value = {text}")
        value = table["value"] if len(table) == 1 else text
    except (ValueError, RecursionError):
        value = text
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    if "string" in kinds and not isinstance(value, str):
        return text
    if "array" in kinds and not isinstance(value, list):
        return [_value(part.strip(), {}) for part in text.split(",")]
    return value


def read(path: Path, model: type[C]) -> C:
    """Read a card from a file, and with it those that it extends."""
    chain = _read_chain(path, model.kind)
    values: dict[str, Any] = {}
    for _, stated in reversed(chain):
        values = _merged(values, stated)
    # of the card that is extended, a card does not take the name
    values["name"] = chain[0][1].get("name", path.stem)
    try:
        card = model.model_validate(values)
        card.fingerprint()  # fails on what is nested too deeply to be written down
    except ValidationError as error:
        location = first_complaint(error)["loc"]
        told = next((file for file, stated in chain if _holds(stated, location)), path)
        raise UserError(f"{told}: {explain(error, model)}") from error
    except (RecursionError, PydanticSerializationError) as error:
        raise UserError(f"{path}: nested too deeply for a card") from error
    return card


def _read_chain(path: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        stated = _parse(path)
        chain.append((path, stated))
        extends = stated.pop("extends", None)
        if extends is None:
            return chain
        if not isinstance(extends, str):
            raise UserError(
                f"{path}: extends: expected the name or the path of a card, got {shown(extends)}"
            )
        try:
            parent = _locate(kind, extends, beside=path.parent)
        except UserError as error:
            raise UserError(f"{path}: extends: {error}") from error
        if any(parent.samefile(file) for file, _ in chain):
            raise UserError(f"{path}: extends {shown(parent)}, which extends this card in turn")
        path = parent


def _parse(path: Path) -> dict[str, Any]:
    content = read_bounded(path, _MAX_CARD_BYTES, "a card")
    try:
        text = content.decode()
        if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
            raise ValueError(f"more than {_MAX_DOTS} dots in a line")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also what tomllib says of a number too long
        raise UserError(f"{path}: not valid TOML: {one_line(error, None)}") from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            result[key] = _merged(base[key], changes[key])
    return result


def _holds(stated: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(stated, dict) or part not in stated:
            return not isinstance(stated, dict)  # a list holds its items
        stated = stated[part]
    return bool(location)
