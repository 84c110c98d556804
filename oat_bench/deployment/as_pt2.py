"""pt2: a program of torch.export, for torch without oat-bench, in Python or C++.

Reading one is not safe in general: `torch.export.load` unpickles what the archive asks it to, and
hands expressions of the graph to sympy, which evaluates them. So a file is never given to it. The
weights are raw bytes; the network that the description names is built around them and exported
again, and a file is accepted only where the two archives hold the same bytes. What is then loaded
is the archive that was written here.
"""

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from oat_bench.deployment.description import (
    KEY,
    MAX_BYTES,
    Description,
    check_sum,
    not_exported,
    understood,
    written,
)
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded

#: what reading bytes that are not what they say raises
_DAMAGED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)
_ROOT = "archive"
_WEIGHTS = f"{_ROOT}/data/weights"
_DESCRIPTION = f"{_ROOT}/extra/{KEY}.json"
#: drawn anew for each archive
_SERIAL = f"{_ROOT}/.data/serialization_id"


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network, or one that takes lambda."""
    program = trace(network, description)
    target = io.BytesIO()
    extra = {f"{KEY}.json": written(description, network.state_dict())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, target, extra_files=extra)
    return target.getvalue()


def trace(network: nn.Module, description: Description) -> torch.export.ExportedProgram:
    """Export a network with a batch of any size: images, and lambda where it is an input."""
    n, k = torch.export.Dim("n", min=1), torch.export.Dim("k", min=1)
    # nothing of these remains but their shapes; zeros make an archive that can be written again
    images = torch.zeros(3, *description.model.input_shape)
    inputs: tuple[Tensor, ...] = (images,)
    shapes: tuple[dict[int, object], ...] = ({0: n},)
    if description.lam is None:
        inputs, shapes = (images, torch.zeros(2)), ({0: n}, {0: k})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, inputs, dynamic_shapes=shapes)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            # the folders of the machine that it was written on
            node.meta.pop("stack_trace", None)
    return program


def read(path: Path) -> tuple[Description, nn.Module, nn.Module]:
    """Read a program, and the network that it is; see `oat_bench.deployment.exported`.

    Raises:
        UserError: if it is damaged, or not the program that is written here for its network.
    """
    content = read_bounded(path, MAX_BYTES, "an exported file")
    try:
        members = _members(content)
        text = members[_DESCRIPTION]
        places = json.loads(members[f"{_WEIGHTS}/model_weights_config.json"])["config"]
        description = understood(text, len(places))
        state = {}
        for name, tensor in description.outline().state_dict().items():
            raw = bytearray(members[f"{_WEIGHTS}/{places[name]['path_name']}"])
            state[name] = torch.frombuffer(raw, dtype=torch.float32).reshape(tensor.shape)
        check_sum(text, state)
        network = description.filled(state)
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise not_exported(path, error) from error
    again = to_bytes(network, description)
    if _members(again) != members:
        versions = {"oat-bench": description.oat_bench_version, **description.versions}
        theirs = one_line(", ".join(f"{name} {v}" for name, v in versions.items()))
        raise UserError(
            f"{path}: its program is not the one that torch {torch.__version__} and this oat-bench "
            f"write for its network (it says {theirs}); a program could run code, so it is not "
            "read; take the .onnx or .safetensors of the same export"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return description, network, torch.export.load(io.BytesIO(again)).module()


def _members(content: bytes) -> dict[str, bytes]:
    """Return the members of an archive that has none twice and none compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names) or any(i.compress_type for i in infos):
            raise ValueError("an archive of another form")
        if sum(info.file_size for info in infos) > len(content):
            raise ValueError("it says that more is in it than there is")
        return {info.filename: archive.read(info) for info in infos if info.filename != _SERIAL}
