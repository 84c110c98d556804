"""Data sets: images as uint8 tensors with a train, a validation and a test split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oat_bench.errors import UserError, unknown
from oat_bench.files import sha256
from oat_bench.randomness import generator


@dataclass(frozen=True)
class Split:
    """Images and labels.

    Attributes:
        images: uint8 of shape [n, C, H, W]; divided by ``levels`` they lie in [0, 1].
        labels: int64 of shape [n].
        levels: the brightest value.
    """

    images: Tensor
    labels: Tensor
    levels: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return images as float32 in [0, 1]."""
        return self.images[index].float() / self.levels

    def take(self, index: Tensor) -> "Split":
        """Return the split of the examples at ``index``."""
        return Split(self.images[index], self.labels[index], self.levels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device), self.levels)


@dataclass(frozen=True)
class Dataset:
    """A named data set whose example ids are the places in its test split."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    def fingerprint(self) -> str:
        """Hash of every image and label."""
        splits = (self.train, self.validation, self.test)
        parts = [part.numpy().tobytes() for s in splits for part in (s.images, s.labels)]
        return sha256(self.name, *parts)


def check_arrays(
    images: np.ndarray | Tensor, labels: np.ndarray | Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Check images in [0, 1] and labels brought by a caller.

    Args:
        images: numbers of shape [n, C, H, W] in [0, 1].
        labels: integers of shape [n] in [0, num_classes).
        num_classes: number of classes of the model.

    Returns:
        float32 images and int64 labels.

    Raises:
        UserError: saying which value is out of place.
    """
    try:
        x, y = torch.as_tensor(images), torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"images or labels are not arrays of numbers ({error})") from error
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or x.numel() == 0:
        raise UserError(
            f"images of shape {tuple(x.shape)} with labels of shape {tuple(y.shape)}; expected "
            "[n, C, H, W] with [n], n >= 1"
        )
    if x.is_complex():
        raise UserError("images are complex numbers; expected numbers in [0, 1]")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"labels are of type {y.dtype}; expected integers")
    x, y = x.float(), y.long()  # torch does not compare all unsigned types
    if not bool(torch.isfinite(x).all()):
        raise UserError("images hold NaN or infinite values; expected numbers in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise UserError(
            f"images range from {low:g} to {high:g}; expected [0, 1] (divide 8-bit images by 255, "
            "and leave normalisation to the model)"
        )
    wrong = (y < 0) | (y >= num_classes)
    if bool(wrong.any()):
        raise UserError(
            f"label {int(y[wrong][0])} is out of range; the classes are 0 to {num_classes - 1}"
        )
    return x, y


def nested_order(labels: Tensor, seed: int = 0) -> Tensor:
    """Order examples so that each prefix is stratified and contained in every longer one.

    Args:
        labels: classes of shape [n].
        seed: of the random order within and between classes.

    Returns:
        A permutation of 0 ... n - 1, shape [n].
    """
    order = torch.randperm(len(labels), generator=generator(seed, 0))
    shuffled = labels.cpu()[order]
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(shuffled):
        members = (shuffled == label).nonzero()[:, 0]
        # the k-th of a class of m stands at (k + 1/2) / m of the whole
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[torch.sort(place, stable=True).indices]


def load(name: str) -> Dataset:
    """Load a data set by name.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]()


def digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels (UCI test set of Optdigits).

    897 train, 100 validation and 800 test images, stratified, by a fixed seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.images.astype(np.uint8))[:, None]
    labels = torch.as_tensor(bunch.target).long()
    everything = Split(images, labels, levels=16)
    order = nested_order(labels, seed=0)
    return Dataset(
        "digits",
        tuple(str(digit) for digit in range(10)),
        train=everything.take(order[900:]),
        validation=everything.take(order[800:900]),
        test=everything.take(order[:800]),
    )


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}
