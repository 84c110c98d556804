"""Precision, layout and compilation, by device and work: a run started again chooses the same."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oat_bench.networks.drawn import Drawn, RandomNetwork
from oat_bench.networks.plain import PlainNetwork
from oat_bench.progress import note, passed

Precision = Literal["float32", "bf16"]

_SMALL_IMAGE = 1024  #: images of no more numbers, C * H * W, gain nothing from bfloat16
#: compiling takes about a minute and saves a tenth: it pays from about this many operations on
_COMPILE_FROM = {"cpu": 1e15, "cuda": 5e16}
_FILLED = 4e10  #: a pass of this many floating point operations keeps a CPU busy
_CPU_IMAGES = 64  #: of a pass on a CPU: what it moves stays in the caches
_LEAST_IMAGES = 4  #: fewer go through other kernels on a CPU, whose sums round otherwise


def choose_precision(asked: str, device: torch.device, pixels: int) -> Precision:
    """Turn ``auto`` into bf16 where hardware multiplies it and images, C * H * W, are large."""
    if asked == "bf16" or (asked == "auto" and pixels > _SMALL_IMAGE and _multiplies_bf16(device)):
        return "bf16"
    return "float32"


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def choose_compile(asked: bool | None, device: torch.device, operations: float) -> bool:
    """Say whether to compile: as asked, or from what the whole work comes to in FLOPs, about."""
    return operations >= _COMPILE_FROM.get(device.type, float("inf")) if asked is None else asked


def choose_batch_size(device: torch.device, operations: float) -> int:
    """Say how many images fill a device, by the FLOPs of one forward pass on one image."""
    if device.type != "cpu":
        return 512
    return int(min(512, max(32, _FILLED / max(1.0, operations))))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context in which convolutions and products run in the precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Have a GPU multiply what is float32 as float32: cuDNN's default for convolutions is TF32."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    switch: tuple[Any, str, Any] = (cudnn, "allow_tf32", False)  # torch before 2.9: one for all
    if hasattr(cudnn, "conv"):
        switch = (cudnn.conv, "fp32_precision", "ieee")
    owner, name, full = switch
    before = getattr(owner, name)
    setattr(owner, name, full)
    try:
        yield
    finally:
        setattr(owner, name, before)


def keep_freed_memory() -> bool:
    """Have glibc keep what the process frees, which it holds then at its peak; False: no glibc."""
    # mapping each large tensor anew costs a tenth to a fifth of a step on a CPU
    trim_threshold, mmap_max = -1, -4  # names of the parameters in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Have glibc give back what it keeps, once, where the next work is of other sizes."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def compiled(function: Callable[..., Tensor], *, dynamic: bool = False) -> Callable[..., Tensor]:
    """Compile a function of tensors; where that fails, fall back to it with one line."""
    from torch._dynamo import config

    # a program for each operating point, with and without gradients; after eight torch would go on
    # without its compiler: slower, and in other last bits than a run that was resumed there
    for name, least in (("recompile_limit", 512), ("accumulated_recompile_limit", 4096)):
        if hasattr(config, name):
            setattr(config, name, max(getattr(config, name), least))
    fast = torch.compile(function, dynamic=dynamic)
    failed = False

    def call(*args: Any) -> Tensor:
        nonlocal failed
        if failed:
            return function(*args)
        try:
            return fast(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler's tool chain may raise
            failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            note(f"torch.compile failed ({reason}); going on without it")
            return function(*args)

    return call


@dataclass
class Spent:
    """What was computed: passes of single images through `Accelerated` networks, and seconds."""

    forward: int = 0
    backward: int = 0  # to the gradient of the image
    seconds: float = 0.0


_MADE = Spent()  # by this process


@contextmanager
def spending() -> Iterator[Spent]:
    """Count what is computed inside; read it after."""
    forward, backward, began, spent = _MADE.forward, _MADE.backward, perf_counter(), Spent()
    yield spent
    spent.forward, spent.backward = _MADE.forward - forward, _MADE.backward - backward
    spent.seconds = perf_counter() - began


def _contiguous(gradient: Tensor) -> Tensor:
    _MADE.backward += len(gradient)
    passed(len(gradient))
    return gradient.contiguous()


class Accelerated(nn.Module):
    """A plain classifier, faster, its weights channels_last; bf16 is to attack, not to count by."""

    def __init__(
        self, plain: nn.Module, *, precision: Precision = "float32", compile_it: bool = False
    ) -> None:
        super().__init__()
        self.plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision
        self._call = compiled(self._logits, dynamic=True) if compile_it else self._logits
        self.eval()

    def exact(self, x: Tensor) -> Tensor:
        """Map images to logits as in precision float32; with no gradient."""
        with torch.no_grad():
            return self._in_parts(x, partial(self._logits, precision="float32"))

    def _logits(self, x: Tensor, precision: Precision | None = None) -> Tensor:
        precision = precision or self.precision
        with autocast(x.device, precision):
            if precision == "float32" or not isinstance(self.plain, PlainNetwork):
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
            x.register_hook(_contiguous)  # type: ignore[no-untyped-call]
        return self._in_parts(x, self._call)

    def _in_parts(self, x: Tensor, call: Callable[..., Tensor]) -> Tensor:
        _MADE.forward += len(x)
        passed(len(x))
        x = x.contiguous(memory_format=torch.channels_last)
        parts = torch.split(x, _CPU_IMAGES) if x.device.type == "cpu" else (x,)
        with full_float32(x.device):  # nothing that autocast makes bfloat16 is changed by it
            logits = [self._alike(part, call) for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _alike(self, x: Tensor, call: Callable[..., Tensor]) -> Tensor:
        # an image's logits are the same to the last bit whatever it is in one batch with
        if not 0 < len(x) < _LEAST_IMAGES or x.device.type != "cpu":
            return call(x)
        filling = x.detach()[torch.arange(_LEAST_IMAGES - len(x)) % len(x)]
        return call(torch.cat([x, filling]))[: len(x)]


class AcceleratedDraws(RandomNetwork):
    """A random classifier whose draws are `Accelerated`, but never compiled: each is used once."""

    def __init__(self, network: RandomNetwork, *, precision: Precision = "float32") -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.eval()

    def draws(self, count: int, seed: int) -> Drawn:
        """Return the network's, faster."""
        networks, chances = self.network.draws(count, seed)
        return Drawn([Accelerated(one, precision=self.precision) for one in networks], chances)


def operations_per_image(module: nn.Module, *args: Any) -> float:
    """Count the floating point operations of one forward pass on one image (torch's counter)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*args)
    return float(counter.get_total_flops())
