"""Whatever names a model, turned into a classifier."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from oat_bench import checkpoint, datasets, deployment, wrapping
from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import DATA_DIR, Dataset
from oat_bench.errors import UserError
from oat_bench.registry import MODELS
from oat_bench.zoo import published

#: ``PLACE:what is there``; a letter alone is a drive
_PLACED = re.compile(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", re.DOTALL)


def load(
    model: str | Path,
    device: torch.device | str = "cpu",
    *,
    dataset: Dataset | str | Callable[[], Dataset] | None = None,
    data_dir: str | Path = DATA_DIR,
) -> TunableClassifier:
    """Load a model onto a device.

    Args:
        model: the path of a checkpoint, a run's folder or an exported file; ``./mine.py:build``,
            whose code is run; a published model, ``DATASET/NAME`` or ``DATASET/THREAT MODEL/NAME``
            (``oat-bench list models``); ``robustbench:DATASET/THREAT MODEL/NAME`` of its zoo; or
            ``hf:owner/name`` of the Hugging Face hub. What exists as a path is taken for one.
        device: where its weights go.
        dataset: what ``./mine.py:build`` classifies: a name, the path of a folder of images, what
            `oat_bench.datasets.load` returned, or a function that returns it.
        data_dir: where data sets are looked for, and downloaded to.

    Raises:
        UserError: if there is none, or it is damaged, or not what was published.
    """
    name = str(model)
    placed = _PLACED.fullmatch(name)
    if os.path.exists(name):  # noqa: PTH110  # False, not an error, of a name that is too long
        found = _at(name)
    elif wrapping.is_source(name):
        if dataset is None:
            raise UserError(f"{name}: name what it classifies with --dataset")
        if isinstance(dataset, str):
            data = datasets.load(dataset, data_dir)
        else:
            data = dataset if isinstance(dataset, Dataset) else dataset()
        found = wrapping.from_source(name, data)
    elif placed:
        found = MODELS[placed[1]](placed[2])
    elif published.is_name(name):
        found = checkpoint.load(published.find(name))
    else:
        found = _at(name)
    return found.to(device)


def _at(path: str) -> TunableClassifier:
    return deployment.load(path) if deployment.is_exported(path) else checkpoint.load(path)
