"""Images as uint8 tensors in a train, a validation and a test split, and how they are split."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from oat_bench.errors import UserError
from oat_bench.files import sha256
from oat_bench.images import check_images
from oat_bench.randomness import generator


@dataclass(frozen=True)
class Split:
    """Images and labels."""

    images: Tensor  # uint8 of shape [n, C, H, W]; divided by levels they lie in [0, 1]
    labels: Tensor  # int64 of shape [n]
    levels: int = 255

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray, levels: int = 255) -> "Split":
        """Copy arrays, which may be read-only or strided."""
        x, y = torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))
        return cls(x, y, levels)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return images as float32 in [0, 1]."""
        return self.images[index].float() / self.levels

    def take(self, index: Tensor | slice) -> "Split":
        """Return the split of the examples at ``index``; a slice of them shares the memory."""
        return Split(self.images[index], self.labels[index], self.levels)

    def packed(self, places: Tensor) -> "Split":
        """Return the split at ascending places, moved together in its memory: this one is gone."""
        for start in range(0, len(places), 256):
            some = places[start : start + 256]  # none of them lies before ``start``
            self.images[start : start + len(some)] = self.images[some]
        return Split(self.images[: len(places)], self.labels[places], self.levels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device), self.levels)


@dataclass(frozen=True)
class Dataset:
    """A named data set; the id of an example is its place in the test split."""

    name: str
    classes: tuple[str, ...]  # a label is a place in them
    train: Split
    validation: Split  # held out of what was published for training; may be empty
    test: Split
    #: by split the published part it was taken from and the places in it, [n]; without, all of it
    origin: Mapping[str, tuple[str, Tensor]] = field(default_factory=dict)
    image_size: int | None = None  # pixels that a folder's images were resized and cropped to

    def called(self, name: str) -> "Dataset":
        """Return the same images under another name."""
        return self if name == self.name else replace(self, name=name)

    @property
    def splits(self) -> dict[str, Split]:
        """The three by their names."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    def fingerprint(self) -> str:
        """Hash the name and every image and label; a recorded hash is of the recorded name."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [part for s in self.splits.values() for part in (s.images, s.labels)]
        # a flat view: hashing copies nothing
        return sha256(self.name, *[p.contiguous().view(-1).numpy().data for p in parts])

    def describe_splits(self) -> str:
        """Say in JSON which published images each split holds, and the hash of them all."""
        described = {}
        for name, split in self.splits.items():
            part, index = self.origin.get(name, (name, torch.arange(len(split))))
            described[name] = {"n": len(split), "part": part, "index": _ranges(index)}
        size = {} if self.image_size is None else {"image_size": self.image_size}
        content = {"dataset": self.name, "sha256": self.fingerprint(), **size, "splits": described}
        return json.dumps(content, indent=2) + "\n"


def _ranges(index: Tensor) -> str:
    """Write places as ``0-44999,45003``: short where they follow each other."""
    if len(index) == 0:
        return ""
    breaks = (index.diff() != 1).nonzero()[:, 0] + 1
    runs = torch.tensor_split(index, breaks.tolist())
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def hold_out_last(name: str, classes: tuple[str, ...], train: Split, test: Split) -> Dataset:
    """Make the last 5,000 images of the published training set the validation split."""
    places = torch.arange(len(train))
    return _held_out(name, classes, train, test, places[-5000:], places[:-5000])


def hold_out_tenth(
    name: str, classes: tuple[str, ...], train: Split, test: Split, *, pack: bool = False
) -> Dataset:
    """Make a stratified tenth of the training set the validation split, always the same.

    ``pack`` keeps the rest in the memory of ``train``, which is then gone.
    """
    places = stratified(train.labels, len(train) // 10)
    return _held_out(name, classes, train, test, *places, pack=pack)


def _held_out(
    name: str,
    classes: tuple[str, ...],
    train: Split,
    test: Split,
    validation: Tensor,
    kept: Tensor,
    *,
    pack: bool = False,
) -> Dataset:
    origin = {"train": ("train", kept), "validation": ("train", validation)}
    held = train.take(validation)
    rest = train.packed(kept) if pack else train.take(kept)
    return Dataset(name, classes, rest, held, test, origin)


def stratified(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` of labels [n]; return their places, and the others', ascending."""
    order = nested_order(labels, seed=0)
    return order[:count].sort().values, order[count:].sort().values


def check_arrays(
    images: np.ndarray | Tensor, labels: np.ndarray | Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return a caller's images [n, C, H, W] in [0, 1] as float32, and labels [n] as int64."""
    try:
        x, y = torch.as_tensor(images), torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"images or labels are not arrays of numbers ({error})") from error
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or x.numel() == 0:
        raise UserError(
            f"images of shape {tuple(x.shape)} with labels of shape {tuple(y.shape)}; expected "
            "[n, C, H, W] with [n], n >= 1"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"labels are of type {y.dtype}; expected integers")
    if x.is_floating_point():
        x = x.float()  # where 1e300 is infinite
    check_images(x, name="images")
    y = y.long()  # torch does not compare all unsigned types
    wrong = (y < 0) | (y >= num_classes)
    if bool(wrong.any()):
        raise UserError(
            f"label {int(y[wrong][0])} is out of range; the classes are 0 to {num_classes - 1}"
        )
    return x, y


def nested_order(labels: Tensor, seed: int = 0) -> Tensor:
    """Order examples with labels [n], at random, so that each prefix is stratified."""
    order = torch.randperm(len(labels), generator=generator(seed, 0))
    shuffled = labels.cpu()[order]
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(shuffled):
        members = (shuffled == label).nonzero()[:, 0]
        # the k-th of a class of m stands at (k + 1/2) / m of the whole
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[torch.sort(place, stable=True).indices]
