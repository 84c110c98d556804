"""Classifiers made of others, which a card names by their checkpoints; nothing is trained."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from oat_bench import checkpoint
from oat_bench.cards import Lambda
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.networks.card import NetworkCard
from oat_bench.registry import METHODS

#: a checkpoint or a run's folder in a card, its description in a checkpoint
Source = str | dict[str, Any]
_SAME = "standard"  #: in the place of the robust classifier, where it is the standard one


class Sources(trainable.Options):
    """What a classifier is made of."""

    @abstractmethod
    def sources(self) -> dict[str, Source]:
        """Return each different part by its role."""


class Ends(Sources):
    """A standard and a robust classifier, or two operating points of one."""

    standard: Source
    robust: Source = Field(default=_SAME, description="absent: the standard one")
    standard_lambda: Lambda = Field(default=0.0, description="where the standard one is run")
    robust_lambda: Lambda = Field(default=1.0, description="where the robust one is run")

    def sources(self) -> dict[str, Source]:
        own = {} if self.robust == _SAME else {"robust": self.robust}
        return {"standard": self.standard, **own}


class Combined(trainable.Family):
    """A classifier made of others, by role; ``Options`` names them."""

    Options: ClassVar[type[Sources]]
    parts: dict[str, TunableClassifier]
    one_build = True

    def __init__(self, info: ModelInfo, parts: Mapping[str, TunableClassifier]) -> None:
        self.info, self.parts = info, dict(parts)
        for role, part in self.parts.items():
            theirs = part.info
            if (theirs.classes, theirs.input_shape) != (info.classes, info.input_shape):
                raise UserError(
                    f"{info.method}: the {role} model is of {theirs.dataset!r}; expected the "
                    f"classes and images of {info.dataset!r}"
                )
            if part.random:
                raise UserError(
                    f"{info.method}: the {role} model, of method {theirs.method!r}, is random; "
                    "expected one that answers alike each time"
                )
        self.check_parts()

    def check_parts(self) -> None:
        """Refuse, by a UserError, parts that the method cannot combine."""

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard | None:
        return None

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Read the checkpoints that the options name; of a description, take fresh weights."""
        parts: dict[str, TunableClassifier] = {}
        for role, source in cls.Options.model_validate(info.options).sources().items():
            if isinstance(source, str):
                parts[role] = checkpoint.load(Path(source))
            else:
                theirs = ModelInfo.model_validate(source)
                parts[role] = METHODS[theirs.method].build(theirs)
        return cls.of(info, parts)

    @classmethod
    def of(cls, info: ModelInfo, parts: Mapping[str, TunableClassifier]) -> Self:
        """Combine classifiers that are there already, and say so in the description."""
        said = {role: part.info.model_dump(mode="json") for role, part in parts.items()}
        changes = {
            "options": cls.Options.model_validate(info.options | said).model_dump(mode="json"),
            "network": None,
            "own_name": " + ".join(part.info.architecture for part in parts.values()),
            "own_widths": [next(iter(parts.values())).info.widths[0]],
            "trained_lambdas": info.trained_lambdas,
            "dial": True,
            "interpolation": "none",
            "bridge": None,
            "epochs": 0,
        }
        return cls(info.model_copy(update=changes), parts)

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        parts: dict[str, TunableClassifier] = {}
        for role, source in cls.Options.model_validate(info.options).sources().items():
            theirs = ModelInfo.model_validate(source)
            if theirs.method == info.method:
                raise ValueError(f"{info.method} of {info.method}")
            prefix = f"{role}."
            own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            parts[role] = METHODS[theirs.method].from_state(theirs, own)
        return cls(info, parts)

    def members(self) -> list[trainable.Member]:
        return []

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.state_dict().values())).device


class TwoEnds(Combined):
    """A classifier between a standard and a robust one."""

    Options: ClassVar[type[Ends]] = Ends

    @property
    def ends(self) -> tuple[tuple[TunableClassifier, float], tuple[TunableClassifier, float]]:
        """The standard and the robust classifier, and the lambda that each is run at."""
        options = self.Options.model_validate(self.info.options)
        standard = self.parts["standard"]
        robust = self.parts.get("robust", standard)
        return (standard, options.standard_lambda), (robust, options.robust_lambda)

    def both(self, width: float) -> tuple[nn.Module, nn.Module]:
        """Return the plain networks of the two ends."""
        (standard, low), (robust, high) = self.ends
        return standard.at(low, width), robust.at(high, width)


def combine(
    method: str,
    parts: Mapping[str, TunableClassifier],
    data: Dataset,
    *,
    lambdas: Sequence[float],
    seed: int = 0,
    **options: Any,
) -> Combined:
    """Make a classifier of others, as a card with this ``[method]`` does.

    Args:
        method: a name such as ``mixednuts``.
        parts: by role: ``standard`` and ``robust`` (absent: the standard one, at another lambda),
            or ``network``; from `oat_bench.load` or `oat_bench.wrap`.
        data: what the method estimates or fits on: training or validation images.
        lambdas: where it is evaluated, in [0, 1].
        seed: of the fit.
        options: other keys of ``[method]``.

    Raises:
        UserError: if the method is none of these, or cannot combine these parts.
    """
    kind = METHODS[METHODS.known(method)]
    if not issubclass(kind, Combined):
        raise UserError(f"method {method!r} makes nothing of other classifiers")
    changes = {"method": method, "trained_lambdas": sorted(set(lambdas)), "seed": seed}
    changes |= {"options": options, "lambda_sampling": "list", "benchmark_card": ""}
    made: Combined = kind.of(next(iter(parts.values())).info.model_copy(update=changes), parts)
    selection = made.fit(data) or "none: not trained"  # which may change the description too
    made.info = made.info.model_copy(update={"selection": selection})
    return made


@torch.no_grad()
def between(low: nn.Module, high: nn.Module, share: float) -> nn.Module:
    """Take the weights of ``low`` a share of the way to those of ``high``; return ``low``.

    A UserError if the two do not have the same weights by name and shape.
    """
    ours, theirs = low.state_dict(), high.state_dict()
    if {n: v.shape for n, v in ours.items()} != {n: v.shape for n, v in theirs.items()}:
        raise UserError("the two networks differ in their layers; expected one architecture")
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name], share)
    return low
