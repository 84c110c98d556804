"""Named tensors in safetensors files, which run no code when they are read."""

import json
from pathlib import Path

import torch
from torch import Tensor

from oat_bench.errors import UserError, one_line
from oat_bench.files import sha256

_MAX_HEADER, _MAX_TENSORS = 1 << 24, 1 << 16  #: of a file; no network comes near it


def pack(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """Serialise tensors and strings as safetensors."""
    from safetensors.torch import save as to_bytes

    return to_bytes({name: value.detach().contiguous() for name, value in tensors.items()}, header)


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and strings from a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
        if size > _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes; expected at most {_MAX_HEADER}")
        with safe_open(path, framework="pt") as file:
            if len(file.keys()) > _MAX_TENSORS:
                raise ValueError(f"more than {_MAX_TENSORS} tensors")
            header: dict[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    # a file that is larger than all memory cannot be mapped
    except (SafetensorError, OSError, MemoryError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from error


def checksum(info: object, state: dict[str, Tensor]) -> str:
    """Hash a description, as JSON holds it, and weights."""
    parts: list[str | memoryview] = [json.dumps(info, sort_keys=True)]
    for name in sorted(state):
        flat = state[name].detach().cpu().contiguous().view(-1)
        parts += [name, flat.view(torch.uint8).numpy().data]
    return sha256(*parts)
