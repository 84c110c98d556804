"""How fast to compute: precision, memory format and compilation, chosen from what does not vary.

The choices depend on the device and the amount of work alone, never on a timing, so that a run that
is started again makes the same ones.
"""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oat_bench.networks.plain import PlainNetwork
from oat_bench.progress import note

Precision = Literal["float32", "bf16"]

#: below this many pixels (C * H * W) a batch is too small to gain from bfloat16
_SMALL_IMAGE = 1024
#: compiling takes about a minute and saves a tenth: it pays from about this many operations on
_COMPILE_FROM = {"cpu": 1e15, "cuda": 5e16}
#: a pass of this many floating point operations keeps a CPU busy
_FILLED = 4e10
#: a pass on a CPU takes this many images at a time, so that what it moves stays in the caches
_CPU_IMAGES = 64
#: and at least this many: fewer go through other kernels, whose sums round otherwise
_LEAST_IMAGES = 4


def choose_precision(asked: str, device: torch.device, pixels: int) -> Precision:
    """Turn ``auto`` into a precision; ``pixels`` are C * H * W of an image.

    bfloat16 where the processor multiplies it in hardware (AMX, AVX-512 BF16, CUDA from Ampere on)
    and images have more than a few pixels.
    """
    if asked == "bf16" or (asked == "auto" and pixels > _SMALL_IMAGE and _multiplies_bf16(device)):
        return "bf16"
    return "float32"


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def choose_compile(asked: bool | None, device: torch.device, operations: float) -> bool:
    """Say whether to compile: as asked, or where the work outweighs the minute it takes.

    ``operations`` are the floating point operations of the whole work, about.
    """
    return operations >= _COMPILE_FROM.get(device.type, float("inf")) if asked is None else asked


def choose_batch_size(device: torch.device, operations: float) -> int:
    """Say how many images fill a device, so that more would only take more memory.

    ``operations`` are the floating point operations of one forward pass on one image.
    """
    if device.type != "cpu":
        return 512
    return int(min(512, max(32, _FILLED / max(1.0, operations))))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context in which convolutions and products run in the precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def keep_freed_memory() -> bool:
    """Have glibc keep what a process frees, for its next step, instead of handing it back.

    By default each large tensor is mapped anew and its pages fault in one by one, which costs a
    tenth to a fifth of a step on a CPU. For a process of one's own, such as the command line: the
    setting is the process's, and its memory stays at the peak. False where libc is another.
    """
    trim_threshold, mmap_max = -1, -4  # names of the parameters in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def compiled(function: Callable[..., Tensor], *, dynamic: bool = False) -> Callable[..., Tensor]:
    """Compile a function of tensors; where that fails, fall back to it with one line."""
    _allow_many_programs()
    fast = torch.compile(function, dynamic=dynamic)
    failed = False

    def call(*args: Any) -> Tensor:
        nonlocal failed
        if failed:
            return function(*args)
        try:
            return fast(*args)
        except Exception as error:  # whatever a compiler's tool chain may raise
            if isinstance(error, torch.OutOfMemoryError):
                raise
            failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            note(f"torch.compile failed ({reason}); going on without it")
            return function(*args)

    return call


def _allow_many_programs() -> None:
    """Let a network be compiled for each operating point, with and without gradients.

    After eight, torch would warn and compute the rest without its compiler: slower, and in other
    last bits than a run that was resumed there.
    """
    from torch._dynamo import config

    for name, least in (("recompile_limit", 512), ("accumulated_recompile_limit", 4096)):
        if hasattr(config, name):
            setattr(config, name, max(getattr(config, name), least))


class Accelerated(nn.Module):
    """A plain classifier that computes fast; see `accelerate`."""

    def __init__(self, plain: nn.Module, precision: Precision, compile_it: bool) -> None:
        super().__init__()
        self.plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision
        self._call = compiled(self._logits, dynamic=True) if compile_it else self._logits

    def _logits(self, x: Tensor) -> Tensor:
        with autocast(x.device, self.precision):
            if self.precision == "float32" or not isinstance(self.plain, PlainNetwork):
                logits: Tensor = self.plain(x)
                return logits.float()
            features = self.plain.features(x)
        # the head in float32: rounded logits tie, and losses are made of differences
        return self.plain.head(features.float())

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to float32 logits [n, num_classes]."""
        if x.requires_grad:
            # attacks reshape the gradient they get: hand it back in the layout of the images
            x = x.view_as(x)
            x.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        x = x.contiguous(memory_format=torch.channels_last)
        parts = torch.split(x, _CPU_IMAGES) if x.device.type == "cpu" else (x,)
        logits = [self._alike(part) for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _alike(self, x: Tensor) -> Tensor:
        """Compute an image's logits alike to the last bit whatever it is in one batch with."""
        if not 0 < len(x) < _LEAST_IMAGES or x.device.type != "cpu":
            return self._call(x)
        filling = x.detach()[torch.arange(_LEAST_IMAGES - len(x)) % len(x)]
        return self._call(torch.cat([x, filling]))[: len(x)]


def accelerate(
    plain: nn.Module, *, precision: Precision = "float32", compile_it: bool = False
) -> nn.Module:
    """Return a plain classifier that computes the same, faster; the layout of its weights changes.

    Convolutions run in channels_last, which the CPU's and the GPU's kernels prefer; on a CPU a pass
    takes as many images at a time as its caches hold. ``precision`` is that of the convolutions;
    ``bf16`` is good enough to search an attack with, not to count by. What is compiled is so once
    for all batch sizes.
    """
    return Accelerated(plain, precision, compile_it).eval()


def operations_per_image(module: nn.Module, *args: Any) -> float:
    """Count the floating point operations of one forward pass on one image (torch's counter)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*args)
    return float(counter.get_total_flops())
