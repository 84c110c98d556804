"""How many images of a training step fit into memory at once, and batch norm over parts."""

import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.training.card import TrainingCard, in_bytes

#: images of a part of a step, at least: batch norms learn nothing of fewer
LEAST = 8
PROCESS = 640 << 20  #: what Python and the libraries take, about
#: over what operations return: their own buffers and gaps in the heap; on a CPU measured to be 2.1
#: to 2.9 times as much, less for larger images; on a GPU a guess
_MARGIN = {"cpu": 2.9, "cuda": 1.4}
_COPIES = 4  #: of the weights: they, their gradients and what an optimiser keeps


@dataclass(frozen=True)
class Cost:
    """What a training run takes, in bytes, beside its images."""

    fixed: int  #: whatever a step has
    step: float  #: for each image of a step that is passed at once
    validation: float  #: for each image that is validated at once


def room(card: TrainingCard, device: torch.device, *held: Split) -> int | None:
    """Return the bytes that a run may take beside images; None: there is no telling.

    By the card's ``memory``, whatever else the machine does, or what is free now.
    """
    if card.memory is None:
        return free(device)
    # splits may be parts of one piece of memory
    pieces = {s.data_ptr(): s.nbytes() for s in (x.images.untyped_storage() for x in held)}
    return in_bytes(card.memory) - PROCESS - sum(pieces.values())


def free(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, of a container's too; None: it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_by_linux(), default=None) if device.type == "cpu" else None


def _free_by_linux() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):  # another system, or no limit
        status = Path("/proc/meminfo").read_text()
        yield 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", status)[0])
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # what was read of files is dropped where memory is needed
        cache = re.findall(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.M)
        yield limit - used + int(cache[0])


def fixed_cost(weights: int, card: TrainingCard) -> int:
    """Return the bytes of all that is as large as the weights."""
    return weights * (_COPIES + bool(card.ema_decay) + (card.selection == "best"))


def limits(cost: Cost, room: int, card: TrainingCard, whole: int) -> tuple[int, int]:
    """Return how many images of a step of ``whole``, and of a validation, fit at once.

    At least `LEAST` of a step, or a UserError where the card's ``memory`` holds fewer.
    """
    left, least = room - cost.fixed, min(LEAST, whole)
    step, validation = (int(left // max(1, each)) for each in (cost.step, cost.validation))
    if step < least and card.memory is not None:
        expected = in_bytes(card.memory) - left + least * cost.step
        raise UserError(
            f"training.memory = {card.memory} holds {max(0, step)} of a step's images at once; "
            f"expected at least {math.ceil(expected / 2**20)}MiB, for {least}; or smaller images, "
            "or a network with a stem, such as wrn-16-2-stem7"
        )
    step = min(max(step, least), whole)
    return step, min(max(validation, 1), step if step < whole else card.batch_size)


def per_image(run: Callable[[], object], images: int, beside: int, device: torch.device) -> float:
    """Return the bytes that each of the images of ``run`` takes, ``beside`` those of weights."""
    live = Live()
    with live:
        run()
    return _MARGIN.get(device.type, _MARGIN["cpu"]) * max(0, live.peak - beside) / images


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the tensors that operations return, while they live: ``peak`` bytes at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._bytes = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # what was there before, of which an operation may return a view, takes nothing more
        tree_map_only(Tensor, partial(self._note, counts=False), (args, kwargs))
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counts else 0
        if key not in self._storages:
            self._storages.add(key)
            weakref.finalize(storage, self._forget, key, size)
            self._bytes += size
            self.peak = max(self.peak, self._bytes)

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._bytes -= size


class Statistics:
    """A network's buffers while the parts of a step pass, each from where the step began.

    So that attacks see the same network in every part, and a running mean moves once in a step, by
    the mean of the parts.
    """

    def __init__(self, network: nn.Module) -> None:
        self._buffers = [b for b in network.buffers() if b.dtype != torch.bool]
        self._start = [buffer.clone() for buffer in self._buffers]
        #: of each buffer; of a count too as a float, which ranks may add up
        self.change = [b.new_zeros(b.shape, dtype=_floating(b)) for b in self._buffers]

    def take(self, share: float) -> None:
        """Note what a part, that share of the step's images, changed, and undo it."""
        for buffer, start, change in zip(self._buffers, self._start, self.change, strict=True):
            change.add_((buffer - start).to(change), alpha=share)
            buffer.copy_(start)

    def settle(self) -> None:
        """Move the buffers by what all parts changed."""
        for buffer, change in zip(self._buffers, self.change, strict=True):
            buffer.add_(change if buffer.is_floating_point() else change.round().to(buffer))


def _floating(buffer: Tensor) -> torch.dtype:
    return buffer.dtype if buffer.is_floating_point() else torch.float32
