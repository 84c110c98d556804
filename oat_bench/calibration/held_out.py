"""The images that a model is calibrated on: none that it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from oat_bench import classifier, datasets
from oat_bench.cards import publishable
from oat_bench.classifier import ModelInfo, check_compatible, trained_on
from oat_bench.datasets import DATA_DIR, Split
from oat_bench.errors import UserError
from oat_bench.files import sha256


@dataclass(frozen=True)
class HeldOut:
    """Images that a model was not trained on; an example's id is its place among them."""

    data: Split
    name: str  # for readers
    fingerprint: str  # in a store of outcomes; of a test split as of other commands


def held_out(
    info: ModelInfo,
    dataset: str,
    split: Literal["validation", "test"] = "validation",
    data_dir: str | Path = DATA_DIR,
    *,
    skip_broken: bool = False,
    image_size: int | None = None,
) -> HeldOut:
    """Load images to calibrate on: a split of the model's own data set, or a whole other folder."""
    datasets.check_known(dataset)
    is_folder = datasets.is_folder(dataset)
    if dataset != info.dataset and not is_folder:
        raise UserError(
            f"the model was trained on {info.dataset!r}, not on {dataset!r}; leave --dataset out, "
            "or name a folder of images of your own"
        )
    size = classifier.image_size(info, dataset, image_size)
    data = datasets.load(dataset, data_dir, skip_broken=skip_broken, image_size=size)
    check_compatible(info, data)
    own, named = trained_on(info, data), data.name == publishable(info.dataset)
    if own is False and named and is_folder:
        raise UserError(
            f"{dataset} has the name of the model's data set, but not quite its images: some may "
            "have been trained on; name a folder of images that the model has not seen, under "
            "another name"
        )
    if own:
        data = data.called(info.dataset)
    elif not named:
        parts = (data.train, data.validation, data.test)
        images = torch.cat([part.images for part in parts])
        whole = Split(images, torch.cat([part.labels for part in parts]), data.test.levels)
        return HeldOut(whole, f"the folder {data.name}", sha256(data.fingerprint(), "all"))
    if split == "test":
        return HeldOut(data.test, "the test split", data.fingerprint())
    if not len(data.validation):
        raise UserError(f"{data.name} has no validation images; take --split test")
    # ids count from 0 in every split: its own name keeps outcomes apart
    name = sha256(data.fingerprint(), "validation")
    return HeldOut(data.validation, "the validation split", name)
