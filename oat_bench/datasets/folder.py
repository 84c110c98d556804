"""Any folder of images as a data set."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from oat_bench.cards import publishable
from oat_bench.datasets import layout, pictures
from oat_bench.datasets.layout import Layout
from oat_bench.datasets.splits import Dataset, Split, hold_out_tenth, stratified
from oat_bench.errors import UserError, one_line
from oat_bench.progress import note
from oat_bench.registry import DATASETS

_SHOWN = 12  # classes; of more, the first


def image_folder(
    path: str | Path,
    *,
    name: str | None = None,
    skip_broken: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Read a folder of images as a data set, and say on stderr in a line what it was taken for.

    Without splits a stratified fifth of the images is the test split; without a validation split a
    stratified tenth of the training images is. All must be of one size, or be made so; if one is in
    colour, all are read so. For the options see `oat_bench.datasets.load`.
    """
    root = Path(path)
    found = layout.find(root)
    others, ends = Counter[str](), dict[str, int]()
    files, labels = list[Path](), list[int]()
    for split, folders in found.folders.items():
        for label, folder in enumerate(folders):
            files += layout.images(root, folder, others)
            labels += [label] * (len(files) - len(labels))
        ends[split] = len(files)
    pixels, kept = pictures.read(root, files, skip_broken=skip_broken, image_size=image_size)
    everything = Split(torch.from_numpy(pixels), torch.tensor(labels))
    parts, start = {}, 0
    for split, end in ends.items():
        places = [place for place in kept if start <= place < end]
        if not places:
            raise UserError(f"{root}: not one image of {end - start} is readable")
        whole = len(places) == end - start  # and no pixel is copied
        parts[split] = everything.take(slice(start, end) if whole else torch.tensor(places))
        start = end
    name = name or free_name(layout.spelt(root.resolve().name))
    data = replace(_hold_out(name, root, found, parts), image_size=image_size)
    note(_told(root, found, data, others))
    return data


def free_name(text: str) -> str:
    """Make a name out of any text that can be published, and is not that of a known data set."""
    name = publishable(text)
    return f"{name[:57]}-folder" if name in DATASETS else name


def _hold_out(name: str, root: Path, found: Layout, parts: Mapping[str, Split]) -> Dataset:
    """Take the splits that no folder is there for out of the others."""
    if "all" in parts:
        everything = parts["all"]
        count = len(everything)
        places, kept = stratified(everything.labels, count // 5)
        if len(places) == 0:
            raise UserError(f"{root}: {count} images are too few to split; expected at least 5")
        test = everything.take(places)
        rest = everything.packed(kept)
        data = hold_out_tenth(name, found.classes, rest, test, pack=True)
        origin = {split: ("all", kept[index]) for split, (_, index) in data.origin.items()}
        return replace(data, origin=origin | {"test": ("all", places)})
    if "validation" in parts:
        data = Dataset(name, found.classes, parts["train"], parts["validation"], parts["test"])
    else:
        data = hold_out_tenth(name, found.classes, parts["train"], parts["test"], pack=True)
    whole = {split: (split, torch.arange(len(part))) for split, part in parts.items()}
    source = {split: layout.in_root(root, path).rstrip("/") for split, path in found.splits.items()}
    origin = {s: (source[part], index) for s, (part, index) in {**whole, **data.origin}.items()}
    return replace(data, origin=origin)


def _told(root: Path, found: Layout, data: Dataset, others: Counter[str]) -> str:
    """Say which folders are splits and classes, and how many images there are of each."""
    where = {split: f"from {layout.in_root(root, path)}" for split, path in found.splits.items()}
    if "all" in where:
        where = {"validation": "a tenth of the rest", "test": "a fifth"}
    elif "validation" not in where:
        where["validation"] = f"a tenth of {layout.in_root(root, found.splits['train'])}"
    sources = [
        f"{split} {len(images)}" + (f" ({where[split]})" if split in where else "")
        for split, images in data.splits.items()
    ]
    n = len(found.classes)
    counts = [split.labels.bincount(minlength=n).tolist() for split in data.splits.values()]
    classes = [
        f"{one_line(name, 40)} {'/'.join(map(str, numbers))}"
        for name, *numbers in zip(found.classes, *counts, strict=True)
    ]
    shown = ", ".join(classes[:_SHOWN]) + (", ..." if n > _SHOWN else "")
    left_out = [f"{layout.counted(others)} left out"] if others else []
    said = [f"{root}: {', '.join(sources)}", f"{n} classes: {shown}", *found.remarks, *left_out]
    return "; ".join(said)
