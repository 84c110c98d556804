"""Attacked images as files, and the engine that attacks with them: ``--attacks file:PATH``.

A file is of one attack, model and operating point, in float32, so that no perturbation is lost.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import file_digest
from inspect import signature
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from oat_bench.attacks.card import AttackCard
from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import Attack, check_class, check_parameters, check_targeted
from oat_bench.complaints import explain
from oat_bench.datasets.splits import Dataset
from oat_bench.errors import UserError
from oat_bench.files import atomic_write
from oat_bench.run_folder import IMAGES
from oat_bench.tensors import pack, unpack

DISTRIBUTION = "oat-bench"  #: whose version goes into results
PER_EXAMPLE = True  #: random numbers belong to examples, not to the batch
PREFIX = "file:"  #: what a selection of attacks names files by
_HEADER = "oat_bench_images"
_KINDS = {"images": (torch.float32, 4), "example": (torch.int64, 1), "label": (torch.int64, 1)}
_LONGEST_NAME = 64
_WHOLE = {"part", "parts", "crafted"}  #: not in headers: images are of whole attacks, made at lam


def column(header: CellInfo) -> str:
    """What the column of the images is called: attack, model and operating point."""
    width = f"-width{header.width:g}" if header.width != 1 else ""
    model = re.sub(r"[^A-Za-z0-9]", "", header.model)[:8]
    end = f"-from-{model}-lambda{header.lam:g}{width}"
    return header.attack[: _LONGEST_NAME - len(end)] + end


class Images:
    """The content of a file: ids and labels, int64 [n], and images, float32 [n, C, H, W]."""

    def __init__(self, header: CellInfo, example: Tensor, label: Tensor, images: Tensor) -> None:
        order = example.argsort()
        self.header, self.images = header, images[order]
        self.example, self.label = example[order], label[order]

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the images of examples lie, and which are there: shape [n] each."""
        places = torch.searchsorted(self.example, ids).clamp_max(len(self.example) - 1)
        return places, self.example[places] == ids


def write(path: Path, content: Images) -> None:
    """Write a file, whole or not at all."""
    tensors = {name: getattr(content, name) for name in _KINDS}
    atomic_write(path, pack(tensors, {_HEADER: content.header.model_dump_json(exclude=_WHOLE)}))


def read(path: Path) -> Images:
    """Read a file, which anybody may have written."""
    tensors, header = unpack(path)
    wrong = f"{path}: not attacked images of oat-bench run --save-images"
    if _HEADER not in header or tensors.keys() != _KINDS.keys():
        raise UserError(wrong)
    for name, (kind, dimensions) in _KINDS.items():
        if tensors[name].dtype != kind or tensors[name].ndim != dimensions:
            raise UserError(f"{wrong}: {name} is not {kind} of {dimensions} dimensions")
    lengths = {len(tensor) for tensor in tensors.values()}
    if lengths == {0} or len(lengths) > 1 or len(set(tensors["example"].tolist())) not in lengths:
        raise UserError(f"{wrong}: expected an image and a label for each example, each once")
    try:
        described = CellInfo.model_validate_json(header[_HEADER])
    except ValidationError as error:
        raise UserError(f"{wrong}: {explain(error, CellInfo)}") from error
    return Images(described, **tensors)


def cards_of(path: Path) -> list[AttackCard]:
    """Make the card of a file, or those of all files of a folder, or of a run's."""
    if (path / IMAGES).is_dir():
        path = path / IMAGES
    files: Sequence[Path] = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"no attacked images at {path}; expected what --save-images wrote")
    return [_card(file) for file in files]


def _card(path: Path) -> AttackCard:
    header = read(path).header
    where = f"images attacked at lambda {header.lam:g} of {header.method} {header.architecture}"
    # with the prefix a path is never a fraction or a reference
    parameters = {"path": f"{PREFIX}{path}", "sha256": _sha256(path)}
    said = {"name": column(header), "description": f"{where}, model {header.model[:8]}"}
    engine = {"engine": "file", "class": "Images", "parameters": parameters}
    return AttackCard.model_validate(said | engine)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _open(path: str, sha256: str) -> Images:
    file = Path(path.removeprefix(PREFIX))
    if not file.is_file() or _sha256(file) != sha256:
        raise UserError(f"{file}: these attacked images are gone, or were changed since")
    return read(file)


def count(attack: Attack, data: Dataset, examples: Tensor) -> int:
    """Count the examples to evaluate, from the first, that there are images of: one or more."""
    content, path = _open(**attack.parameters), attack.parameters["path"].removeprefix(PREFIX)
    if content.header.data != data.fingerprint():
        raise UserError(
            f"{path}: attacked images of data set {content.header.dataset!r}, not of these images "
            f"of {data.name!r} (their fingerprints differ); evaluate on what was attacked"
        )
    inside = (content.example >= 0) & (content.example < len(data.test))
    labels = data.test.labels.cpu()[content.example[inside]]
    shape = tuple(content.images.shape[1:])
    if not inside.all() or not torch.equal(labels, content.label) or shape != data.input_shape:
        raise UserError(f"{path}: examples, labels or shape are not those of {data.name!r}")
    first = int(content.places(examples.cpu())[1].long().cumprod(0).sum())
    if not first:
        raise UserError(
            f"{path}: lacks the first of the examples to evaluate, {examples[0]}; if it is of a "
            "sample of survivors, leave it out, or save the images of all: --n-examples N"
        )
    return first


def check(attack: Attack) -> None:
    """Refuse what is no card of `cards_of`, or whose file has changed."""
    check_class(attack, ["Images"])
    check_targeted(attack, able=False)
    check_parameters(attack, signature(_open).parameters.values())
    _open(**attack.parameters)


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Return the images of examples, whatever the model."""
    content, ids = _open(**attack.parameters), example_ids.cpu()
    places, there = content.places(ids)
    if not there.all() or not torch.equal(content.label[places], y.cpu()):
        raise UserError(f"attack {attack.card.name!r} holds other examples than are evaluated")
    return content.images[places].to(x.device)
