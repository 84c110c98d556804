"""Image files as arrays: upright, of one size and with one number of channels."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from oat_bench.errors import UserError, one_line
from oat_bench.files import check_unfolded
from oat_bench.progress import note

if TYPE_CHECKING:
    from PIL.Image import Image

#: formats that are read, whatever a file is called; Pillow would run Ghostscript on others
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
#: modes of Pillow that are read as grey levels and as colours
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
#: EXIF's tag of how to turn an image
_ORIENTATION = 0x0112
_SKIP = "leave such images out with --skip-broken"
T = TypeVar("T")


class _Header(NamedTuple):
    size: tuple[int, int]  # width, height
    mode: str


class _Unfit(NamedTuple):
    reason: str
    remedy: str


def read(
    root: Path, files: Sequence[Path], *, skip_broken: bool, image_size: int | None
) -> tuple[np.ndarray, list[int]]:
    """Read images; of an animation the first frame.

    Args:
        root: their folder, to name it.
        files: the images.
        skip_broken: leave out what cannot be read, is no 8-bit image, or is not of the size that
            most are of; and say how many.
        image_size: pixels that the shorter side is resized to, of which the centre is kept.

    Returns:
        uint8 of shape [n, C, H, W], C = 3 if any is in colour, and the places in ``files`` that
        were read; the others are zero.

    Raises:
        UserError: naming the first image that does not fit, and how to mend it.
    """
    headers = _attempts(_header, files)
    unfit = {place: header for place, header in enumerate(headers) if isinstance(header, _Unfit)}
    sound = {place: header for place, header in enumerate(headers) if isinstance(header, _Header)}
    if image_size is None:
        size, others = _check_sizes(root, sound, skip_broken=skip_broken)
        unfit |= others
    else:
        size = (image_size, image_size)
    if unfit and not skip_broken:
        _refuse(files, unfit)
    kept = [place for place in sound if place not in unfit]
    mode = "RGB" if any(sound[place].mode in _COLOUR for place in kept) else "L"
    shape = (len(files), len(mode), size[1], size[0])
    check_unfolded(root, math.prod(shape), sum(file.stat().st_size for file in files))
    pixels = np.zeros(shape, np.uint8)
    decode = partial(_decode, mode=mode, image_size=image_size, out=pixels)
    decoded = _attempts(decode, [(place, files[place]) for place in kept])
    unfit |= {p: r for p, r in zip(kept, decoded, strict=True) if isinstance(r, _Unfit)}
    if unfit:
        if not skip_broken:
            _refuse(files, unfit)
        first = min(unfit)
        note(
            f"{root}: {len(unfit)} of {len(files)} images skipped, the first is {files[first]}: "
            f"{unfit[first].reason}"
        )
    return pixels, [place for place in kept if place not in unfit]


def _refuse(files: Sequence[Path], unfit: dict[int, _Unfit]) -> None:
    first = min(unfit)
    raise UserError(f"{files[first]}: {unfit[first].reason}; {unfit[first].remedy}")


def _check_sizes(
    root: Path, headers: dict[int, _Header], *, skip_broken: bool
) -> tuple[tuple[int, int], dict[int, _Unfit]]:
    """Return the size that most images are of, and those of another."""
    sizes = Counter(header.size for header in headers.values())
    if not sizes:
        return (0, 0), {}
    ((usual, count),) = sizes.most_common(1)
    resize = "resize and crop all with --image-size, such as --image-size 64"
    few = 2 * count <= len(headers)
    if skip_broken and few:
        raise UserError(
            f"{root}: images of {len(sizes)} sizes, {_by(usual)} the most frequent with {count} of "
            f"{len(headers)}; too many to leave out: {resize}"
        )
    skip = "" if few else ", or leave out those of another size with --skip-broken"
    shown = f"{count} of {len(headers)} are {_by(usual)}"
    return usual, {
        place: _Unfit(
            f"{_by(header.size)} pixels, where {shown}",
            f"{resize}{skip}",
        )
        for place, header in headers.items()
        if header.size != usual
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _attempts(function: Callable[[Any], T], items: Sequence[Any]) -> list[T | _Unfit]:
    """Call a function on each item, in threads; what fails is unfit."""
    from PIL import Image

    def attempt(item: Any) -> T | _Unfit:
        try:
            return function(item)
        except MemoryError:
            raise
        except Exception as error:  # a decoder may fail in any way
            reason = one_line(error) or type(error).__name__
            return _Unfit(f"not a readable image ({reason})", f"replace it, or {_SKIP}")

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # what Pillow warns of is read or broken, the too large ones broken
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return list(pool.map(attempt, items))


def _open(path: Path) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(_what(path)) from error


def _what(path: Path) -> str:
    """Say what a file is that is no image of the formats that are read; nothing is decoded."""
    from PIL import Image

    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty"
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is not None and accepts(start[:16]) and name in _FORMATS:
            return f"it is a damaged {name}"
    names = [n for n, (_, accepts) in Image.OPEN.items() if accepts and accepts(start[:16])]
    is_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
    kind = f"of format {names[0]}" if names else "text" if is_text else "of unknown format"
    return f"it is {kind}; expected {', '.join(_FORMATS)}"


def _header(path: Path) -> _Header | _Unfit:
    with _open(path) as image:
        if image.mode not in (*_GREY, *_COLOUR):
            reason = f"pixels of type {image.mode}; expected 8-bit grey levels or colours"
            return _Unfit(reason, f"convert it, or {_SKIP}")
        width, height = image.size
        # a square one is so any way round, and is not decoded to know
        if width != height:
            if image.format == "TIFF":  # which Pillow turns as it decodes it
                image.load()
            width, height = image.size
            if _orientation(image) >= 5:
                width, height = height, width
        return _Header((width, height), image.mode)


def _orientation(image: "Image") -> int:
    """Return EXIF's number of how to turn an image, 1 to 8."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # what is damaged there leaves the image as it is
        return 1


def _decode(item: tuple[int, Path], *, mode: str, image_size: int | None, out: np.ndarray) -> None:
    from PIL import Image, ImageOps

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    place, path = item
    with _open(path) as image:
        image.load()  # before which the numbers of some formats are not known
        turn = turns.get(_orientation(image))
        # straight from a palette with transparency Pillow warns
        whole = image.convert("RGBA") if "transparency" in image.info else image
        plain = whole.convert(mode)
    if turn is not None:
        plain = plain.transpose(turn)
    if image_size is not None:
        plain = ImageOps.fit(plain, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain)
    out[place] = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
