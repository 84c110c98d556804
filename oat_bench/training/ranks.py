"""Training by several ranks, processes that torchrun starts: each does its share of every step.

What they found is added up once in a step, after its last backward pass; attacks need no word of
the others. Only batch norms that are synchronised talk in between.
"""

import math
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oat_bench.errors import UserError
from oat_bench.launch import launch
from oat_bench.networks.synchronised import Synchronised
from oat_bench.progress import console
from oat_bench.training.card import TrainingCard
from oat_bench.training.memory import LEAST
from oat_bench.training.sampling import count_standard

T = TypeVar("T")
Piece = tuple[slice, slice]  #: places of images in a step, and of all that share their batch norm


@dataclass(frozen=True)
class Ranks:
    """The processes that train a network together; by default there is one."""

    number: int = 0  #: of this one, counted from 0; the first alone writes and speaks
    size: int = 1
    device: torch.device | str = "cpu"
    names: str = ""  #: the ranks and their devices, in words
    beside: int = 1  #: how many, with this one, share the device's memory

    @property
    def first(self) -> bool:
        """Whether this one writes."""
        return self.number == 0

    def at_once(self, card: TrainingCard, limit: int, whole: int) -> int:
        """Return how many images of a step pass through batch norm at once, at most.

        ``limit`` is how many fit into each rank, of a step of ``whole``.
        """
        if card.batch_norm == "synchronised":
            return min(whole, limit * self.size)
        return min(limit, max(math.ceil(whole / self.size), min(LEAST, whole)))

    def together(self, card: TrainingCard, n: int, parts: int) -> bool:
        """Whether all ranks share each part of a step of n images; else each does whole parts."""
        if self.size == 1 or card.batch_norm != "synchronised":
            return False
        zeros = count_standard(card, n) if card.sampling == "per-image" else n
        routes = [count // (parts * self.size) for count in (zeros, n - zeros) if count]
        # a rank without an image of a route would leave the others waiting in its batch norm
        return min(routes) >= 1 and n // (parts * self.size) >= 2

    def check(self, card: TrainingCard, n: int, parts: int) -> None:
        """Refuse more ranks than can share a step of n images."""
        alone = self.size == 1 or card.batch_norm != "synchronised"
        if not (alone or self.together(card, n, parts)):
            split = f" in {parts} parts" if parts > 1 else ""
            raise UserError(
                f"{self.size} ranks: a step of {n} images{split} does not give each rank one of "
                "lambda = 0 and one above; take fewer ranks, a larger training.batch_size, or "
                'training.batch_norm = "per-rank"'
            )

    def pieces(self, parts: int, together: bool) -> list[Piece]:
        """Return what this rank does of a step in parts."""
        k, size = parts, self.size
        if together:
            first = [p + k * self.number for p in range(k)]
            return [(slice(f, None, k * size), _part(p, k)) for p, f in enumerate(first)]
        return [(_part(p, k), _part(p, k)) for p in range(self.number, k, size)]

    def synchronised(self, together: bool) -> AbstractContextManager[Any]:
        """Return the context in which pieces pass."""
        return Synchronised() if together else nullcontext()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in one call."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view(tensor.shape))

    def add_gradients(self, network: nn.Module, *others: Tensor) -> None:
        """Add up gradients, and other tensors, over the ranks; none where no rank has one."""
        if self.size == 1:
            return
        trained = [p for p in network.parameters() if p.requires_grad]
        have = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add_up([*(p.grad for p in trained if p.grad is not None), have, *others])
        for parameter, count in zip(trained, have.tolist(), strict=True):
            if not count:
                parameter.grad = None

    def least(self, *values: int) -> list[int]:
        """Return the least of each value over the ranks."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return found.tolist()

    def agree(self, step: int, folder: object) -> None:
        """Refuse a folder in which ranks found different states."""
        low, minus_high = self.least(step, -step)
        if low != -minus_high:
            raise UserError(
                f"{folder}: ranks find states of steps {low} and {-minus_high} there; expected a "
                "folder that all machines share, see --out"
            )

    def in_turn(self, task: Callable[[], T]) -> T:
        """Do a task on each machine first once, so that the others find what it left on disk."""
        if self.size == 1:
            return task()
        later = launch().local_rank > 0
        if later:
            dist.barrier()
        result = task()
        if not later:
            dist.barrier()
        return result

    def leave(self) -> None:
        """Wait until the first has written all, and part."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def _part(p: int, parts: int) -> slice:
    return slice(p, None, parts) if parts > 1 else slice(None)


def join(device: torch.device) -> Ranks:
    """Meet the processes that were started with this one, which trains on a device of its own."""
    own = launch()
    if own.size == 1:
        return Ranks()
    name = "cpu"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        name = torch.cuda.get_device_name(device)
    apart = device.type == "cuda" and own.local_size <= torch.cuda.device_count()
    dist.init_process_group("nccl" if apart else "gloo")
    # what belongs to no example, such as dropout, should not be the same on all
    torch.manual_seed(torch.initial_seed() + own.rank)
    console.quiet = own.rank > 0
    found: list[Any] = [None] * own.size
    dist.all_gather_object(found, (name, socket.gethostname()))
    devices = " and ".join(f"{n} x {name}" for name, n in Counter(n for n, _ in found).items())
    machines = len({host for _, host in found})
    several = f", {machines} machines" if machines > 1 else ""
    names = f"{own.size} ranks ({devices}{several})"
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    return Ranks(own.rank, own.size, device, names, math.ceil(own.local_size / gpus))
