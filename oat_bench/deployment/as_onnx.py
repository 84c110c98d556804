"""ONNX: a graph for onnxruntime and whatever else reads ONNX. Data only.

It has no gradients; attacks see the network of the description, with weights found by their names.
"""

import warnings
from typing import Any

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from oat_bench.deployment.as_pt2 import trace
from oat_bench.deployment.description import KEY, Description, check_alike, drawn_images, written

ERRORS = (DecodeError,)


def to_bytes(network: nn.Module, description: Description) -> bytes:
    """Write a plain network, or one that takes lambda."""
    with warnings.catch_warnings(action="ignore"):
        program = trace(network, description)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,  # or what depends on weights alone is folded, and their names go
            verbose=False,
            input_names=["images", "lam"][: len(program.graph_signature.user_inputs)],
            output_names=["logits"],
        )
    assert converted is not None
    message = converted.model_proto
    _tidy(message)
    entry = message.metadata_props.add()
    entry.key, entry.value = KEY, written(description, network.state_dict())
    return message.SerializeToString()  # type: ignore[no-any-return]


def _tidy(message: Any) -> None:
    """Name the free sizes n (images) and k (lambda); drop notes of where nodes came from."""
    graph = message.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in (message, graph, *graph.node, *values, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    free = [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input]
    names = dict(zip(free, "nk", strict=False))
    for value in values:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def opened(content: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return the description and the tensors of a graph."""
    message = onnx.load_model_from_string(content)
    texts = {entry.key: entry.value for entry in message.metadata_props}
    if KEY not in texts:
        raise ValueError(
            "an ONNX file without its description: data set, operating point and weights that "
            "gradients need are not known"
        )
    _check_contained(message)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in message.graph.initializer}
    return texts[KEY], {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _check_contained(message: Any) -> None:
    """Refuse a graph that is more than operators of the standard on its own tensors."""
    tensors = list(message.graph.initializer)
    for node in message.graph.node:
        if node.domain or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ValueError(f"it holds the operator {node.domain or node.op_type}")
        tensors += [t for a in node.attribute for t in (a.t, *a.tensors)]
    if message.functions or message.graph.sparse_initializer:
        raise ValueError("it holds functions or sparse tensors")
    if any(t.external_data or t.data_location == t.EXTERNAL for t in tensors):
        raise ValueError("it asks for data outside of the file")


def program(content: bytes, description: Description, network: nn.Module) -> nn.Module:
    """Return a graph that runs, compared with the network that it describes."""
    graph = Graph(content)
    images = drawn_images(description.model.input_shape, 3)
    between = (description.model.bridged_below or 1.0) / 2
    lam = (torch.tensor([0.0, between, 1.0]),) if description.lam is None else ()
    check_alike(graph(images, *lam), network(images, *lam))
    return graph


class Graph(nn.Module):
    """An ONNX graph as onnxruntime computes it, on a CPU with as many threads as torch has."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.load_model_format", "ONNX")
        cpu = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=cpu)
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
