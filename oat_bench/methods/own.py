"""Any object that has ``at(lam)``: a tunable classifier of somebody's own."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn

from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.errors import UserError, one_line


class Own(TunableClassifier):
    """Somebody's own tunable classifier: an object with ``at(lam)`` or ``at(lam, width)``.

    It is asked once for the weights by which it is known: what ``at`` computes from others later
    goes unnoticed, what it shares with them does not.
    """

    def __init__(
        self, info: ModelInfo, source: Any, prepare: Callable[[nn.Module], nn.Module] | None = None
    ) -> None:
        self.info, self.source = info, source
        self._prepare, self._device = prepare, torch.device("cpu")
        self._weights: dict[str, Tensor] = {}
        self._takes_width = "width" in signature(source.at).parameters

    @classmethod
    def label(cls, info: ModelInfo) -> str:
        return info.own_name

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the network at a point, in eval mode; a UserError says how the object failed."""
        point = OperatingPoint(lam, width)
        widths = {"width": point.width} if self._takes_width else {}
        try:
            module = self.source.at(point.lam, **widths)
        except Exception as error:
            raise UserError(
                f"{self.info.own_name}.at({lam:g}) raises {type(error).__name__}: {one_line(error)}"
            ) from error
        if not isinstance(module, nn.Module):
            raise UserError(
                f"{self.info.own_name}.at({lam:g}) is a {type(module).__name__}; expected a "
                "torch.nn.Module that maps images to logits"
            )
        ready = module if self._prepare is None else self._prepare(module)
        return ready.to(self._device).eval()

    def state_dict(self) -> dict[str, Tensor]:
        # an estimator asks at each pass, and building a network may take long
        self._weights = self._weights or {
            f"lambda-{lam!r}.width-{width!r}.{name}": value
            for lam in self.info.trained_lambdas
            for width in self.info.widths
            for name, value in self.at(lam, width).state_dict().items()
        }
        return self._weights

    def to(self, device: torch.device | str) -> Self:
        self._device, self._weights = torch.device(device), {}
        return self
