"""Any folder of images as a data set."""

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from oat_bench.datasets.splits import Dataset, Split, hold_out_tenth, stratified
from oat_bench.errors import UserError, one_line
from oat_bench.files import check_unfolded
from oat_bench.progress import note

#: formats that are read, whatever a file is called; Pillow would run Ghostscript on others
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
#: modes of Pillow that are read as grey levels and as colours
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_LAYOUT = "expected train/ and test/ with a folder for each class, or one folder for each class"
T = TypeVar("T")


class _File(NamedTuple):
    path: Path
    label: int


class _Header(NamedTuple):
    size: tuple[int, int]  # width, height
    mode: str


class _Broken(NamedTuple):
    reason: str


def image_folder(path: str | Path, *, skip_broken: bool = False) -> Dataset:
    """Read a folder of images as a data set that is called like the folder.

    Either ``train/`` and ``test/`` lie in it, each with a folder for each class, or the folders of
    the classes themselves; then a stratified fifth of the images, always the same, is the test
    split. A stratified tenth of the training images is the validation split. Classes are sorted by
    name, images by path. All images must be of one size. If one of them is in colour, all are read
    so; transparency is dropped. A link inside the folder may not lead out of it.

    Args:
        path: the folder.
        skip_broken: leave out images that cannot be read, and say how many.

    Raises:
        UserError: naming what is amiss and how to mend it.
    """
    from oat_bench.datasets import DATASETS

    root = Path(path)
    if not root.is_dir():
        raise UserError(f"no folder of images at {root}; {_LAYOUT}")
    name = root.resolve().name
    if name in DATASETS:  # never to be taken for the published data set
        name = f"{name}-folder"
    inside = _subfolders(root)
    given = [part for part in ("train", "test") if part in inside]
    if len(given) == 1:
        raise UserError(f"{root} holds of train/ and test/ only {given[0]}/; {_LAYOUT}")
    for part in given:
        _check_inside(root, root / part)
    if given:
        classes = tuple(_subfolders(root / "train"))
        _check_classes(root / "train", classes)
        _check_same_classes(root, classes, tuple(_subfolders(root / "test")))
        parts = [_files(root, root / part, classes) for part in given]
        train, test = _read(root, parts, skip_broken=skip_broken)
        return hold_out_tenth(name, classes, train, test)
    classes = tuple(inside)
    _check_classes(root, classes)
    (everything,) = _read(root, [_files(root, root, classes)], skip_broken=skip_broken)
    test_index, kept = stratified(everything.labels, len(everything) // 5)
    if len(test_index) == 0:
        raise UserError(
            f"{root}: {len(everything)} images are too few to split; expected at least 5"
        )
    data = hold_out_tenth(name, classes, everything.take(kept), everything.take(test_index))
    origin = {split: ("all", kept[index]) for split, (_, index) in data.origin.items()}
    return Dataset(
        name,
        classes,
        data.train,
        data.validation,
        data.test,
        origin=origin | {"test": ("all", test_index)},
    )


def _subfolders(folder: Path) -> list[str]:
    """List the folders in a folder, but for hidden ones, sorted by name."""
    try:
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        found = f"class folders found: {', '.join(classes) or 'none'}"
        raise UserError(f"{folder}: {found}; expected at least two ({_LAYOUT})")


def _check_same_classes(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    for one, other, which in ((train, test, ("train", "test")), (test, train, ("test", "train"))):
        alone = [name for name in one if name not in other]
        if alone:
            raise UserError(
                f"{root}: class {alone[0]!r} is in {which[0]}/ and not in {which[1]}/; expected "
                "the same class folders in both"
            )


def _check_inside(root: Path, path: Path) -> None:
    """Refuse a link to elsewhere: a folder from a stranger must not take in what lies around it."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{path} is a link that leads out of {root}; put what it leads to there in its place"
        )


def _files(root: Path, folder: Path, classes: Sequence[str]) -> list[_File]:
    """List the images of each class, at any depth, in order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = []
    for label, name in enumerate(classes):
        _check_inside(root, folder / name)
        found = [
            path
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in IMG_EXTENSIONS and path.name[0] != "." and path.is_file()
        ]
        if not found:
            raise UserError(
                f"{folder / name}: no image found; expected files that end in "
                f"{', '.join(IMG_EXTENSIONS)}"
            )
        for path in found:
            _check_inside(root, path)
        files += [_File(path, label) for path in found]
    return files


def _read(root: Path, parts: list[list[_File]], *, skip_broken: bool) -> list[Split]:
    """Read the images of each part; all of them have one shape."""
    files = [file for part in parts for file in part]
    headers = _attempts(_header, files)
    _check_alike(root, files, headers)
    sound = [header for header in headers if isinstance(header, _Header)]
    mode = "RGB" if any(header.mode in _COLOUR for header in sound) else "L"
    width, height = sound[0].size if sound else (0, 0)
    shape = (len(files), len(mode), height, width)
    check_unfolded(root, math.prod(shape), sum(file.path.stat().st_size for file in files))
    images = np.zeros(shape, np.uint8)
    # what has no header is not tried again
    found = [place for place, header in enumerate(headers) if isinstance(header, _Header)]
    decoded = _attempts(partial(_decode, mode=mode, out=images), [(p, files[p]) for p in found])
    broken = {p: header for p, header in enumerate(headers) if isinstance(header, _Broken)}
    for place, result in zip(found, decoded, strict=True):
        if isinstance(result, _Broken):
            broken[place] = result
    if broken:
        first = min(broken)
        named = f"{files[first].path}: not a readable image ({broken[first].reason})"
        if not skip_broken:
            raise UserError(f"{named}; replace it, or leave such images out with --skip-broken")
        note(f"{root}: {len(broken)} of {len(files)} images skipped, the first is {named}")
    labels = torch.tensor([file.label for file in files])
    everything = Split(torch.from_numpy(images), labels)
    splits, start = [], 0
    for part in parts:
        places = range(start, start + len(part))
        kept = [place for place in places if place not in broken]
        if not kept:
            raise UserError(f"{root}: not one image of {len(part)} is readable")
        # where all are, no pixel is copied
        whole = len(kept) == len(part)
        splits.append(
            everything.take(slice(places[0], places[-1] + 1) if whole else torch.tensor(kept))
        )
        start += len(part)
    return splits


def _attempts(function: Callable[[Any], T], items: Sequence[Any]) -> list[T | _Broken]:
    """Call a function on each item, in threads; what fails is broken."""
    from PIL import Image

    def attempt(item: Any) -> T | _Broken:
        try:
            return function(item)
        except MemoryError:
            raise
        except Exception as error:  # a decoder may fail in any way
            return _Broken(one_line(error) or type(error).__name__)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # what Pillow warns of is read or broken, the too large ones broken
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return list(pool.map(attempt, items))


def _header(file: _File) -> _Header:
    from PIL import Image

    with Image.open(file.path, formats=_FORMATS) as image:
        return _Header(image.size, image.mode)


def _check_alike(root: Path, files: list[_File], headers: Sequence[_Header | _Broken]) -> None:
    first: tuple[Path, _Header] | None = None
    for file, header in zip(files, headers, strict=True):
        if isinstance(header, _Broken):
            continue
        if header.mode not in _GREY + _COLOUR:
            raise UserError(
                f"{file.path}: pixels of type {header.mode}; expected 8-bit grey levels or "
                "colours: convert it"
            )
        if first is None:
            first = (file.path, header)
        elif header.size != first[1].size:
            sizes = ["x".join(map(str, size)) for size in (header.size, first[1].size)]
            raise UserError(
                f"{file.path} is {sizes[0]} pixels, {first[0]} is {sizes[1]}; all images of "
                f"{root} must be of one size: resize or crop them first"
            )


def _decode(item: tuple[int, _File], *, mode: str, out: np.ndarray) -> None:
    from PIL import Image

    place, file = item
    with Image.open(file.path, formats=_FORMATS) as image:
        # straight from a palette with transparency Pillow warns
        whole = image.convert("RGBA") if "transparency" in image.info else image
        pixels = np.asarray(whole.convert(mode))
    out[place] = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
