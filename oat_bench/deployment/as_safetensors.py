"""safetensors: the weights of the plain network, and its description in the header. Data only."""

import json

import safetensors.torch
from torch import Tensor, nn

from oat_bench.deployment.description import KEY, Description, written
from oat_bench.tensors import pack

ERRORS = (safetensors.SafetensorError,)


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network."""
    state = network.state_dict()
    return pack(state, {KEY: written(description, state)})


def opened(content: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return the description and the tensors of a file."""
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(KEY)
    if text is None:
        raise ValueError("its header has no description")
    return text, tensors


def program(content: bytes, description: Description, network: nn.Module) -> None:
    """Return None: the network is all that there is."""
