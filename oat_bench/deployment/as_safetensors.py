"""safetensors: the weights of the plain network, and its description in the header. Data only."""

from pathlib import Path

from torch import nn

from oat_bench.deployment.description import (
    KEY,
    Description,
    check_sum,
    not_exported,
    understood,
    written,
)
from oat_bench.tensors import pack, unpack


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network."""
    state = network.state_dict()
    return pack(state, {KEY: written(description, state)})


def read(path: Path) -> tuple[Description, nn.Module, None]:
    """Read a plain network; see `oat_bench.deployment.exported`.

    Raises:
        UserError: if it is damaged, or not an exported file.
    """
    state, header = unpack(path)
    if KEY not in header:
        raise not_exported(path, "its header has no description")
    try:
        description = understood(header[KEY], len(state))
        check_sum(header[KEY], state)
        return description, description.filled(state), None
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise not_exported(path, error) from error
