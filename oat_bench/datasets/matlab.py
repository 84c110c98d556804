"""MATLAB's version 5 files, as far as arrays of real numbers go.

SciPy's reader follows a file wherever it leads: into cells nested without end, into gigabytes that
a few kilobytes unfold to. Here an array is read when its size has been checked, and nothing else.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from oat_bench.files import check_unfolded, read_bounded

#: types of elements (MAT-File Format, table 1-1)
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"} | {
    7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
#: classes of arrays (table 1-3) that are of real numbers: double to uint64
_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_MAX_BYTES = 1 << 31


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read some variables; others are passed over.

    Args:
        path: the file.
        names: of the variables.

    Returns:
        Those of them that there are, of the type that they are stored in, which may be smaller than
        that of their class in MATLAB.

    Raises:
        UserError: if the file is too large, or unfolds to more than it may.
        ValueError, struct.error, zlib.error: if it is damaged, or a variable is no array of real
            numbers.
    """
    content = memoryview(read_bounded(path, _MAX_BYTES, "a data file"))
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None or struct.unpack(f"{order}H", content[124:126]) != (0x0100,):
        raise ValueError("no MATLAB file of version 5")
    wanted = set(names)
    found: dict[str, np.ndarray] = {}
    for kind, element in _elements(content[128:], order):
        if kind == _COMPRESSED:
            kind, element = _unfold(path, element, order)
        if kind != _MATRIX:
            continue
        parts = _elements(element, order)
        flags, shape, name = (_next(parts, order, kind) for kind in (_UINT32, _INT32, _INT8))
        label = name.tobytes().decode("latin-1")
        if label in wanted:
            found[label] = _array(label, int(flags[0]), shape.tolist(), parts, order)
            if wanted == found.keys():
                break
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and data of the elements that follow each other."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        small = kind >> 16
        if small:  # up to four bytes lie in the tag itself
            kind, size, start, after = kind & 0xFFFF, small, place + 4, place + 8
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        else:
            start = place + 8
            # only compressed elements are not padded
            after = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(content):
            raise ValueError("it ends in the middle of an element")
        yield kind, content[start : start + size]
        place = after


def _unfold(path: Path, element: memoryview, order: str) -> tuple[int, memoryview]:
    """Return type and data of the one element inside a compressed one."""
    kind, size = struct.unpack(f"{order}II", zlib.decompressobj().decompress(element, 8))
    check_unfolded(path, size)
    unfolding = zlib.decompressobj()
    content = unfolding.decompress(element, 8 + size + 1)
    if len(content) != 8 + size or not unfolding.eof:
        raise ValueError("a compressed element is not of the size that it says")
    return kind, memoryview(content)[8:]


def _next(parts: Iterator[tuple[int, memoryview]], order: str, expected: int) -> np.ndarray:
    kind, data = next(parts, (0, memoryview(b"")))
    if kind != expected:
        raise ValueError(f"an element of type {kind} where {expected} belongs")
    return np.frombuffer(data, order + _TYPES[kind])


def _array(
    name: str,
    flags: int,
    shape: list[int],
    parts: Iterator[tuple[int, memoryview]],
    order: str,
) -> np.ndarray:
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX:
        raise ValueError(f"{name} is no array of real numbers")
    kind, data = next(parts, (0, memoryview(b"")))
    if kind not in _TYPES:
        raise ValueError(f"{name} holds an element of type {kind}")
    values = np.frombuffer(data, order + _TYPES[kind])
    if min(shape, default=0) < 0 or values.size != np.prod(shape, dtype=object):
        raise ValueError(f"{name} has {values.size} numbers and the shape {tuple(shape[:8])}")
    return values.reshape(shape, order="F").astype(_TYPES[kind], copy=False)
