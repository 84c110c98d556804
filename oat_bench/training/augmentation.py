"""Augmentation of training images, decided by (seed, epoch, example) whatever batch it is in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from oat_bench.datasets import Split
from oat_bench.randomness import generator, uniform
from oat_bench.training.card import TrainingCard

_STREAM = 3  #: keeps augmentation apart from the seed's other uses


def inputs(split: Split, index: Tensor, card: TrainingCard, *, seed: int, epoch: int) -> Tensor:
    """Return training images, augmented: float32 [n, C, H, W] in [0, 1]; epochs count from 0."""
    if card.augmentation == "none":
        return split.inputs(index)
    rows, columns, flip = draw(index, card.crop_padding, seed=seed, epoch=epoch)
    if card.augmentation == "crop":
        flip = torch.zeros_like(flip)
    images = crop_and_flip(split.images[index], rows, columns, flip, card.crop_padding)
    return images.float() / split.levels


def draw(index: Tensor, padding: int, *, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw offsets of rows and columns, 0 ... 2 * padding, and flips (bool), shape [n] each."""
    numbers = uniform(index, (3,), generator(seed, _STREAM, epoch).initial_seed())
    rows, columns = (numbers[:, :2] * (2 * padding + 1)).long().unbind(1)
    return rows, columns, numbers[:, 2] < 0.5


def crop_and_flip(
    images: Tensor, rows: Tensor, columns: Tensor, flip: Tensor, padding: int
) -> Tensor:
    """Pad images with black, mirror some, crop each from a row and column, 0 ... 2 * padding."""
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    across, down = (torch.arange(size, device=images.device) for size in (width, height))
    x = torch.where(flip[:, None], across.flip(0), across) + columns[:, None]
    y = down + rows[:, None]
    # each pixel's place in its flattened padded image: one gather does it all
    place = (y[:, :, None] * padded.shape[3] + x[:, None]).view(n, 1, -1)
    cropped = padded.flatten(2).gather(2, place.expand(-1, channels, -1))
    return cropped.view(n, channels, height, width)
