"""CIFAR-10, in either of its published formats, read without running or unpickling anything."""

from pathlib import Path

import numpy as np
import torch

from oat_bench.datasets import archives, pickled
from oat_bench.datasets.archives import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_SHAPE = (3, 32, 32)
#: nine times a published batch
_MAX_BYTES = 1 << 28
_BINARY_FOLDER = "cifar-10-batches-bin"
_BINARY = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def cifar10(data_dir: Path) -> Dataset:
    """Photographs of ten classes, 32x32 in colour: 50,000 to train and 10,000 to test.

    CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009). The last
    5,000 training images are the validation split (OAT paper, section 4.1). Reads the Python and
    the binary version; downloads the Python one.

    Args:
        data_dir: holds ``cifar-10-batches-py``, ``cifar-10-batches-bin`` or the archive of the
            first.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import CIFAR10

    md5 = dict(CIFAR10.train_list + CIFAR10.test_list)
    folder = archives.locate(data_dir, "cifar10", CIFAR10.base_folder, md5)
    if folder is None:
        binary = archives.locate(data_dir, "cifar10", _BINARY_FOLDER, _BINARY)
        if binary is not None:
            return _assemble([_read_binary(binary / file) for file in _BINARY])
        source = Source(CIFAR10.url, CIFAR10.filename, CIFAR10.tgz_md5)
        archive = archives.download(source, data_dir, "cifar10")
        archives.unpack(archive, [f"{CIFAR10.base_folder}/{file}" for file in md5], data_dir)
        folder = data_dir / CIFAR10.base_folder
    batches = [_read_pickle(folder / file) for file in md5]
    archives.check_originals("cifar10", folder, md5)
    return _assemble(batches)


def _assemble(batches: list[Split]) -> Dataset:
    *parts, test = batches
    train = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    return hold_out_last("cifar10", CLASSES, train, test)


def _read_binary(path: Path) -> Split:
    """Read rows of a label and 3,072 pixels."""
    content = np.frombuffer(read_bounded(path, _MAX_BYTES, "a batch of CIFAR-10"), np.uint8)
    row = 1 + int(np.prod(_SHAPE))
    if content.size % row:
        raise UserError(f"{path}: damaged; {content.size} bytes are no multiple of {row}")
    rows = content.reshape(-1, row)
    return archives.make_split(path, rows[:, 1:].reshape(-1, *_SHAPE), rows[:, 0], len(CLASSES))


def _read_pickle(path: Path) -> Split:
    """Read a dictionary of ``data`` [n, 3072] and ``labels`` from a pickle."""
    content = read_bounded(path, _MAX_BYTES, "a batch of CIFAR-10")
    try:
        batch = pickled.read(content)
        images = batch[b"data"].pixels()
        images = images.reshape(len(images), *_SHAPE)
        labels = batch[b"labels"]
        if not isinstance(labels, list) or any(type(label) is not int for label in labels):
            raise ValueError("the labels are not a list of integers")
        numbers = np.array(labels, dtype=np.int64)
    except Exception as error:  # what is damaged may fail in any way
        raise UserError(
            f"{path}: damaged, or not a batch of CIFAR-10 ({one_line(error)})"
        ) from error
    return archives.make_split(path, images, numbers, len(CLASSES))
