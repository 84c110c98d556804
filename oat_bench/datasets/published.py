"""The data sets whose published files are arrays; for CIFAR see `oat_bench.datasets.cifar`."""

import gzip
from pathlib import Path

import numpy as np

from oat_bench.datasets import originals
from oat_bench.datasets.originals import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last, hold_out_tenth, nested_order

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
STL10_CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip
_DIGITS = tuple("0123456789")
#: made by ``benchmarks/fashion_12x12.py``
FASHION_12X12 = Path(__file__).parent / "fashion-12x12"
PARTS = ("train", "t10k")  # of the names of MNIST's files
#: of Debian's package dataset-fashion-mnist: the same bytes, without name and time in gzip's header
DEBIAN = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}


def digits(_data_dir: Path | None = None) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels (UCI test set of Optdigits).

    897 train, 100 validation and 800 test images, stratified, by a fixed seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    everything = Split.of(bunch.images.astype(np.uint8)[:, None], bunch.target, levels=16)
    order = nested_order(everything.labels, seed=0)
    index = {"train": order[900:], "validation": order[800:900], "test": order[:800]}
    train, validation, test = map(everything.take, index.values())
    origin = {name: ("all", places) for name, places in index.items()}
    return Dataset("digits", _DIGITS, train, validation, test, origin)


def fashion_12x12(_data_dir: Path | None = None) -> Dataset:
    """Fashion-MNIST's first 4,000 training and 1,000 test images at 12x12; needs no download.

    The first 400 and 100 of each class, reduced by area means, and not comparable with
    Fashion-MNIST. A stratified tenth of the training images is the validation split.
    """
    train, test = (read_part(FASHION_12X12, part) for part in PARTS)
    return hold_out_tenth("fashion-12x12", FASHION_CLASSES, train, test)


def fashion_mnist(data_dir: Path) -> Dataset:
    """Pieces of clothing, 28x28 in grey: 60,000 to train and 10,000 to test.

    Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747). The last 5,000 training images are
    the validation split. ``data_dir``, or ``FashionMNIST/raw`` in it, holds the four ``.gz`` files.
    """
    from torchvision.datasets import FashionMNIST

    name, files = "fashion-mnist", FashionMNIST.resources
    sources = [Source(FashionMNIST.mirrors[0] + file, file, md5) for file, md5 in files]
    folder = originals.one_by_one(name, data_dir, sources, "FashionMNIST/raw", DEBIAN)
    train, test = (read_part(folder, part, suffix=".gz") for part in PARTS)
    return hold_out_last(name, FASHION_CLASSES, train, test)


def read_part(folder: Path, part: str, suffix: str = "") -> Split:
    """Read images and labels of one of `PARTS` from files of the published names and a suffix."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte{suffix}")
    return Split.of(images[:, None], read_idx(folder / f"{part}-labels-idx1-ubyte{suffix}"))


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in the format of MNIST, compressed if its name ends in ``.gz``."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    # two zeros, the code of bytes, the number of dimensions; then each of them
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def svhn(data_dir: Path) -> Dataset:
    """House numbers, 32x32 in colour: 73,257 digits to train and 26,032 to test.

    SVHN (Netzer et al., 2011), format 2: ``train_32x32.mat`` and ``test_32x32.mat``. The last 5,000
    training images are the validation split (OAT paper, section 4.1).
    """
    from scipy.io import loadmat
    from torchvision.datasets import SVHN

    sources = [Source(*SVHN.split_list[part]) for part in ("train", "test")]
    folder = originals.one_by_one("svhn", data_dir, sources)
    files = (loadmat(folder / s.filename, variable_names=["X", "y"]) for s in sources)
    # X [32, 32, 3, n] and y [n, 1], in which 10 stands for the digit 0
    train, test = (Split.of(f["X"].transpose(3, 2, 0, 1), f["y"].ravel() % 10) for f in files)
    return hold_out_last("svhn", _DIGITS, train, test)


def stl10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 96x96 in colour: 5,000 to train and 8,000 to test.

    STL-10 (Coates, Lee and Ng, AISTATS 2011) without its unlabelled images: ``stl10_binary`` or the
    archive of it. A stratified tenth of the training images is the validation split; the code of
    the OAT paper validates on the test set instead.
    """
    from torchvision.datasets import STL10

    files = [*STL10.train_list, *STL10.test_list]
    md5 = {file: checksum for file, checksum in files if not file.startswith("unlabeled")}
    source = Source(STL10.url, STL10.filename, STL10.tgz_md5)
    folder = originals.from_archive("stl10", data_dir, source, STL10.base_folder, md5)
    splits = []
    for part in ("train", "test"):
        # each channel is stored column by column; labels are 1 ... 10
        columns_first = np.fromfile(folder / f"{part}_X.bin", np.uint8).reshape(-1, 3, 96, 96)
        labels = np.fromfile(folder / f"{part}_y.bin", np.uint8) - 1
        splits.append(Split.of(columns_first.transpose(0, 1, 3, 2), labels))
    return hold_out_tenth("stl10", STL10_CLASSES, *splits)
