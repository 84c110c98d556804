"""Network cards: the backbone, and how it is conditioned on lambda."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from oat_bench.cards import Card, Fraction, Widths, first
from oat_bench.registry import ARCHITECTURES

Encoding = Literal["scalar", "one-hot", "dct", "orthogonal"]
NormForm = Literal["dual", "single"]
FilmForm = Literal["identity-start", "published", "none"]
Heads = Literal["shared", "per-width"]
#: The rule for a lambda between two trained ones, see `LambdaEncoding`; a checkpoint names its own.
Interpolation = Literal["linear-codes", "spherical-codes", "film"]

RESNETS = {"resnet-18": (2, 2, 2, 2), "resnet-34": (3, 4, 6, 3)}  # blocks of each stage
#: the first convolution's size and stride, and whether max pooling (3x3, stride 2) follows
STEMS = {"": (3, 1, False), "stride2": (3, 2, False), "stem7": (7, 2, True)}
#: which stem "auto" is, from how many pixels of an image's shorter side on: maps of 48 or more
_STEM_FROM = {192: "-stem7", 96: "-stride2", 0: ""}
_AUTO = "-auto"
_WRN = re.compile(r"wrn-(\d{1,3})-(\d{1,2})")


def split_stem(name: str) -> tuple[str, str]:
    """Return the name of a backbone with the stem for small images, and which stem it has."""
    base, _, stem = name.rpartition("-")
    return (base, stem) if stem and stem in STEMS else (name, "")


def check_architecture(name: str) -> str:
    """Return ``name`` if it names a backbone; ValueError, with the names there are, if not."""
    base, _ = split_stem(name)
    match = _WRN.fullmatch(base)
    depth, widen = (int(group) for group in match.groups()) if match else (0, 0)
    wide = depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1
    if not wide and base not in RESNETS and name not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {name!r}; expected resnet-18, resnet-34 or wrn-DEPTH-WIDEN with "
            "depth 10, 16, 22, 28, ... (6n + 4), such as wrn-16-8; for large images with -stride2 "
            "or -stem7 (7x7, stride 2, max pooling) at its end"
        )
    return name


def _is_auto(name: str) -> bool:
    return name.endswith(_AUTO) and name not in ARCHITECTURES


def _check_named(name: str) -> str:
    check_architecture(name.removesuffix(_AUTO) + "-stem7" if _is_auto(name) else name)
    return name


def depth(name: str) -> int:
    """Return how many layers a backbone has at least, each with weights of its own."""
    check_architecture(name)
    return 1 if name in ARCHITECTURES else int(name.split("-")[1])


def _with_the_full_one(widths: list[float]) -> list[float]:
    if len(widths) > 1 and widths[0] != 1:
        raise ValueError("several widths share the weights of the full one; add width 1")
    return widths


def check_interpolation(interpolation: Interpolation, kind: Encoding) -> None:
    """Refuse (ValueError) a rule that does not exist, or that an encoding does not have."""
    if interpolation not in (rules := get_args(Interpolation)):
        expected = ", ".join(rules)
        raise ValueError(f"unknown interpolation {interpolation!r}; expected one of {expected}")
    if interpolation == "spherical-codes" and kind == "scalar":
        raise ValueError(
            "interpolation spherical-codes needs codes with directions, which scalar ones have "
            "not; expected linear-codes or film"
        )


class NetworkCard(Card):
    """The network and how it is conditioned on lambda."""

    first_keys = first("architecture encoding encoding_dim norm film dropout")

    architecture: Annotated[str, AfterValidator(_check_named)] = Field(
        description="Backbone: resnet-18, resnet-34 or wrn-DEPTH-WIDEN, such as wrn-16-8; with "
        "-stride2 or -stem7 for large images, or -auto: what goes with their size"
    )
    encoding: Encoding = Field(
        default="orthogonal", description="Code of a lambda, which FiLM reads"
    )
    encoding_dim: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=128, description="Length of a code; scalar codes have one number"
    )
    norm: NormForm = Field(
        default="dual",
        description="dual: lambda = 0 has batch norms of its own; single: it has not",
    )
    film: FilmForm = Field(
        default="identity-start",
        description="How FiLM starts: as the identity, or as in the published code; none: no FiLM",
    )
    dropout: Annotated[Fraction, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of a block's inner activations that dropout zeroes; of wrn"
    )
    widths: Annotated[Widths, AfterValidator(_with_the_full_one)] = Field(
        default=[1.0], description="Shares of the channels that the network runs at, widest first"
    )
    heads: Heads = Field(
        default="shared", description="One classification head for all widths, or one for each"
    )
    interpolation: Interpolation = Field(
        default="linear-codes", description="Rule for a lambda between two trained ones"
    )

    def for_images(self, height: int, width: int) -> "NetworkCard":
        """Return the card with the stem that ``-auto`` is for images of so many pixels."""
        if not _is_auto(self.architecture):
            return self
        side = min(height, width)
        stem = next(stem for least, stem in _STEM_FROM.items() if side >= least)
        return self.model_copy(update={"architecture": self.architecture.replace(_AUTO, stem)})

    @model_validator(mode="after")
    def _keys_go_together(self) -> "NetworkCard":
        if self.heads == "per-width" and len(self.widths) == 1:
            raise ValueError('heads = "per-width" needs several widths, such as [1, 0.75, 0.5]')
        if self.dropout and not self.architecture.startswith("wrn"):
            raise ValueError(f"{self.architecture} has no dropout; set dropout = 0")
        check_interpolation(self.interpolation, self.encoding)
        return self
