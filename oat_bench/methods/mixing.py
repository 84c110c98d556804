"""Adaptive Smoothing: the outputs of two classifiers, mixed (Bai et al., arXiv:2301.12554)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from oat_bench import checkpoint
from oat_bench.cards import Lambda
from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.networks.card import NetworkCard
from oat_bench.registry import METHODS

_SAME = "standard"  #: in the place of the robust classifier, where it is the standard one


class Options(trainable.Options):
    """What is mixed: checkpoints or runs' folders in a card, their descriptions in a checkpoint."""

    standard: str | dict[str, Any]
    robust: str | dict[str, Any] = Field(default=_SAME, description="absent: the standard one")
    standard_lambda: Lambda = Field(default=0.0, description="where the standard one is run")
    robust_lambda: Lambda = Field(default=1.0, description="where the robust one is run")

    def sources(self) -> list[tuple[str, str | dict[str, Any]]]:
        """Return each different classifier with its role."""
        both = [("standard", self.standard), ("robust", self.robust)]
        return both[:1] if self.robust == _SAME else both


class Mixture(nn.Module):
    """log((1 - share) softmax(standard(x)) + share softmax(robust(x))), their equation 3."""

    share: Tensor

    def __init__(self, standard: nn.Module, robust: nn.Module, share: float) -> None:
        super().__init__()
        self.standard, self.robust = standard, robust
        self.register_buffer("share", torch.tensor(share))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to log probabilities [n, num_classes], which are logits."""
        logs = [self.standard(x).log_softmax(1), self.robust(x).log_softmax(1)]
        # in logs: a probability may be too small for float32
        weights = torch.stack([1 - self.share, self.share]).log()
        return torch.logsumexp(torch.stack(logs) + weights[:, None, None], dim=0)


class OutputMixing(trainable.Family):
    """Two classifiers whose probabilities are mixed, lambda the robust one's share."""

    Options = Options
    one_build = True

    def __init__(self, info: ModelInfo, parts: Mapping[str, TunableClassifier]) -> None:
        self.info, self.parts = info, dict(parts)
        self.options = Options.model_validate(info.options)
        for role, part in self.parts.items():
            theirs = part.info
            if (theirs.classes, theirs.input_shape) != (info.classes, info.input_shape):
                raise UserError(
                    f"{info.method}: the {role} model is of {theirs.dataset!r}; expected the "
                    f"classes and images of {info.dataset!r}"
                )

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard | None:
        return None

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Read the checkpoints that the options name; of a description, take fresh weights."""
        options = Options.model_validate(info.options)
        parts: dict[str, TunableClassifier] = {}
        for role, source in options.sources():
            if isinstance(source, str):
                parts[role] = checkpoint.load(Path(source))
            else:
                theirs = ModelInfo.model_validate(source)
                parts[role] = METHODS[theirs.method].build(theirs)
        return cls.of(info, parts)

    @classmethod
    def of(cls, info: ModelInfo, parts: Mapping[str, TunableClassifier]) -> Self:
        """Mix classifiers that are there already, and say so in the description."""
        said = {role: part.info.model_dump(mode="json") for role, part in parts.items()}
        changes = {
            "options": Options.model_validate(info.options | said).model_dump(mode="json"),
            "network": None,
            "own_name": " + ".join(part.info.architecture for part in parts.values()),
            "own_widths": [parts[_SAME].info.widths[0]],
            "trained_lambdas": info.trained_lambdas,
            "interpolation": "none",
            "bridge": None,
            "epochs": 0,
        }
        return cls(info.model_copy(update=changes), parts)

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        options, parts = Options.model_validate(info.options), {}
        for role, source in options.sources():
            own = {n.removeprefix(f"{role}."): v for n, v in state.items() if n.startswith(role)}
            theirs = ModelInfo.model_validate(source)
            if theirs.method == info.method:
                raise ValueError("a mixture of mixtures")
            parts[role] = METHODS[theirs.method].from_state(theirs, own)
        return cls(info, parts)

    def members(self) -> list[trainable.Member]:
        return []

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the mixture in which the robust classifier has the share ``lam``."""
        point = OperatingPoint(lam, width)
        standard, robust = self.pair(point.width)
        device = next(robust.parameters()).device
        return Mixture(standard, robust, point.lam).to(device).eval()

    def pair(self, width: float) -> tuple[nn.Module, nn.Module]:
        """Return the standard and the robust classifier, each at its lambda."""
        standard = self.parts["standard"].at(self.options.standard_lambda, width)
        other = self.parts.get("robust", self.parts["standard"])
        return standard, other.at(self.options.robust_lambda, width)
