"""Data sets: functions from a folder to a `Dataset`, by name, and any folder of images."""

import os
from pathlib import Path

from oat_bench.datasets.folder import free_name, image_folder
from oat_bench.datasets.splits import Dataset, Split, check_arrays, nested_order
from oat_bench.errors import UserError, unknown
from oat_bench.registry import DATASETS, dataset_meant

__all__ = [
    "BUNDLED",
    "DATASETS",
    "DATA_DIR",
    "Dataset",
    "Split",
    "check_arrays",
    "check_known",
    "image_folder",
    "is_folder",
    "load",
    "nested_order",
]

BUNDLED = ("fashion-12x12", "digits")  # with the package, or with one that it needs
DATA_DIR = Path("data")  # where others are looked for, and downloaded to


def unnamed_folder(_data_dir: Path) -> Dataset:
    """Any folder of images, by its path: train/ and test/ with a folder a class, or one a class."""
    raise UserError("an image folder is named by its path, such as --dataset ./my-images")


def is_folder(name: str) -> bool:
    """Whether a name is no known one, and has a separator in it or is a folder's."""
    separated = any(separator in name for separator in (os.sep, os.altsep) if separator)
    return name not in DATASETS and (separated or os.path.isdir(name))  # noqa: PTH112


def check_known(name: str) -> None:
    """Refuse what is neither a data set nor the path of a folder, with the nearest names."""
    if name not in DATASETS and not is_folder(name):
        raise unknown("data set", name, [known for known in DATASETS if known != "image-folder"])


def load(
    name: str,
    data_dir: str | Path = DATA_DIR,
    *,
    label: str | None = None,
    skip_broken: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Load a data set.

    Args:
        name: one of `DATASETS`, or the path of a folder of images.
        data_dir: where its files are looked for, and downloaded to if they are not there.
        label: what a folder is called; made from its own name if None.
        skip_broken: leave out the images of a folder that cannot be read or do not fit.
        image_size: pixels that the shorter side of a folder's images is resized to, of which the
            centre is kept.

    Raises:
        UserError: if there is none of that name, or its files are absent or damaged.
    """
    name = dataset_meant(name)
    check_known(name)
    if is_folder(name):
        if label is not None and label != (free := free_name(label)):
            raise UserError(
                f"--dataset-name {label!r}: expected up to 64 letters, digits and . _ + -, and no "
                f"name of a published data set; such as {free}"
            )
        return image_folder(name, name=label, skip_broken=skip_broken, image_size=image_size)
    for option, value in (("--dataset-name", label), ("--image-size", image_size)):
        if value is not None:
            raise UserError(f"{option} is for folders of images; {name!r} is a published data set")
    found: Dataset = DATASETS[name](Path(data_dir))
    return found
