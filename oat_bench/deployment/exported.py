"""An exported file as a classifier: what it holds is predicted with, and attacked white box."""

import math
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Self

import torch
from torch import Tensor, nn

from oat_bench.classifier import SAME_LAMBDA, OperatingPoint, TunableClassifier
from oat_bench.deployment.description import FORMATS, KEY, Description, Format, restored
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded, sha256
from oat_bench.networks.lambda_input import LambdaInput

_MAX_BYTES = 1 << 31  # no network comes near it, and protobuf ends there
#: what reading bytes that are not what they say raises
_DAMAGED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)


def format_module(kind: Format) -> ModuleType:
    """Return the module of a format, see `oat_bench.deployment`; its libraries are installed."""
    for library in ("onnx", "onnxruntime", "onnxscript") if kind == "onnx" else ():
        try:
            import_module(library)
        except ImportError as error:
            raise UserError(
                f"ONNX needs {library}, which is not installed; pip install 'oat-bench[export]'"
            ) from error
    return import_module(f"oat_bench.deployment.as_{kind}")


def format_of(path: Path) -> Format | None:
    """Return the format that a file's name ends in, or None."""
    return next((kind for kind in FORMATS if path.suffix.lower() == f".{kind}"), None)


def is_exported(path: str | Path) -> bool:
    """Say whether a file is one that was exported, not a checkpoint: by its name and header."""
    path = Path(path)
    if (kind := format_of(path)) != "safetensors":
        return kind is not None
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return f'"{KEY}"'.encode() in file.read(min(size, 1 << 24))
    except OSError:
        return False


class Exported(TunableClassifier):
    """What an exported file holds, as a tunable classifier of one lambda or, dynamic, of all."""

    def __init__(
        self,
        path: Path,
        description: Description,
        network: nn.Module,
        program: nn.Module | None,
        fingerprint: str,
    ) -> None:
        self.path, self.description = path, description
        self._network, self._program, self._fingerprint = network, program, fingerprint
        card, one = description.model.network, [description.width]
        card = card and card.model_copy(update={"widths": one, "heads": "shared"})
        self.info = description.model.model_copy(update={"network": card, "own_widths": one})

    def choose_lambdas(self, lambdas: list[float] | None) -> list[float] | None:
        """Return the lambda asked for, all of them the file's; its only one where none is."""
        own = self.description.lam
        for lam in lambdas or ():
            if own is None:
                self.check_lambda(lam, self.info.trained_lambdas)
            elif abs(lam - own) > SAME_LAMBDA:
                raise UserError(
                    f"lambda {lam:g} asked for; {self.path} is the network at lambda {own:g} "
                    f"alone: leave --lambda out, or export with --lambda {lam:g} or --dynamic"
                )
        return lambdas if own is None else [own]

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the file's network at an operating point that it has, with gradients."""
        self._check(OperatingPoint(lam, width))
        return (
            self._network.at(float(lam))
            if isinstance(self._network, LambdaInput)
            else self._network
        )

    def deployed(self, lam: float, width: float = 1.0) -> nn.Module | None:
        """Return the file as its runtime computes it, without gradients; None of safetensors."""
        self._check(OperatingPoint(lam, width))
        if self._program is None or self.description.lam is not None:
            return self._program
        return _AtLambda(self._program, float(lam))

    def _check(self, point: OperatingPoint) -> None:
        self.choose_lambdas([point.lam])
        if not math.isclose(point.width, self.description.width):
            raise UserError(
                f"width {point.width:g} asked for; {self.path} is the network at width "
                f"{self.description.width:g}"
            )

    def fingerprint(self) -> str:
        """Hash of the file."""
        return self._fingerprint

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of the file's network."""
        return dict(self._network.state_dict())

    def to(self, device: torch.device | str) -> Self:
        """Move the network that attacks see; the file's own runtime stays on the CPU."""
        self._network.to(device)
        return self


class _AtLambda(nn.Module):
    """A program that takes lambda, at one."""

    def __init__(self, program: nn.Module, lam: float) -> None:
        super().__init__()
        self.program, self.lam = program, lam

    def forward(self, images: Tensor) -> Tensor:
        return self.program(images, torch.full((1,), self.lam))  # type: ignore[no-any-return]


def load(path: str | Path) -> Exported:
    """Read an exported file (UserError: there is none, or damaged). Nothing in it runs as code."""
    path = Path(path)
    kind = format_of(path)
    if kind is None or not path.is_file():
        raise UserError(
            f"no exported file at {path}; expected one that ends in .{', .'.join(FORMATS)}"
        )
    file_format = format_module(kind)
    content = read_bounded(path, _MAX_BYTES, "an exported file")
    try:
        text, tensors = file_format.opened(content)
        description, network = restored(text, tensors)
        program = file_format.program(content, description, network)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (*_DAMAGED, *file_format.ERRORS) as error:
        raise UserError(
            f"{path}: not an exported file of oat-bench, or damaged ({one_line(error)}); "
            "expected what oat-bench export writes"
        ) from error
    return Exported(path, description, network, program, sha256(content))
