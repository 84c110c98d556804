"""Make the images of the data set fashion-12x12 from those of Fashion-MNIST.

    python benchmarks/fashion_12x12.py FOLDER         # writes oat_bench/datasets/fashion-12x12
    git diff --exit-code oat_bench/datasets           # the very bytes that ship

FOLDER holds the four files of Fashion-MNIST, as torchvision leaves them or as Debian's package
dataset-fashion-mnist installs them (/usr/share/datasets/fashion-mnist; with name and time put back
into gzip's headers, their MD5s are those of the published files). What is written is in the same
format, not compressed: no version of zlib has a say in the bytes.
"""

import argparse
import math
import struct
from pathlib import Path

import numpy as np

from oat_bench.datasets.published import FASHION_12X12, read_idx

#: how many images of each class, the first of each published part
PER_CLASS = {"train": 400, "t10k": 100}
SIZE = 12


def reduce(images: np.ndarray, size: int) -> np.ndarray:
    """Return the means of areas, rounded half up in whole numbers.

    Args:
        images: uint8 of shape [n, side, side].
        size: the new side; where it does not divide the old one, an area holds parts of pixels.
    """
    n, side, _ = images.shape
    common = math.gcd(side, size)
    fine, area = size // common, side // common  # a pixel's parts in a row, a mean's likewise
    parts = images.astype(np.int64).repeat(fine, axis=1).repeat(fine, axis=2)
    total = parts.reshape(n, size, area, size, area).sum(axis=(2, 4))
    return ((2 * total + area**2) // (2 * area**2)).astype(np.uint8)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the first ``count`` of each class, in ascending order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]))


def write(path: Path, array: np.ndarray) -> None:
    """Write bytes in the idx format."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def main() -> None:
    """Read the originals, write the reduced ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the four .gz files lie")
    parser.add_argument("--out", type=Path, default=FASHION_12X12)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for part, count in PER_CLASS.items():
        names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
        images, labels = (read_idx(options.folder / f"{name}.gz") for name in names)
        places = first_of_each_class(labels, count)
        for name, array in zip(names, (reduce(images[places], SIZE), labels[places]), strict=True):
            write(options.out / name, array)


if __name__ == "__main__":
    main()
