"""The idx format of MNIST and the data sets that replace it: bytes of images and of labels."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded

#: nearly thrice the published training images, unfolded
_MAX_BYTES = 1 << 27
_GZIP = b"\x1f\x8b"
#: two zeros, the code of unsigned bytes; the number of dimensions follows
_MAGIC = b"\0\0\x08"


def read(path: Path, dimensions: int) -> np.ndarray:
    """Read an array of bytes, stored as it is or by gzip.

    Args:
        path: the file.
        dimensions: of the array: 3 for images [n, H, W], 1 for labels [n].

    Returns:
        uint8, read only.

    Raises:
        UserError: if it cannot be read, is not such an array, or is longer or shorter than it says.
    """
    content = read_bounded(path, _MAX_BYTES, "an idx file")
    if content.startswith(_GZIP):
        content = _unfold(path, content)
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != _MAGIC + bytes([dimensions]):
        raise UserError(f"{path}: not an idx file of bytes in {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = 1
    for length in shape:
        size *= length
    if size != len(content) - start:
        raise UserError(
            f"{path}: damaged; says {size} bytes of shape {shape}, holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unfold(path: Path, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unfolded = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({one_line(error)})") from error
    if len(unfolded) > _MAX_BYTES:
        raise UserError(f"{path}: too large for an idx file (unfolds to over {_MAX_BYTES} bytes)")
    return unfolded
