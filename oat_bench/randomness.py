"""Random numbers that belong to an example, whatever its batch, the order or the device.

Number j of example i is a hash of (seed, stream, i, j): the finaliser of SplitMix64 (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied twice.
"""

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits as ``value``."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift without copying the sign (torch shifts int64 arithmetically)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift_right(bits, 31)


def uniform(example_ids: Tensor, shape: tuple[int, ...], seed: int, stream: int = 0) -> Tensor:
    """Draw float32 numbers [n, *shape] in [0, 1) for integer ids [n], on their device.

    ``stream`` separates the uses of one seed (attack, epoch, ...).
    """
    key = _mix(example_ids.long() * _signed(_GOLDEN) + _signed(seed * 0xD1342543DE82EF95 + 1))
    key = _mix(key + _signed((stream + 1) * 0xAF251AF3B0F025B5))
    position = torch.arange(math.prod(shape), device=example_ids.device)
    bits = _mix(key[:, None] + (position + 1) * _signed(_GOLDEN))
    # 24 bits are what a float32 holds exactly
    return (_shift_right(bits, 40).float() * 2.0**-24).reshape(-1, *shape)


def normal(example_ids: Tensor, shape: tuple[int, ...], seed: int, stream: int = 0) -> Tensor:
    """Draw standard normal numbers (Box and Muller's transform); otherwise like `uniform`."""
    pairs = uniform(example_ids, (2, *shape), seed, stream)
    radius = torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0]))  # 1 - u lies in (0, 1]: the log is finite
    return radius * torch.cos(2.0 * math.pi * pairs[:, 1])


def generator(seed: int, *stream: int) -> torch.Generator:
    """Make a CPU generator for one use of a seed (a permutation of an epoch, initial weights)."""
    state = torch.tensor([_signed(seed)])
    for number in stream:
        state = _mix(state * _signed(_GOLDEN) + _signed(number + 1))
    return torch.Generator().manual_seed(int(_mix(state + 1).item()))
