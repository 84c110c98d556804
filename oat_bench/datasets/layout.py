"""Which folders in a folder of images are splits, and which are classes."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from oat_bench.errors import UserError, one_line

#: endings of files that are taken for images
ENDINGS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif",
)  # fmt: skip
_LAYOUT = "expected train/ and test/ with a folder for each class, or one folder for each class"
#: what file systems and programs leave in folders, in small letters; hidden names begin with a dot
_SYSTEM = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
#: words in names of folders that say which split they are
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction", "unlabeled", "unlabelled"), "unlabelled"),
}


@dataclass(frozen=True)
class Layout:
    """What a folder of images holds."""

    classes: tuple[str, ...]  # sorted
    splits: dict[str, Path]  # train and test, perhaps validation; or all
    folders: dict[str, list[Path]]  # for each split, those of the classes in their order
    remarks: list[str]  # what a reader might not expect


def spelt(name: str) -> str:
    """Return a file's name as UTF-8 spells it, `composed`, whatever locale and file system."""
    return composed(os.fsencode(name).decode("utf-8", "backslashreplace"))


def composed(name: str) -> str:
    """Return a name with one code for a letter and its accents: as on Linux, unlike on a Mac."""
    return unicodedata.normalize("NFC", name)


def find(root: Path) -> Layout:
    """Tell splits by their names (``Train``, ``seg_test``) from classes; refuse what is unclear."""
    if not root.is_dir():
        raise UserError(f"no folder of images at {root}; {_LAYOUT}")
    top = _unwrapped(root, root)
    chosen, remarks = _choose(root, top)
    of_split = {
        split: {spelt(path.name): path for path in _classes(root, folder)}
        for split, folder in chosen.items()
    }
    first, *others = of_split
    for split in others:
        for name in sorted(of_split[first].keys() ^ of_split[split].keys()):
            here, there = (first, split) if name in of_split[first] else (split, first)
            raise UserError(
                f"{root}: class {name!r} is in {in_root(root, chosen[here])} and not in "
                f"{in_root(root, chosen[there])}; expected the same class folders in both"
            )
    classes = tuple(sorted(of_split[first]))
    folders = {split: [found[name] for name in classes] for split, found in of_split.items()}
    return Layout(classes, chosen, folders, [*remarks, *_loose(root, top, chosen)])


def images(root: Path, folder: Path, others: Counter[str]) -> list[Path]:
    """List the images in a class's folder, at any depth, in order; count others by their ending."""
    found, passed = [], Counter[str]()
    for path in _files(folder):
        if path.suffix.lower() in ENDINGS:
            _check_inside(root, path)
            found.append(path)
        else:
            passed[path.suffix.lower() or path.name] += 1
    if not found:
        instead = f"; it holds {counted(passed)}" if passed else ""
        raise UserError(
            f"{folder}: no image found; expected files that end in {', '.join(ENDINGS)}{instead}"
        )
    others += passed
    return found


def counted(others: Counter[str]) -> str:
    """Say how many files there are, by their endings."""
    shown = [f"{count} {one_line(spelt(kind), 20)}" for kind, count in others.most_common(4)]
    return " and ".join(shown) + (" files" if len(others) <= 4 else " and other files")


def in_root(root: Path, path: Path) -> str:
    """Return a folder's path from the root, for readers, such as ``train/``; of the root none."""
    return one_line("".join(f"{spelt(part)}/" for part in path.relative_to(root).parts))


def _entries(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    return [p for p in found if p.name[0] != "." and p.name.lower() not in _SYSTEM]


def _files(folder: Path) -> Iterator[Path]:
    for path in _entries(folder):
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _files(path)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _loose_images(folder: Path) -> int:
    return sum(path.suffix.lower() in ENDINGS for path in _entries(folder) if path.is_file())


def _unwrapped(root: Path, folder: Path) -> Path:
    """Pass through folders that hold one folder and no image, as archives often unpack to."""
    inside = _subfolders(folder)
    # the only split is no mere wrapping
    if len(inside) != 1 or _loose_images(folder) or _kind(inside[0]) not in (None, _kind(folder)):
        return folder
    _check_inside(root, inside[0])
    return _unwrapped(root, inside[0]) if _subfolders(inside[0]) else folder


def _check_inside(root: Path, path: Path) -> None:
    """Refuse a link to elsewhere: a folder from a stranger must not take in what lies around it."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{path} is a link that leads out of {root}; put what it leads to there in its place"
        )


def _words(path: Path) -> list[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.name).lower()
    return [word.removesuffix("set") for word in re.findall(r"[^\W\d_]+", parted)]


def _kind(path: Path) -> str | None:  # the split that a folder's name speaks of
    kinds = {_WORDS[word] for word in _words(path) if word in _WORDS}
    return kinds.pop() if len(kinds) == 1 else None


def _exact(path: Path) -> bool:  # the name of a split and no more
    return all(word in (*_WORDS, "") for word in _words(path))


def _choose(root: Path, top: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folder of each split, train and test among them or ``all``, and remarks."""
    inside = _subfolders(top)
    named = {path: kind for path in inside if (kind := _kind(path))}
    for path in named:
        _check_inside(root, path)
    parted = {path: kind for path, kind in named.items() if _subfolders(path)}
    several = len(set(named.values())) > 1
    # one class of many may be called "train"
    if not parted or not (several or not any(_loose_images(p) for p in inside if p not in named)):
        exact = {kind for path, kind in named.items() if _exact(path)}
        if len(exact) > 1 or (several and len(named) == len(inside)):
            shown = " and ".join(f"{spelt(path.name)}/" for path in named)
            raise UserError(
                f"{top}: {shown} look like splits, but hold no class folders; put the images into "
                "a folder for each class in each of them, or rename them if they are classes"
            )
        return {"all": top}, []
    found: dict[str, Path] = {}
    for split in ("train", "test", "validation"):
        paths = [path for path, kind in parted.items() if kind == split]
        paths = [path for path in paths if _exact(path)] or paths
        if len(paths) > 1:
            both = " and ".join(in_root(root, path) for path in paths[:2])
            raise UserError(
                f"{root}: {both} both look like the {split} split; keep one of them there"
            )
        if paths:
            found[split] = paths[0]
    remarks = []
    if found.keys() == {"train", "validation"}:
        found["test"] = found.pop("validation")
        remarks.append(f"{in_root(root, found['test'])} is the test split, as there is no other")
    if not {"train", "test"} <= found.keys():
        shown = ", ".join(in_root(root, path) for path in found.values()) or "neither"
        unlabelled = [path for path in named if path not in parted]
        reason = f" ({in_root(root, unlabelled[0])} has no class folders)" if unlabelled else ""
        remedy = f", or name {found['train']} to hold a fifth of it out" if "train" in found else ""
        raise UserError(f"{root} holds of train/ and test/ only {shown}{reason}; {_LAYOUT}{remedy}")
    for path in (path for path in inside if path not in found.values()):
        reason = "" if _subfolders(path) else " (no class folders)"
        remarks.append(f"{in_root(root, path)} is left out{reason}")
    return {kind: _unwrapped(root, path) for kind, path in found.items()}, remarks


def _classes(root: Path, folder: Path) -> list[Path]:
    classes = _subfolders(folder)
    names = [spelt(path.name) for path in classes]
    if len(classes) < 2:
        found = f"class folders found: {', '.join(names) or 'none'}"
        raise UserError(f"{folder}: {found}; expected at least two ({_LAYOUT})")
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{folder}: two folders are called {name!r}; rename one of them")
    inner = []
    for path, name in zip(classes, names, strict=True):
        _check_inside(root, path)
        subs = _subfolders(path)
        inner.append(sorted(spelt(sub.name) for sub in subs))
        if len({kind for sub in subs if (kind := _kind(sub))}) > 1:
            raise UserError(
                f"{path} holds {_listed(inner[-1])}; put the splits outermost, train/{name}/ and "
                f"test/{name}/"
            )
    if len(inner[0]) > 1 and all(subs == inner[0] for subs in inner):
        raise UserError(
            f"{folder}: each of {_listed(names)} holds the folders {_listed(inner[0])}, as "
            "splits do; call splits train/ and test/, or put the images of a class straight into "
            "its folder"
        )
    return classes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:4]) + (", ..." if len(names) > 4 else "")


def _loose(root: Path, top: Path, chosen: dict[str, Path]) -> Iterator[str]:
    for folder in dict.fromkeys([top, *chosen.values()]):
        if count := _loose_images(folder):
            where = in_root(root, folder) or "the folder itself"
            yield f"{count} image{'s' if count > 1 else ''} straight in {where} left out"
