"""CIFAR-10, in either of its published formats, read without running anything from the files."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oat_bench.datasets import archives
from oat_bench.datasets.archives import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_SHAPE = (3, 32, 32)
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
    content = np.fromfile(path, np.uint8)
    row = 1 + int(np.prod(_SHAPE))
    if content.size % row:
        raise UserError(f"{path}: damaged; {content.size} bytes are no multiple of {row}")
    rows = content.reshape(-1, row)
    return archives.make_split(path, rows[:, 1:].reshape(-1, *_SHAPE), rows[:, 0], len(CLASSES))


def _read_pickle(path: Path) -> Split:
    """Read a dictionary of ``data`` [n, 3072] and ``labels`` from a pickle."""
    file = io.BytesIO(path.read_bytes())
    try:
        content = _Unpickler(file, encoding="bytes").load()
        images = content[b"data"].to_numpy().reshape(-1, *_SHAPE)
        labels = np.array(content[b"labels"])
        if labels.ndim != 1 or labels.dtype.kind != "i":
            raise ValueError("the labels are not a list of integers")
    except Exception as error:  # a pickle may fail in any way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged, or not a batch of CIFAR-10 ({reason})") from error
    return archives.make_split(path, images, labels, len(CLASSES))


class _Array:
    """Takes the place of a pickled array, and of all that NumPy would be called for.

    Nothing of NumPy's runs on what the file says; the bytes are read when they have been checked.
    """

    dtype: Any = None
    shape: Any = None
    content: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        # of an array: version, shape, type, whether in Fortran's order, bytes; of a type: no matter
        if len(state) == 5:
            _, self.shape, self.dtype, fortran, self.content = state
            if fortran:
                raise ValueError("an array in Fortran's order")

    def to_numpy(self) -> np.ndarray:
        name = self.dtype.arguments[0]
        if name not in (b"u1", "u1") or not isinstance(self.content, bytes):
            raise ValueError("an array that is not of bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


class _Unpickler(pickle.Unpickler):
    """Admits arrays, beside what a pickle can write without naming anything."""

    def find_class(self, module: str, name: str) -> type[_Array]:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return _Array
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
