"""CIFAR-10-C and CIFAR-100-C as their authors published them (arXiv:1903.12261)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from oat_bench.errors import UserError, one_line
from oat_bench.progress import note

#: by data set the folder, and the record on Zenodo that it is unpacked from
PUBLISHED = {"cifar10": ("CIFAR-10-C", 2535967), "cifar100": ("CIFAR-100-C", 3555552)}
#: those of the benchmark; the four others of the record were meant for validation
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
_SEVERITIES = 5


@dataclass(frozen=True)
class CifarC:
    """The images, left on disk: by corruption uint8 [5 n, 32, 32, 3], severity 1 first."""

    files: dict[str, NDArray[np.uint8]]

    def __call__(self, corruption: str, severity: int, ids: Tensor) -> NDArray[np.uint8]:
        """Return images of some examples, [n, 3, 32, 32]."""
        file = self.files[corruption]
        rows = file[(severity - 1) * (len(file) // _SEVERITIES) + ids.numpy()]
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))


def find(name: str, data_dir: Path, labels: Tensor) -> CifarC | None:
    """Open the files in ``data_dir``, of test labels [n]; None, which is said, if not there."""
    published, record = PUBLISHED[name]
    folder = data_dir / published
    origin = f"https://zenodo.org/records/{record}"
    if not folder.is_dir():
        note(
            f"{folder} is not there: corruptions are computed, which gives no figure of "
            f"{published}; for that unpack the authors' files there, from {origin}"
        )
        return None
    paths = {file: folder / f"{file}.npy" for file in (*CORRUPTIONS, "labels")}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; unpack {origin} there")
    rows = _SEVERITIES * len(labels)
    theirs = _open(paths.pop("labels"), (rows,), ("uint8", "int32", "int64"), origin)
    if not np.array_equal(theirs, labels.repeat(_SEVERITIES).numpy()):
        raise UserError(
            f"{folder / 'labels.npy'}: expected the labels of the test set of {name} "
            f"{_SEVERITIES} times over; unpack {origin} there"
        )
    shape = (rows, 32, 32, 3)
    return CifarC({one: _open(path, shape, ("uint8",), origin) for one, path in paths.items()})


def _open(path: Path, shape: tuple[int, ...], types: tuple[str, ...], origin: str) -> NDArray[Any]:
    """Map an array into memory; nothing is unpickled."""
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # what is damaged may fail in any way
        raise UserError(
            f"{path}: damaged, or not an array of NumPy ({one_line(error)}); unpack {origin} again"
        ) from error
    if array.shape != shape or array.dtype.name not in types:
        raise UserError(
            f"{path}: {array.dtype} of shape {array.shape}; expected {' or '.join(types)} of shape "
            f"{shape}; unpack {origin} again"
        )
    return array
