"""CIFAR-10 and CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images)."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oat_bench.datasets import originals
from oat_bench.datasets.originals import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError

CLASSES_10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CLASSES_100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar",
    "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile",
    "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster",
    "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster",
    "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip
#: folder, and MD5 of each file, of the binary versions, which torchvision does not know
BINARY = {
    "cifar10": (
        "cifar-10-batches-bin",
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    "cifar100": (
        "cifar-100-binary",
        {
            "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
            "test.bin": "4499cfba6c016c1be1438163640a0898",
        },
    ),
}


def cifar10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 32x32 in colour: 50,000 to train and 10,000 to test.

    The last 5,000 training images are the validation split (OAT paper, section 4.1). ``data_dir``
    holds ``cifar-10-batches-py``, the archive of it, or ``cifar-10-batches-bin``.
    """
    return _load("cifar10", CLASSES_10, data_dir)


def cifar100(data_dir: Path) -> Dataset:  # by the fine labels; the rest is as in `cifar10`
    """Photographs of a hundred classes, 32x32 in colour: 50,000 to train and 10,000 to test."""
    return _load("cifar100", CLASSES_100, data_dir)


def _load(name: str, classes: tuple[str, ...], data_dir: Path) -> Dataset:
    import torchvision

    published = getattr(torchvision.datasets, name.upper())
    md5 = dict(published.train_list + published.test_list)
    inside, binary_md5 = BINARY[name]
    pickled = originals.locate(name, data_dir, published.base_folder, md5)
    folder = None if pickled else originals.locate(name, data_dir, inside, binary_md5)
    if folder is not None:
        originals.check(name, folder, binary_md5)
        *parts, test = (read_binary(folder / file, len(classes)) for file in binary_md5)
    else:
        source = Source(published.url, published.filename, published.tgz_md5)
        folder = originals.from_archive(name, data_dir, source, published.base_folder, md5)
        *parts, test = (read_pickle(folder / file) for file in md5)
    train = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    return hold_out_last(name, classes, train, test)


def read_binary(path: Path, n_classes: int) -> Split:
    """Read rows of a label, after a coarse one where there are a hundred, and 3,072 pixels."""
    n_labels = 1 if n_classes == 10 else 2
    rows = np.fromfile(path, np.uint8).reshape(-1, n_labels + 3072)
    return Split.of(rows[:, n_labels:].reshape(-1, 3, 32, 32), rows[:, n_labels - 1])


def read_pickle(path: Path) -> Split:
    """Read a dictionary of ``data`` [n, 3072] and labels, by an unpickler that can call nothing."""
    with path.open("rb") as file:
        batch = _Unpickler(file, encoding="bytes").load()
    # of an array: version, shape, type, whether in Fortran's order, content
    images = np.frombuffer(batch[b"data"].state[4], np.uint8).reshape(-1, 3, 32, 32)
    labels = batch[b"fine_labels" if b"fine_labels" in batch else b"labels"]
    return Split.of(images, np.array(labels))


#: what the published pickles ask for
_NUMPY = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))


class _Stated:
    """What stands for an array of NumPy's, and for its type: the state that was pickled."""

    def __init__(self, *_arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Looks nothing up: names of NumPy's arrays stand for `_Stated`, all others are refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY:
            return _Stated
        raise UserError(f"a batch of CIFAR asks for {module}.{name}, which none needs")
