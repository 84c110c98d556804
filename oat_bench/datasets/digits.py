"""Scikit-learn's handwritten digits, which need no download."""

from pathlib import Path

import numpy as np
import torch

from oat_bench.datasets.splits import Dataset, Split, nested_order


def digits(_data_dir: Path | None = None) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels (UCI test set of Optdigits).

    897 train, 100 validation and 800 test images, stratified, by a fixed seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.images.astype(np.uint8))[:, None]
    labels = torch.as_tensor(bunch.target).long()
    everything = Split(images, labels, levels=16)
    order = nested_order(labels, seed=0)
    index = {"train": order[900:], "validation": order[800:900], "test": order[:800]}
    return Dataset(
        "digits",
        tuple(str(digit) for digit in range(10)),
        train=everything.take(index["train"]),
        validation=everything.take(index["validation"]),
        test=everything.take(index["test"]),
        origin={name: ("all", places) for name, places in index.items()},
    )
