"""From a trained classifier to one file, which is loaded back and compared before it is kept."""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from oat_bench.classifier import OperatingPoint, TunableClassifier, check_widths
from oat_bench.deployment.description import TOLERANCE, Format, check_alike, describe, drawn_images
from oat_bench.deployment.exported import Exported, format_module, format_of, load
from oat_bench.errors import UserError
from oat_bench.files import atomic_write, make_folder
from oat_bench.images import check_images
from oat_bench.methods.trainable import TrainableClassifier
from oat_bench.networks.drawn import RandomNetwork

_IMAGES, _LAMBDAS = 32, 9  # to compare a file on, of lambda values at most


@dataclass(frozen=True)
class Export:
    """A file that was written, and it as it was loaded back.

    ``difference`` is the largest between a logit of the file and of the classifier on ``n_images``,
    at most ``tolerance`` or that share of the largest logit.
    """

    path: Path
    size: int
    exported: Exported
    difference: float
    n_images: int
    tolerance: float = TOLERANCE


def export(
    classifier: TunableClassifier,
    path: str | Path,
    *,
    lam: float | None,
    width: float = 1.0,
    to: Format | None = None,
    images: Tensor | None = None,
) -> Export:
    """Write the plain network of an operating point, images in [0, 1] to logits, as one file.

    The file is loaded back as its reader does (onnxruntime; torch.export.load) and its logits are
    compared with those of ``classifier.at(lam, width)`` before it gets its name.

    Args:
        classifier: of any method that trains networks.
        path: the file; an older one is replaced.
        lam: in [0, 1]; None keeps it an input of the file, one for each image or one for all, which
            ONNX and pt2 can.
        width: one of the classifier's.
        to: the format; by default that of the path's ending.
        images: shape [n, C, H, W] in [0, 1], to compare on; drawn if there are none.

    Raises:
        UserError: if something of these is not there, or the file computes something else.
    """
    path = Path(path)
    kind = to or format_of(path)
    if kind is None or format_of(path) != kind:
        ending = f".{kind}" if kind else ".onnx, .pt2 or .safetensors"
        raise UserError(f"{path}: expected a name that ends in {ending}")
    if not isinstance(classifier, TrainableClassifier):
        raise UserError(
            f"{classifier.info.architecture}: an exported file holds what it can be read back "
            "into; use torch.export on the module that at() returns"
        )
    check_widths(classifier.info.widths, [width])
    if images is not None:
        check_images(images, name="images", shape=classifier.info.input_shape)
    if lam is not None:
        network = classifier.at(OperatingPoint(lam, width).lam, width)
    elif kind != "safetensors":
        network = classifier.with_lambda_input(width)
    else:
        raise UserError(
            "safetensors holds weights, and no graph that lambda could be an input of; the "
            "checkpoint itself is such a file, or export to onnx or pt2"
        )
    if isinstance(network, RandomNetwork):
        raise UserError(
            f"a model of method {classifier.info.method!r} draws anew for each query, which no "
            "file of one network does; use the checkpoint"
        )
    description = describe(classifier, lam, width)
    network.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    content = format_module(kind).to_bytes(network, description)
    make_folder(path.parent)
    if images is None or len(images) == 0:
        images = drawn_images(classifier.info.input_shape, _IMAGES)
    images = images.float()
    # it has its own name only once it has been read
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        atomic_write(draft, content)
        try:
            exported = load(draft)
            difference = _compare(exported, classifier, images)
        except UserError as error:
            raise UserError(f"{path} was not kept: {error}") from error
        draft.replace(path)
    exported.path = path
    return Export(path, len(content), exported, difference, len(images))


@torch.no_grad()
def _compare(exported: Exported, classifier: TunableClassifier, images: Tensor) -> float:
    """Compare the file with the classifier, on all images at once and on one alone."""
    trained = classifier.info.trained_lambdas
    every = sorted({*trained, *((a + b) / 2 for a, b in pairwise(trained))})
    lambdas = every[:: -(-len(every) // _LAMBDAS)]
    found, about = 0.0, exported.description
    width = about.width
    for lam in lambdas if about.lam is None else [about.lam]:
        expected = classifier.at(lam, width).to("cpu")(images)
        run = exported.deployed(lam, width) or exported.at(lam, width)
        for n in (len(images), 1):
            found = max(found, check_alike(run(images[:n]), expected[:n]))
    return found
