"""ONNX: a graph for onnxruntime and whatever else reads ONNX. Data only.

A graph has no gradients for attacks, so a file keeps each weight under its own name: the network of
its description, with these weights, is what attacks see.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oat_bench.deployment.as_pt2 import trace
from oat_bench.deployment.description import (
    KEY,
    MAX_BYTES,
    Description,
    check_alike,
    check_sum,
    drawn_images,
    not_exported,
    understood,
    written,
)
from oat_bench.errors import UserError
from oat_bench.files import read_bounded

#: operators that hold graphs of their own
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network, or one that takes lambda.

    Raises:
        UserError: if a library for it is not installed.
    """
    import_libraries()
    program, state = trace(network, description), network.state_dict()
    # the optimizer folds what depends on weights alone, and with it their names; of a plain network
    # it leaves them, if no two are equal
    graph = _converted(program, optimize=description.lam is not None)
    if not state.keys() <= {tensor.name for tensor in graph.graph.initializer}:
        graph = _converted(program, optimize=False)
    _tidy(graph)
    _name_batch(graph)
    entry = graph.metadata_props.add()
    entry.key, entry.value = KEY, written(description, state)
    content: bytes = graph.SerializeToString()
    return content


def import_libraries() -> None:
    """Import what writes and runs ONNX.

    Raises:
        UserError: if a library is not installed.
    """
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"ONNX needs {name}, which is not installed; pip install 'oat-bench[export]'"
            ) from error


def _converted(program: torch.export.ExportedProgram, *, optimize: bool) -> Any:
    names = ["images", "lam"][: len(program.graph_signature.user_inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program,
            dynamo=True,
            optimize=optimize,
            verbose=False,
            input_names=names,
            output_names=["logits"],
        )
    assert converted is not None
    return converted.model_proto


def _tidy(message: Any) -> None:
    """Take out what the exporter notes of where each node came from, folders among it."""
    graph = message.graph
    for part in (message, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]


def _name_batch(message: Any) -> None:
    """Give the sizes that are free the names n (images) and k (lambda)."""
    graph = message.graph
    free = [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input]
    names = dict(zip(free, "nk", strict=False))
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def read(path: Path) -> tuple[Description, nn.Module, nn.Module]:
    """Read a graph, and the network that it is; see `oat_bench.deployment.exported`.

    Raises:
        UserError: if it is damaged, not an exported file, asks for other files, or computes
            something else than the network that it describes.
    """
    import_libraries()
    import onnx
    from google.protobuf.message import DecodeError

    content = read_bounded(path, MAX_BYTES, "an exported file")
    try:
        message = onnx.load_model_from_string(content)
        text = {entry.key: entry.value for entry in message.metadata_props}.get(KEY)
        if text is None:
            raise ValueError(
                "an ONNX file without its description: data set, operating point and weights that "
                "gradients need are not known"
            )
        _check_contained(message)
        tensors = {tensor.name: tensor for tensor in message.graph.initializer}
        description = understood(text, len(tensors))
        state = {
            name: torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).copy())
            for name in description.outline().state_dict()
        }
        check_sum(text, state)
        network = description.filled(state)
        graph = Graph(content)
        images = drawn_images(description.model.input_shape, 3)
        between = (description.model.bridged_below or 1.0) / 2
        lam = (torch.tensor([0.0, between, 1.0]),) if description.lam is None else ()
        check_alike(graph(images, *lam), network(images, *lam))
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        DecodeError,
    ) as error:
        raise not_exported(path, error) from error
    return description, network, graph


def _check_contained(message: Any) -> None:
    """Refuse a graph that is more than operators of the standard on tensors of its own."""
    from onnx import TensorProto

    graph = message.graph
    if message.functions or message.training_info or graph.sparse_initializer:
        raise ValueError("it holds functions, training or sparse tensors")
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.domain or node.op_type in _CONTROL:
            raise ValueError(f"it holds the operator {node.domain or node.op_type}")
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError("it holds graphs of its own")
    if any(t.data_location == TensorProto.EXTERNAL or t.external_data for t in tensors):
        raise ValueError("it asks for data outside of the file")


class Graph(nn.Module):
    """An ONNX graph as onnxruntime computes it, on a CPU with as many threads as torch has.

    Args:
        content: the file's.

    Raises:
        ValueError: if onnxruntime does not take it.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's have no base of their own
            raise ValueError(f"onnxruntime: {error}") from error
        self._names = [given.name for given in self._session.get_inputs()]

    @torch.no_grad()
    def forward(self, images: Tensor, lam: Tensor | None = None) -> Tensor:
        """Compute logits [n, num_classes]; see `oat_bench.networks.lambda_input` for lam."""
        given = [images] if lam is None else [images, lam]
        arrays = [part.detach().cpu().contiguous().numpy() for part in given]
        try:
            feed = dict(zip(self._names, arrays, strict=True))
            (logits,) = self._session.run(None, feed)
        except Exception as error:
            raise ValueError(f"onnxruntime: {error}") from error
        return torch.from_numpy(logits).to(images.device)
