"""CIFAR-10."""

from pathlib import Path

from oat_bench.datasets.cifar import Version
from oat_bench.datasets.splits import Dataset

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
VERSION = Version(
    name="cifar10",
    classes=CLASSES,
    binary_folder="cifar-10-batches-bin",
    binary_files=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
    labels=b"labels",
    n_labels=1,
    max_bytes=1 << 28,  # nine times a published batch
)


def cifar10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 32x32 in colour: 50,000 to train and 10,000 to test.

    The last 5,000 training images are the validation split (OAT paper, section 4.1). Reads the
    Python and the binary version; downloads the Python one.

    Args:
        data_dir: holds ``cifar-10-batches-py``, ``cifar-10-batches-bin`` or the archive of the
            first.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import CIFAR10

    return VERSION.load(data_dir, CIFAR10)
