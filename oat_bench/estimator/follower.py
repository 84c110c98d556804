"""A plain network that follows the operating point and the weights of a tunable classifier."""

from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from oat_bench.classifier import OperatingPoint, TunableClassifier

_KEPT = 8  # operating points whose networks are kept
_SIZES = {"in_channels", "out_channels", "in_features", "out_features"}


class Delegate(nn.Module):
    """The current network, where those of two points need not be of one build."""

    def __init__(self, current: nn.Module) -> None:
        super().__init__()
        self.current = current

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        return self.current(x)  # type: ignore[no-any-return]


class Follower:
    """Keeps a plain network at an operating point, which may be set; threads may share this.

    It is a forward pre-hook of the network, not a part of the estimator, because some attacks
    (AutoPGD with a loss of its own, AutoAttack) take the network out of the estimator and keep it.
    """

    def __init__(self, tunable: TunableClassifier, point: OperatingPoint) -> None:
        self.tunable, self.point, self.lock = tunable, point, RLock()
        plain = tunable.at(point.lam, point.width)
        self.network = plain if tunable.one_build else Delegate(plain)
        self.forget()
        # ART does not call a Sequential, but its layers
        sequential = isinstance(self.network, nn.Sequential)
        first = next(self.network.children()) if sequential else self.network
        first.register_forward_pre_hook(self)

    def forget(self) -> None:
        """Build everything anew when it is next needed."""
        with self.lock:
            self._plain: dict[OperatingPoint, nn.Module] = {}
            self._weights: list[Tensor] = []
            self._stamp: list[tuple[int, int]] = []
            self._shown: OperatingPoint | None = None

    def __call__(self, *hook_arguments: object) -> None:
        """Bring the network up to date."""
        with self.lock, torch.inference_mode(False):
            self._notice()
            if self._shown != (point := self.point):
                plain = self.plain(point)
                if isinstance(self.network, Delegate):
                    self.network.current = plain
                else:
                    _exchange_tensors(self.network, plain)
                self._shown = point

    def plain(self, point: OperatingPoint) -> nn.Module:
        """Return the network of a point, kept for later calls: it is not to be changed."""
        # what is built here may later be differentiated, even if this call never is
        with self.lock, torch.inference_mode(False):
            self._notice()
            if point not in self._plain:
                if len(self._plain) == _KEPT:
                    del self._plain[next(iter(self._plain))]
                self._plain[point] = self.tunable.at(point.lam, point.width)
            return self._plain[point]

    def _notice(self) -> None:
        """Forget all where the weights have changed."""
        weights = list(self.tunable.state_dict().values())
        stamp = [(weight.data_ptr(), weight._version) for weight in weights]
        if stamp != self._stamp:
            self.forget()
            # held, so that no other tensor can come to lie at the same address
            self._weights, self._stamp = weights, stamp

    def __getstate__(self) -> dict[str, Any]:
        return {"tunable": self.tunable, "point": self.point, "network": self.network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = RLock()
        self.forget()


def _exchange_tensors(network: nn.Module, source: nn.Module) -> None:
    # replaced, not written to: a graph may still need them; layers also say shapes in numbers
    for old, new in zip(network.modules(), source.modules(), strict=True):
        sizes = {name: vars(new)[name] for name in _SIZES & vars(new).keys()}
        tensors = (*new.named_parameters(recurse=False), *new.named_buffers(recurse=False))
        for name, value in (*tensors, *sizes.items()):
            setattr(old, name, value)
