"""STL-10's labelled images."""

from pathlib import Path

import numpy as np

from oat_bench.datasets import archives
from oat_bench.datasets.archives import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_tenth
from oat_bench.errors import UserError
from oat_bench.files import read_bounded

CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip
_SHAPE = (3, 96, 96)
#: nine times the published test images
_MAX_BYTES = 1 << 31


def stl10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 96x96 in colour: 5,000 to train and 8,000 to test.

    STL-10 (Coates, Lee and Ng, An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning, AISTATS 2011), without its unlabelled images. A stratified tenth of the training
    images is the validation split; the code of the OAT paper validates on the test set instead.

    Args:
        data_dir: holds ``stl10_binary`` or the archive of it.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import STL10

    files = [*STL10.train_list, *STL10.test_list]
    md5 = {file: checksum for file, checksum in files if not file.startswith("unlabeled")}
    folder = archives.locate(data_dir, "stl10", STL10.base_folder, md5)
    if folder is None:
        source = Source(STL10.url, STL10.filename, STL10.tgz_md5)
        archive = archives.download(source, data_dir, "stl10")
        archives.unpack(archive, [f"{STL10.base_folder}/{file}" for file in md5], data_dir)
        folder = data_dir / STL10.base_folder
    train, test = (_read(folder, part) for part in ("train", "test"))
    archives.check_originals("stl10", folder, md5)
    return hold_out_tenth("stl10", CLASSES, train, test)


def _read(folder: Path, part: str) -> Split:
    """Read images, each channel stored column by column, and labels 1 ... 10."""
    path = folder / f"{part}_X.bin"
    pixels = _bytes(path)
    size = int(np.prod(_SHAPE))
    if pixels.size % size:
        raise UserError(f"{path}: damaged; {pixels.size} bytes are no multiple of {size}")
    images = pixels.reshape(-1, *_SHAPE).transpose(0, 1, 3, 2)
    labels = _bytes(folder / f"{part}_y.bin")
    return archives.make_split(
        f"{path} and {part}_y.bin", images, labels, len(CLASSES), first_label=1
    )


def _bytes(path: Path) -> np.ndarray:
    return np.frombuffer(read_bounded(path, _MAX_BYTES, "a part of STL-10"), np.uint8)
