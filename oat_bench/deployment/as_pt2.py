"""pt2: a program of torch.export, for torch without oat-bench, in Python or C++.

`torch.export.load` unpickles what the archive asks it to, and hands expressions of the graph to
sympy, which evaluates them. So a file is never given to it: the network that the description names
is built around the weights, raw bytes, and exported again, and a file is accepted only where the
two archives hold the same bytes. What is then loaded is the one that was written here.
"""

import io
import json
import warnings
import zipfile

import torch
from torch import Tensor, nn

from oat_bench.deployment.description import KEY, Description, written
from oat_bench.errors import UserError, one_line

ERRORS = (zipfile.BadZipFile,)
_WEIGHTS = "archive/data/weights"
_SERIAL = "archive/.data/serialization_id"  # drawn anew for each archive


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network, or one that takes lambda."""
    target = io.BytesIO()
    extra = {f"{KEY}.json": written(description, network.state_dict())}
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(trace(network, description), target, extra_files=extra)
    return target.getvalue()


def trace(network: nn.Module, description: Description) -> torch.export.ExportedProgram:
    """Export a network with a batch of any size: images, and lambda where it is an input."""
    n, k = torch.export.Dim("n", min=1), torch.export.Dim("k", min=1)
    # nothing of these remains but their shapes; zeros make an archive that can be written again
    inputs: tuple[Tensor, ...] = (torch.zeros(3, *description.model.input_shape),)
    shapes: tuple[dict[int, object], ...] = ({0: n},)
    if description.lam is None:
        inputs, shapes = (*inputs, torch.zeros(2)), (*shapes, {0: k})
    program = torch.export.export(network, inputs, dynamic_shapes=shapes)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of the machine
    return program


def opened(content: bytes) -> tuple[bytes, dict[str, Tensor]]:
    """Return the description and the tensors of an archive, flat."""
    members = _members(content)
    tensors = {}
    config = json.loads(members[f"{_WEIGHTS}/model_weights_config.json"])["config"]
    for name, place in config.items():
        raw = bytearray(members[f"{_WEIGHTS}/{place['path_name']}"])
        tensors[name] = torch.frombuffer(raw, dtype=torch.float32)
    return members[f"archive/extra/{KEY}.json"], tensors


def program(content: bytes, description: Description, network: nn.Module) -> nn.Module:
    """Return the program of an archive that is the one written here for its network."""
    again = to_bytes(network, description)
    if _members(again) != _members(content):
        versions = {"oat-bench": description.oat_bench_version, **description.versions}
        theirs = one_line(", ".join(f"{name} {v}" for name, v in versions.items()))
        raise UserError(
            f"its program is not the one that torch {torch.__version__} and this oat-bench "
            f"write for its network (it says {theirs}); a program could run code, so it is not "
            "read; take the .onnx or .safetensors of the same export"
        )
    with warnings.catch_warnings(action="ignore"):
        return torch.export.load(io.BytesIO(again)).module()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > len(content):
            raise ValueError("it says that more is in it than there is")
        return {info.filename: archive.read(info) for info in infos if info.filename != _SERIAL}
