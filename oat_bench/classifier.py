"""Tunable classifiers: families of ordinary classifiers indexed by an operating point."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from oat_bench import __version__
from oat_bench.cards import ImageSize, Lambdas, Recorded, Threat, Widths, first, publishable
from oat_bench.datasets import Dataset, is_folder
from oat_bench.datasets.layout import composed
from oat_bench.errors import UserError, one_line
from oat_bench.networks.card import Interpolation, NetworkCard
from oat_bench.networks.conditioning import bridged_below, check_within
from oat_bench.registry import DATASETS, METHODS
from oat_bench.tensors import checksum

SAME_LAMBDA = 1e-6  #: lambda closer than this are one: float32 holds about seven digits
_Side = Annotated[int, Field(ge=1, le=65536)]


@dataclass(frozen=True, order=True)
class OperatingPoint:
    """Where a tunable classifier is run; a ValueError outside these ranges.

    ``lam`` is the robustness weight in [0, 1], ``width`` the share of the channels in (0, 1].
    """

    lam: float
    width: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam is {self.lam}; expected a number in [0, 1]")
        if not 0 < self.width <= 1:
            raise ValueError(f"width is {self.width}; expected a number in (0, 1]")


class Ancestor(Recorded):
    """A model whose weights training started from, as it described itself."""

    first_keys = first(
        "fingerprint method architecture dataset data_fingerprint threat seed epochs"
    )

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the model")]
    method: str
    architecture: str
    dataset: str
    data_fingerprint: str = Field(description="of what it was trained on; empty: not known")
    threat: Threat
    seed: int
    epochs: int

    @property
    def recipe(self) -> str:
        """All but the seed, in words."""
        # a checkpoint may call them anything
        method, network, dataset = map(publishable, (self.method, self.architecture, self.dataset))
        epochs = f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        return f"{method.upper()} {network} on {dataset}, {self.threat}, {epochs}"

    def __str__(self) -> str:
        return f"{self.recipe}, seed {self.seed}"


class ModelInfo(Recorded):
    """What a checkpoint says of itself."""

    first_keys = first(
        "format_version oat_bench_version method dataset classes input_shape network "
        "trained_lambdas interpolation threat seed epochs selection benchmark_card"
    )

    format_version: Annotated[int, Field(ge=1, le=1)] = 1
    oat_bench_version: str = __version__
    method: str
    dataset: str
    classes: Annotated[list[str], Field(min_length=2, max_length=100_000)]
    input_shape: tuple[Annotated[int, Field(ge=1, le=4096)], _Side, _Side]
    network: NetworkCard | None = Field(default=None, description="absent: it is no card's")
    own_name: str = Field(default="", description="architecture of a network that is no card's")
    own_widths: Widths = Field(default=[1.0], description="likewise")
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own")
    trained_lambdas: Lambdas
    dial: bool = Field(default=True, description="false: one classifier, lambda is only a label")
    interpolation: Literal["linear-codes", "spherical-codes", "film", "none"] = "none"
    lambda_sampling: Literal["list", "uniform"] = "list"
    #: the rule below `bridged_below`; absent: none, or it came later
    bridge: Literal["folded-affine"] | None = None
    threat: Threat
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    epochs: int
    selection: str = Field(description="the rule that chose these weights, and the epoch it chose")
    benchmark_card: str = Field(default="", description="fingerprint of the card it was trained by")
    data_fingerprint: str = Field(default="", description="of what it was trained on, if known")
    image_size: ImageSize | None = Field(default=None, description="of a folder of images")
    micro_batch: int | None = Field(
        default=None,
        description="images of a training step that passed, and through batch norm, at once at "
        "most; absent: all",
    )
    ancestors: Annotated[list[Ancestor], Field(max_length=1000)] = Field(
        default=[], description="whose weights training started from, the nearest first"
    )

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.classes)

    @property
    def widths(self) -> list[float]:
        """Shares of the channels that there is a classifier at, widest first."""
        return self.own_widths if self.network is None else self.network.widths

    @property
    def architecture(self) -> str:
        """What the network is called, such as ``wrn-16-2``."""
        return self.own_name if self.network is None else self.network.architecture

    def trained_at(self, lam: float) -> bool:
        """Whether training sampled this lambda; where nothing was trained, each counts."""
        free = self.epochs == 0 or self.lambda_sampling == "uniform"
        return free or lam in self.trained_lambdas

    @property
    def bridged_below(self) -> float | None:
        """The first trained lambda above 0, if `LambdaEncoding` mixes those between; else None."""
        if self.network is None or not METHODS[self.method].bridged:
            return None
        return bridged_below(self.trained_lambdas, self.network.norm, self.lambda_sampling)

    def bridges(self, lambdas: Iterable[float]) -> bool:
        """Whether one of the lambda lies below `bridged_below`, and above 0."""
        return any(0 < lam < (self.bridged_below or 0) for lam in lambdas)

    def with_bridge(self) -> Self:
        """Return the description with the rule named, where there is one."""
        rule = None if self.bridged_below is None else "folded-affine"
        return self.model_copy(update={"bridge": rule})

    @model_validator(mode="after")
    def _rules_go_with_the_network(self) -> Self:
        if self.bridge is not None and self.bridged_below is None:
            raise ValueError(f"bridge is {self.bridge!r}; expected none for how it was trained")
        own = "none" if self.network is None else self.network.interpolation
        if self.interpolation not in ("none", own):
            raise ValueError(f"interpolation is {self.interpolation!r}, the network's is {own!r}")
        return self


def check_fits(info: ModelInfo, data: Dataset) -> Dataset:
    """Refuse a data set that does not fit; return it by the checkpoint's name unless it differs."""
    check_compatible(info, data)
    if info.dataset != data.name and {info.dataset, data.name} & DATASETS.keys():
        remedy = f"evaluate it with --dataset {info.dataset}"
        if info.dataset not in DATASETS:
            remedy = "name its folder with --dataset"
        raise UserError(
            f"the checkpoint is of data set {info.dataset!r}, not {data.name!r}; {remedy}"
        )
    if trained_on(info, data) is False:
        return data
    return data.called(publishable(info.dataset))


def trained_on(info: ModelInfo | Ancestor, data: Dataset) -> bool | None:
    """Whether a data set is the one that a model was trained on; None: it does not know."""
    if not info.data_fingerprint:
        return None
    return data.called(info.dataset).fingerprint() == info.data_fingerprint


def foreign_ancestors(info: ModelInfo, data: Dataset) -> list[Ancestor]:
    """Return those trained on other data or splits, and so on some test images of these, maybe."""
    return [one for one in info.ancestors if trained_on(one, data) is not True]


def image_size(info: ModelInfo, dataset: str, asked: int | None = None) -> int | None:
    """Return the pixels that a folder's images are resized to: as asked, else as in training."""
    return info.image_size if asked is None and is_folder(dataset) else asked


def check_compatible(info: ModelInfo, data: Dataset) -> None:
    """Refuse a data set of other classes, or of images of another shape, than a checkpoint's."""
    ours, theirs = list(map(composed, info.classes)), list(map(composed, data.classes))
    if ours != theirs:
        raise UserError(
            f"the checkpoint of {info.dataset!r} has {_few(ours)}; {data.name!r} has "
            f"{_few(theirs)}; expected the same classes in the same order"
        )
    (channels, height, width), shape = info.input_shape, data.input_shape
    if info.input_shape == shape:
        return
    remedy = "expected images of the same size and number of channels"
    if channels == shape[0] and height == width and data.name not in DATASETS:
        remedy = f"resize and crop them with --image-size {height}"
    raise UserError(
        f"the checkpoint of {info.dataset!r} takes images {info.input_shape}, those of "
        f"{data.name!r} are {shape}; {remedy}"
    )


def _few(classes: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in classes[:4])
    return f"{len(classes)} classes: {shown}" + (", ..." if len(classes) > 4 else "")


class TunableClassifier(ABC):
    """A family of plain classifiers: `at` is all that evaluation, export and attacks ever use."""

    info: ModelInfo
    slims: ClassVar[bool] = False  #: whether one network runs at several widths
    continuous: ClassVar[bool] = True  #: at every lambda in the trained range, or only trained ones
    one_build: ClassVar[bool] = False  #: whether the networks of all points differ in tensors alone
    #: whether a query is answered by a draw: `at` may return a `RandomNetwork`
    random: ClassVar[bool] = False
    bridged: ClassVar[bool] = True  #: whether `ModelInfo.bridged_below` is of this method
    passes: ClassVar[int] = 1  #: forward passes, of networks, that one classification takes

    @classmethod
    def label(cls, info: ModelInfo) -> str:
        """Return what tables call a classifier that nobody has named."""
        own = "" if info.architecture == info.method else f" {info.architecture}"
        return f"{info.method.upper()}{own}"

    @classmethod
    def check_lambda(cls, lam: float, trained: Sequence[float]) -> float:
        """Return ``lam``, or the trained one that equals it; a UserError if there is none."""
        if cls.continuous:
            check_within(lam, trained)
            return lam
        near = min(trained, key=lambda known: abs(known - lam))
        if abs(near - lam) > SAME_LAMBDA:
            raise UserError(
                f"lambda {lam:g} was not trained; there is a network of its own for each of lambda "
                f"{', '.join(f'{known:g}' for known in trained)}, and nothing between"
            )
        return near

    @abstractmethod
    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain classifier at an operating point.

        Args:
            lam: robustness weight in [0, 1].
            width: share of the channels; one of ``info.widths``.

        Returns:
            A module in eval mode: images [n, C, H, W] in [0, 1] in, logits [n, num_classes] out.

        Raises:
            ValueError: if the operating point does not exist.
        """

    def place(self, lam: float) -> float | None:
        """Return the parameter of the method's own that a lambda stands for; None: lambda."""
        return None

    def trained_at(self, lam: float) -> bool:
        """Whether training sampled a lambda, or the place that it stands for."""
        place = self.place(lam)
        return self.info.trained_at(lam if place is None else place)

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return `at` with batch norm in layers of its own; a UserError if it is folded for good.

        Another classifier may change the weights: nothing is shared.
        """
        raise UserError(f"a model of method {self.info.method!r} keeps no batch norm of its own")

    @torch.no_grad()
    def logits(self, x: Tensor, lam: Tensor, width: float = 1.0) -> Tensor:
        """Return logits [n, num_classes] of images [n, C, H, W], image i at lambda ``lam[i]``."""
        found = x.new_empty((len(x), self.info.num_classes))
        for value in sorted(set(lam.tolist())):
            near = self.check_lambda(value, self.info.trained_lambdas)
            found[lam == value] = self.at(near, width)(x[lam == value])
        return found

    def with_interpolation(self, rule: Interpolation) -> "TunableClassifier":
        """Return it with another rule between its trained lambda values, or raise a UserError."""
        raise UserError(f"a model of method {self.info.method!r} does not interpolate")

    def rules(self, lambdas: Iterable[float]) -> tuple[str, ...]:
        """Name the rules, newer than some stored outcomes, behind the networks at lambda values."""
        return ()

    def deployed(self, lam: float, width: float = 1.0) -> nn.Module | None:
        """Return what predicts in the place of `at`: of an exported file, its own runtime."""
        return None

    def with_lambda_input(self, width: float = 1.0) -> nn.Module:
        """Return a copy for export, a `LambdaInput`; a UserError: there is no one network."""
        raise UserError(
            f"{self.info.method}: there is no one network that takes lambda as an input; export "
            "the network of one lambda with --lambda"
        )

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that a checkpoint stores."""

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        """Build the classifier that a checkpoint describes; a ValueError if the two do not fit."""
        raise UserError(f"models of method {info.method!r} are not read from files")

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device and return the classifier."""

    def fingerprint(self) -> str:
        """Hash of the weights and the description, the same on every device."""
        return checksum(self.info.model_dump(mode="json"), self.state_dict())

    def lineage(self) -> list[Ancestor]:
        """Return it, and what it started from, as the ancestors of what starts from it."""
        said = {name: getattr(self.info, name) for name in Ancestor.first_keys - {"fingerprint"}}
        return [Ancestor(fingerprint=self.fingerprint(), **said), *self.info.ancestors]


def check_lambdas(
    method: str, trained: Sequence[float], lambdas: Iterable[float], option: str = "--lambda"
) -> None:
    """Refuse lambda values where a method has no classifier; by ``option`` others are chosen."""
    kind: type[TunableClassifier] = METHODS[method]
    for lam in lambdas:
        try:
            kind.check_lambda(lam, trained)
        except UserError as error:
            raise UserError(f"{method}: {error}; choose with {option}") from error


def check_widths(known: Sequence[float], widths: Iterable[float]) -> None:
    """Refuse widths that a network does not have."""
    for width in widths:
        if width not in known:
            have = ", ".join(f"{one:g}" for one in known)
            raise UserError(f"width {width:g} asked for; the network has {have}")
