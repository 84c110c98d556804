"""STL-10's labelled images."""

from pathlib import Path

import numpy as np
import torch

from oat_bench.datasets import originals
from oat_bench.datasets.originals import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_tenth

CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip


def stl10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 96x96 in colour: 5,000 to train and 8,000 to test.

    STL-10 (Coates, Lee and Ng, An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning, AISTATS 2011), without its unlabelled images. A stratified tenth of the training
    images is the validation split; the code of the OAT paper validates on the test set instead.
    ``data_dir`` holds ``stl10_binary`` or the archive of it.
    """
    from torchvision.datasets import STL10

    files = [*STL10.train_list, *STL10.test_list]
    md5 = {file: checksum for file, checksum in files if not file.startswith("unlabeled")}
    source = Source(STL10.url, STL10.filename, STL10.tgz_md5)
    folder = originals.from_archive("stl10", data_dir, source, STL10.base_folder, md5)
    train, test = (_read(folder, part) for part in ("train", "test"))
    return hold_out_tenth("stl10", CLASSES, train, test)


def _read(folder: Path, part: str) -> Split:
    """Read images, each channel stored column by column, and labels 1 ... 10."""
    columns_first = np.fromfile(folder / f"{part}_X.bin", np.uint8).reshape(-1, 3, 96, 96)
    labels = np.fromfile(folder / f"{part}_y.bin", np.uint8).astype(np.int64) - 1
    images = columns_first.transpose(0, 1, 3, 2).copy()
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
