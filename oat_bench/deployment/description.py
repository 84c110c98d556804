"""What an exported file says of itself, and the network that this describes."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, cast, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from oat_bench import __version__
from oat_bench.cards import Lambda, Recorded, Width, first
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.errors import UserError, unknown
from oat_bench.methods.trainable import TrainableClassifier
from oat_bench.networks.card import depth
from oat_bench.networks.specialize import outline
from oat_bench.registry import METHODS
from oat_bench.tensors import checksum

Format = Literal["onnx", "pt2", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
KEY = "oat_bench_export"  # under which a file of any format holds its description
#: of the largest logit, or of 1, by which a file may differ from the network that it was made
#: from: float32 in another order of summation
TOLERANCE = 1e-4


class Description(Recorded):
    """What an exported file says of itself."""

    first_keys = first("format_version oat_bench_version model lam width source versions")

    format_version: Annotated[int, Field(ge=1, le=1)] = 1
    oat_bench_version: str = __version__
    model: ModelInfo = Field(description="the checkpoint's: data set, classes, input shape, eps")
    lam: Lambda | None = Field(description="null: an input of the file")
    width: Width
    source: str = Field(description="fingerprint of the checkpoint")
    versions: dict[str, str] = Field(description="of the libraries that wrote the file")

    def outline(self) -> nn.Module:
        """Lay out the network, without memory where it is a card's: its weights go into it."""
        info, kind = self.model, cast(type[TrainableClassifier], METHODS[self.model.method])
        if info.network is None:
            fresh = kind.build(info)
            if self.lam is None:
                return fresh.with_lambda_input(self.width)
            return fresh.at(self.lam, self.width)
        if self.lam is not None:
            return outline(info.architecture, info.num_classes, info.input_shape[0], self.width)
        with torch.device("meta"):
            return kind.build(info).with_lambda_input(self.width)


def describe(classifier: TunableClassifier, lam: float | None, width: float) -> Description:
    """Describe the file that a classifier is about to be written to."""
    versions = {"torch": torch.__version__.partition("+")[0]}
    for name in ("onnx", "onnxruntime", "onnxscript"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    model, source = classifier.info.with_bridge(), classifier.fingerprint()
    return Description(model=model, lam=lam, width=width, source=source, versions=versions)


def written(description: Description, state: Mapping[str, Tensor]) -> str:
    """Write a description as a file holds it: JSON, with the hash of it and the weights."""
    values = description.model_dump(mode="json")
    return json.dumps({"description": values, "sha256": checksum(values, dict(state))})


def restored(text: str | bytes, tensors: Mapping[str, Tensor]) -> tuple[Description, nn.Module]:
    """Return what `written` wrote, and its network; some tensors may be no weights, or flat."""
    content = json.loads(text)
    description = Description.model_validate(content["description"])
    info, lam = description.model, description.lam
    if description.width not in info.widths:
        raise ValueError(f"width is {description.width:g}; the network has {info.widths}")
    if info.method not in METHODS:
        raise unknown("method", info.method, METHODS)
    if info.bridge is None and (lam is None or info.bridges([lam])) and info.bridged_below:
        raise ValueError(
            f"between lambda 0 and {info.bridged_below:g} it follows an older rule; export again"
        )
    if info.network and depth(info.architecture) > len(tensors):  # before a deep one is built
        raise ValueError(f"too few weights for {info.architecture}")
    network, state = description.outline(), {}
    for name, expected in network.state_dict().items():
        if tensors[name].dtype != expected.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype}, expected {expected.dtype}")
        state[name] = tensors[name].reshape(expected.shape)
    if content.get("sha256") != checksum(content["description"], state):
        raise ValueError("the checksum does not match")
    network.load_state_dict(state, assign=True)
    return description, network.eval().requires_grad_(False)


def check_alike(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, [n, num_classes] each; at most `TOLERANCE`."""
    alike = logits.shape == expected.shape
    largest = float((logits - expected).abs().max()) if alike else math.nan
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not largest <= allowed:  # NaN too
        off = f"they differ by {largest:.2g}" if alike else "their shapes differ"
        raise UserError(
            f"its logits are not those of the network that it describes: {off}, expected at most "
            f"{allowed:.2g}"
        )
    return largest


def drawn_images(shape: tuple[int, int, int], n: int) -> Tensor:
    """Draw n images in [0, 1], a black and a white one among them, the same each time."""
    images = torch.rand((n, *shape), generator=torch.Generator().manual_seed(0))
    images[0], images[-1] = 0.0, 1.0
    return images
