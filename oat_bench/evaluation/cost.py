"""What a plain classifier costs: parameters, FLOPs and latency."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oat_bench.acceleration import operations_per_image

#: timed passes, after a few that are not
_PASSES, _WARM_UP = 20, 3


@dataclass(frozen=True)
class Cost:
    """What it takes to classify one image.

    Attributes:
        parameters: how many there are.
        flops: floating point operations by torch's counter, which counts those of convolutions and
            products: a multiply-add is two. (Papers that say FLOPs often mean multiply-adds.)
        latency: seconds for one image alone, float32: the median of some passes here.
    """

    parameters: int
    flops: int
    latency: float


def measure(model: nn.Module, image: Tensor) -> Cost:
    """Count and time a plain classifier, as `oat_bench.TunableClassifier.at` returns it.

    Args:
        model: in eval mode, on the device of the image.
        image: of shape [1, C, H, W] in [0, 1].
    """
    with torch.inference_mode():
        seconds = [_timed(model, image) for _ in range(_WARM_UP + _PASSES)][_WARM_UP:]
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(operations_per_image(model, image)),
        latency=statistics.median(seconds),
    )


def _timed(model: nn.Module, image: Tensor) -> float:
    start = time.perf_counter()
    model(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - start
