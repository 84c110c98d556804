"""Checkpoints: weights in one safetensors file, JSON in its header; loading runs no code."""

import json
import os
from pathlib import Path

import torch

from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write, is_file
from oat_bench.registry import METHODS
from oat_bench.run_folder import CHECKPOINT
from oat_bench.tensors import checksum, pack, unpack

_HEADER = "oat_bench"  #: key of the header's JSON: the description, its and the weights' hash


def save(classifier: TunableClassifier, path: str | Path) -> None:
    """Write a checkpoint, whole or not at all."""
    atomic_write(Path(path), to_bytes(classifier))


def to_bytes(classifier: TunableClassifier) -> bytes:
    """Return a checkpoint as `save` writes it; a `UserError` if none could be read back."""
    content = {"info": classifier.info.model_dump(mode="json"), "sha256": classifier.fingerprint()}
    return pack(classifier.state_dict(), {_HEADER: json.dumps(content)})


def load(path: str | Path, device: torch.device | str = "cpu") -> TunableClassifier:
    """Read a checkpoint, a file or the run's folder that holds it, onto a device.

    Raises:
        UserError: if there is none, or it is damaged, or not a checkpoint of oat-bench.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112  # False, not an error, of a name that is too long
        path = path / CHECKPOINT
    if not is_file(path):
        raise UserError(f"no checkpoint at {path}; expected a .safetensors file or a run's folder")
    state, header = unpack(path)
    try:
        content = json.loads(header[_HEADER])
        if content["sha256"] != checksum(content["info"], state):
            raise ValueError("the checksum does not match")
        info = ModelInfo.model_validate(content["info"])
        kind: type[TunableClassifier] = METHODS[info.method]
        return kind.from_state(info, state).to(device)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of oat-bench, or damaged ({one_line(error)})"
        ) from error
