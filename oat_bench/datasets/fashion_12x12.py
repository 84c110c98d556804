"""A part of Fashion-MNIST, reduced, which comes with the package."""

from pathlib import Path

from oat_bench.datasets.fashion_mnist import CLASSES, PARTS, read_part
from oat_bench.datasets.splits import Dataset, hold_out_tenth

#: made by ``benchmarks/fashion_12x12.py``
FOLDER = Path(__file__).parent / "fashion-12x12"


def fashion_12x12(_data_dir: Path | None = None) -> Dataset:
    """Fashion-MNIST's first 4,000 training and 1,000 test images at 12x12; needs no download.

    The first 400 and 100 of each class of Fashion-MNIST (Xiao, Rasul and Vollgraf,
    arXiv:1708.07747), reduced by area means. A stratified tenth of the training images is the
    validation split. Not comparable with Fashion-MNIST.
    """
    train, test = (read_part(FOLDER, part) for part in PARTS)
    return hold_out_tenth("fashion-12x12", CLASSES, train, test)
