"""Batch norm over the images of all ranks: torch's SyncBatchNorm on GPUs, the same on CPUs."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode


class Synchronised(TorchFunctionMode):
    """A context in which every batch norm in train mode has the statistics of all ranks' images.

    All ranks then run the same batch norms in the same order, each on one image or more.
    """

    entered: ClassVar[bool] = False

    def __enter__(self) -> Self:
        Synchronised.entered = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        Synchronised.entered = False
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call = _batch_norm if func is F.batch_norm else func
        return call(*args, **(kwargs or {}))


def _batch_norm(
    h: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(h, running_mean, running_var, weight, bias, eps=eps)
    given = (h, weight, bias, running_mean, running_var, eps, momentum)
    if h.is_cuda:
        ranks = dist.group.WORLD, dist.get_world_size()
        found: Tensor = SyncBatchNorm.apply(*given, *ranks)  # type: ignore[no-untyped-call]
    else:
        found = _OnCPU.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _OnCPU(Function):
    """What torch's refuses to do on a CPU; a collective call forward, and one backward."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        momentum: float,
    ) -> Tensor:
        channels, kind = h.shape[1], torch.promote_types(h.dtype, torch.float32)
        none = torch.zeros(2, channels, dtype=kind)
        own = torch.batch_norm_update_stats(h, none[0], none[1], 0.0)
        mean, var = (part.double() for part in own)
        sums = torch.cat([mean, var + mean.square(), mean.new_ones(1)]) * (h.numel() // channels)
        dist.all_reduce(sums)
        total = float(sums[-1])
        mean, square = (sums[:-1] / total).chunk(2)
        var = (square - mean.square()).clamp_min(0)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * (total / (total - 1))).to(running_var), momentum)
        mean, var = mean.to(kind), var.to(kind)
        ctx.save_for_backward(h, weight, mean, var)
        ctx.eps, ctx.total = eps, total
        return F.batch_norm(h, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, mean, var = ctx.saved_tensors
        inverse = torch.rsqrt(var + ctx.eps)
        # of this rank's images; its gradients of the weights are added to the others' later
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, h, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        sums = torch.cat([of_bias, of_weight]) / ctx.total
        dist.all_reduce(sums)
        mean_grad, mean_product = sums.chunk(2)
        scale = inverse if weight is None else inverse * weight
        slope = -scale * inverse * mean_product
        shift = -scale * mean_grad - slope * mean
        shape = (1, -1, *(1,) * (h.dim() - 2))
        of_h = torch.addcmul(shift.view(shape), h, slope.view(shape))
        of_h = of_h.addcmul_(grad, scale.view(shape)).to(h.dtype)
        return (
            of_h,
            *(None if weight is None else one for one in (of_weight, of_bias)),
            *(None,) * 4,
        )
