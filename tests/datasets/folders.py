"""Folders of images, written small, and what is said of bad ones."""

import numpy as np
import pytest
from PIL import Image

from oat_bench.datasets import image_folder
from oat_bench.errors import UserError


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def fill(root, counts, shape=(6, 5, 3), suffix=".png"):
    """Write some images into each folder, no two alike."""
    for number, (folder, count) in enumerate(counts.items()):
        for place in range(count):
            write(root / folder / f"{place:03}{suffix}", pixels(1000 * number + place, *shape))
    return root


def refusal(root, **options):
    with pytest.raises(UserError) as caught:
        image_folder(root, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
