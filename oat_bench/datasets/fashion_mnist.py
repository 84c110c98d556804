"""Fashion-MNIST."""

import gzip
from pathlib import Path

import numpy as np
import torch

from oat_bench.datasets import originals
from oat_bench.datasets.originals import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
#: of the training and of the test files' names
PARTS = ("train", "t10k")
#: of Debian's package dataset-fashion-mnist: the same bytes, without name and time in gzip's header
_DEBIAN = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}


def fashion_mnist(data_dir: Path) -> Dataset:
    """Pieces of clothing, 28x28 in grey: 60,000 to train and 10,000 to test.

    Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747). The last 5,000 training images are
    the validation split, as the OAT paper has it for its data sets of this size (section 4.1).
    ``data_dir``, or ``FashionMNIST/raw`` in it, holds ``train-images-idx3-ubyte.gz`` and the three
    others.
    """
    from torchvision.datasets import FashionMNIST

    files = FashionMNIST.resources
    sources = [Source(FashionMNIST.mirrors[0] + file, file, md5) for file, md5 in files]
    folder = originals.one_by_one(
        "fashion-mnist", data_dir, sources, "FashionMNIST/raw", also=_DEBIAN
    )
    train, test = (read_part(folder, part, suffix=".gz") for part in PARTS)
    return hold_out_last("fashion-mnist", CLASSES, train, test)


def read_part(folder: Path, part: str, suffix: str = "") -> Split:
    """Read images and labels of one of `PARTS` from files of the published names and a suffix."""
    images, labels = (
        read_idx(folder / f"{part}-{kind}-ubyte{suffix}") for kind in ("images-idx3", "labels-idx1")
    )
    return Split(
        torch.from_numpy(images[:, None].copy()), torch.from_numpy(labels.astype(np.int64))
    )


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in the format of MNIST, compressed if its name ends in ``.gz``."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    # two zeros, the code of bytes, the number of dimensions; then each of them
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
