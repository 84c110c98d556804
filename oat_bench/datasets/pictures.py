"""Image files as arrays: upright, of one size and with one number of channels."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from oat_bench.errors import UserError, one_line
from oat_bench.files import check_unfolded
from oat_bench.progress import note

#: formats that are read, whatever a file is called; Pillow would run Ghostscript on others
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
#: modes of Pillow that are read as grey levels and as colours
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
#: EXIF's tag of how to turn an image, and how, by its values
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SKIP = "leave such images out with --skip-broken"
T = TypeVar("T")


class _Header(NamedTuple):
    size: tuple[int, int]  # width, height
    mode: str


class _UnfitError(Exception):
    """Why an image cannot be read with the others, and how to mend it."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy


def read(
    root: Path, files: Sequence[Path], *, skip_broken: bool, image_size: int | None
) -> tuple[np.ndarray, list[int]]:
    """Read images as uint8 [n, C, H, W], C 3 if one is in colour, and say which places are read."""

    def check_sound() -> None:
        if unfit and not skip_broken:
            first = min(unfit)
            raise UserError(f"{files[first]}: {unfit[first].reason}; {unfit[first].remedy}")

    headers, unfit = _attempt(lambda _, path: _header(path), dict(enumerate(files)))
    if image_size is None:
        width, height, others = _usual_size(root, headers, skip_broken=skip_broken)
        unfit |= others
    else:
        width = height = image_size
    check_sound()
    kept = {place: files[place] for place in headers if place not in unfit}
    mode = "RGB" if any(headers[place].mode in _COLOUR for place in kept) else "L"
    shape = (len(files), len(mode), height, width)
    check_unfolded(root, math.prod(shape), sum(file.stat().st_size for file in files))
    pixels = np.zeros(shape, np.uint8)

    def decode(place: int, path: Path) -> None:
        image = np.asarray(_decoded(path, mode, image_size))
        pixels[place] = image[None] if mode == "L" else image.transpose(2, 0, 1)

    unfit |= _attempt(decode, kept)[1]  # whose pixels stay zero
    check_sound()
    if unfit:
        first = min(unfit)
        note(
            f"{root}: {len(unfit)} of {len(files)} images skipped, the first is {files[first]}: "
            f"{unfit[first].reason}"
        )
    return pixels, [place for place in kept if place not in unfit]


def _attempt(
    function: Callable[[int, Path], T], files: Mapping[int, Path]
) -> tuple[dict[int, T], dict[int, _UnfitError]]:
    """Call a function on the place and the path of each file, in threads; what fails is unfit."""

    def attempt(place: int) -> T | _UnfitError:
        try:
            return function(place, files[place])
        except MemoryError:
            raise
        except _UnfitError as error:
            return error
        except Exception as error:  # a decoder may fail in any way
            reason = one_line(error) or type(error).__name__
            return _UnfitError(f"not a readable image ({reason})", f"replace it, or {_SKIP}")

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # what Pillow warns of is read or broken, the too large ones broken
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        done = dict(zip(files, pool.map(attempt, files), strict=True))
    unfit = {place: error for place, error in done.items() if isinstance(error, _UnfitError)}
    return {p: result for p, result in done.items() if not isinstance(result, _UnfitError)}, unfit


def _usual_size(
    root: Path, headers: Mapping[int, _Header], *, skip_broken: bool
) -> tuple[int, int, dict[int, _UnfitError]]:
    sizes = Counter(header.size for header in headers.values())
    if not sizes:
        return 0, 0, {}
    ((usual, count),) = sizes.most_common(1)
    remedy = "resize and crop all with --image-size, such as --image-size 64"
    if 2 * count > len(headers):
        remedy += ", or leave out those of another size with --skip-broken"
    elif skip_broken:
        raise UserError(
            f"{root}: images of {len(sizes)} sizes, {_by(usual)} the most frequent with {count} of "
            f"{len(headers)}; too many to leave out: {remedy}"
        )
    reason = f"pixels, where {count} of {len(headers)} are {_by(usual)}"
    others = {p: header.size for p, header in headers.items() if header.size != usual}
    return *usual, {p: _UnfitError(f"{_by(s)} {reason}", remedy) for p, s in others.items()}


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            raise ValueError(f"it is {_kind(file.read(64))}") from error


def _kind(start: bytes) -> str:
    """Say what a file is that Pillow does not read, by its first bytes."""
    if not start:
        return "empty"
    Image.init()
    names = [n for n, (_, accepts) in Image.OPEN.items() if accepts and accepts(start[:16])]
    if known := [name for name in names if name in _FORMATS]:
        return f"a damaged {known[0]}"
    is_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
    kind = f"of format {names[0]}" if names else "text" if is_text else "of unknown format"
    return f"{kind}; expected {', '.join(_FORMATS)}"


def _header(path: Path) -> _Header:
    with _open(path) as image:
        if image.mode not in (*_GREY, *_COLOUR):
            reason = f"pixels of type {image.mode}; expected 8-bit grey levels or colours"
            raise _UnfitError(reason, f"convert it, or {_SKIP}")
        # a square one is so any way round, and is not decoded to know
        square = image.width == image.height
        if not square and image.format == "TIFF":  # which Pillow turns as it decodes it
            image.load()
        turned = not square and _orientation(image) >= 5
        return _Header(image.size[::-1] if turned else image.size, image.mode)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # what is damaged there leaves the image as it is
        return 1


def _decoded(path: Path, mode: str, image_size: int | None) -> Image.Image:
    with _open(path) as image:
        image.load()  # before which the numbers of some formats are not known
        turn = _TURNS.get(_orientation(image))
        # straight from a palette with transparency Pillow warns
        whole = image.convert("RGBA") if "transparency" in image.info else image
        plain = whole.convert(mode)
    if turn is not None:
        plain = plain.transpose(turn)
    if image_size is not None:
        plain = ImageOps.fit(plain, (image_size, image_size), Image.Resampling.BILINEAR)
    return plain
