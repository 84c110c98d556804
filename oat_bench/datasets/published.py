"""Every data set that has a name."""

from collections.abc import Callable
from pathlib import Path

from oat_bench.datasets.cifar import cifar10, cifar100
from oat_bench.datasets.digits import digits
from oat_bench.datasets.fashion_12x12 import fashion_12x12
from oat_bench.datasets.fashion_mnist import fashion_mnist
from oat_bench.datasets.splits import Dataset
from oat_bench.datasets.stl10 import stl10
from oat_bench.datasets.svhn import svhn
from oat_bench.errors import UserError


def _unnamed(_data_dir: Path) -> Dataset:
    """Any folder of images, by its path: train/ and test/ with a folder a class, or one a class."""
    raise UserError("an image folder is named by its path, such as --dataset ./my-images")


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "fashion-12x12": fashion_12x12,
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "image-folder": _unnamed,
}
#: those that come with the package, or with one that it needs
BUNDLED = ("fashion-12x12", "digits")
