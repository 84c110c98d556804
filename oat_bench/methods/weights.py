"""Weight interpolation: two networks, a straight line between (WiSE-FT, arXiv:2109.01903)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from oat_bench.classifier import SAME_LAMBDA, ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.datasets import Dataset, nested_order
from oat_bench.errors import UserError
from oat_bench.methods.parts import Ends, TwoEnds, between
from oat_bench.networks.specialize import fold_batch_norms

_BATCH = 250
_KINDS = ("running_mean", "running_var")


class WeightOptions(Ends):
    """The ends, and on how many images batch norm is estimated again."""

    images: Annotated[int, Field(ge=2)] = Field(
        default=5000, description="of the training split, stratified; all if it has fewer"
    )


class WeightInterpolation(TwoEnds):
    """(1 - lambda) times the weights of one network plus lambda times those of another.

    Both have one architecture, best one start (a robust network and a short clean fine-tune of it,
    say). The statistics that batch norm uses are no weights: strictly between the ends they are
    estimated again, by `fit`, on training images as they are; the ends keep their own. There is a
    classifier only where they were estimated: at the lambda values of the card.
    """

    Options = WeightOptions
    continuous = False

    def __init__(self, info: ModelInfo, parts: Mapping[str, TunableClassifier]) -> None:
        super().__init__(info, parts)
        self.statistics: dict[str, Tensor] = {}  #: by lambda and buffer; made by `fit`

    @classmethod
    def check_lambda(cls, lam: float, trained: Sequence[float]) -> float:
        near = min(trained, key=lambda known: abs(known - lam))
        if abs(near - lam) > SAME_LAMBDA:
            raise UserError(
                f"lambda {lam:g} asked for; batch norm was estimated at lambda "
                f"{', '.join(f'{known:g}' for known in trained)} alone; the nearest is {near:g}"
            )
        return near

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Read the checkpoints that the options name; statistics lie between theirs until `fit`."""
        found = super().build(info)
        for lam in found._inner:
            found._keep(lam, found._between(lam, found.info.widths[0]))
        return found

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        found = super().from_state(info, state)
        found.statistics = {n: v for n, v in state.items() if n.startswith("lambda-")}
        for lam in found._inner:
            found.at(lam)  # what does not fit is said here
        return found

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | self.statistics

    def to(self, device: torch.device | str) -> Self:
        self.statistics = {name: value.to(device) for name, value in self.statistics.items()}
        return super().to(device)

    def fit(self, data: Dataset) -> str:
        """Estimate the statistics of batch norm: the mean over batches, without augmentation."""
        count = WeightOptions.model_validate(self.info.options).images
        split = data.train.take(nested_order(data.train.labels)[:count]).to(self.device)
        # every batch has as many images, but for one: a variance of few is far off
        batches = torch.arange(len(split)).chunk(max(1, len(split) // _BATCH))
        for lam in self._inner:
            network = self._between(lam, self.info.widths[0])
            estimate(network, (split.inputs(batch) for batch in batches))
            self._keep(lam, network)
        known = ", ".join(f"{lam:g}" for lam in self._inner) or "none"
        return f"none: not trained; batch norm estimated on {len(split)} images at lambda {known}"

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at one of the lambda values of the card."""
        point = OperatingPoint(lam, width)
        lam = self.check_lambda(point.lam, self.info.trained_lambdas)
        if (end := self._end(lam)) is not None:
            part, place = self.ends[end]
            return part.at(place, point.width)
        network, prefix = self._between(lam, point.width), f"lambda-{lam!r}."
        names = [n for n, _ in network.named_buffers() if n.endswith(_KINDS)]
        if any(prefix + name not in self.statistics for name in names):
            raise UserError(
                f"{self.info.method}: batch norm was not estimated at lambda {lam:g}; "
                "call fit(data)"
            )
        own = {name: self.statistics[prefix + name] for name in names}
        network.load_state_dict(own, strict=False)
        return fold_batch_norms(network)

    @property
    def _inner(self) -> list[float]:
        return [lam for lam in self.info.trained_lambdas if self._end(lam) is None]

    def _keep(self, lam: float, network: nn.Module) -> None:
        found = {n: v for n, v in network.named_buffers() if n.endswith(_KINDS)}
        self.statistics |= {f"lambda-{lam!r}.{name}": value for name, value in found.items()}

    def _end(self, lam: float) -> int | None:
        return next((e for e in (0, 1) if abs(lam - e) <= SAME_LAMBDA), None)

    def _between(self, lam: float, width: float) -> nn.Module:
        (standard, low), (robust, high) = self.ends
        return between(standard.unfolded(low, width), robust.unfolded(high, width), lam)


@torch.no_grad()
def estimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the statistics of every batch norm by their means over batches; in eval mode after.

    What `torch.optim.swa_utils.update_bn` does, but dropout stays off.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all batches count alike
        norm.train()
    for x in batches:
        network(x)
    network.eval()
