"""Street View House Numbers, cropped digits."""

from pathlib import Path

import numpy as np
import torch

from oat_bench.datasets import originals
from oat_bench.datasets.originals import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last


def svhn(data_dir: Path) -> Dataset:
    """House numbers, 32x32 in colour: 73,257 digits to train and 26,032 to test.

    SVHN (Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011),
    format 2. The last 5,000 training images are the validation split (OAT paper, section 4.1).
    ``data_dir`` holds ``train_32x32.mat`` and ``test_32x32.mat``.
    """
    from torchvision.datasets import SVHN

    sources = [Source(*SVHN.split_list[part]) for part in ("train", "test")]
    folder = originals.one_by_one("svhn", data_dir, sources)
    train, test = (_read(folder / source.filename) for source in sources)
    return hold_out_last("svhn", tuple("0123456789"), train, test)


def _read(path: Path) -> Split:
    """Read ``X`` [32, 32, 3, n] and ``y`` [n, 1], in which 10 stands for the digit 0."""
    from scipy.io import loadmat

    content = loadmat(path, variable_names=["X", "y"])
    images = content["X"].transpose(3, 2, 0, 1).copy()
    labels = content["y"].ravel().astype(np.int64) % 10
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
