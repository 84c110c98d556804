"""Street View House Numbers, cropped digits."""

from pathlib import Path

import numpy as np

from oat_bench.datasets import archives
from oat_bench.datasets.archives import Source
from oat_bench.datasets.matlab import read_arrays
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError, one_line

CLASSES = tuple(str(digit) for digit in range(10))


def svhn(data_dir: Path) -> Dataset:
    """House numbers, 32x32 in colour: 73,257 digits to train and 26,032 to test.

    SVHN (Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011),
    format 2. The last 5,000 training images are the validation split (OAT paper, section 4.1).

    Args:
        data_dir: holds ``train_32x32.mat`` and ``test_32x32.mat``.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import SVHN

    sources = [Source(*SVHN.split_list[part]) for part in ("train", "test")]
    files = [source.filename for source in sources]
    folder = archives.locate(data_dir, "svhn", "", files, partial=True) or data_dir
    wanted = " and ".join(source.url for source in sources)
    for source in sources:
        if not (folder / source.filename).is_file():
            archives.download(source, folder, "svhn", wanted)
    train, test = (_read(folder / file) for file in files)
    archives.check_originals("svhn", folder, {s.filename: s.md5 for s in sources})
    return hold_out_last("svhn", CLASSES, train, test)


def _read(path: Path) -> Split:
    """Read ``X`` [32, 32, 3, n] and ``y`` [n, 1], in which 10 stands for the digit 0."""
    try:
        content = read_arrays(path, ["X", "y"])
    except UserError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: damaged, or not a MATLAB file ({reason})") from error
    for variable in ("X", "y"):
        if variable not in content:
            raise UserError(f"{path}: has no variable {variable!r}; expected X and y")
    images, labels = content["X"], content["y"]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise UserError(
            f"{path}: X is {images.dtype} of shape {images.shape}; expected uint8 of shape "
            "(32, 32, 3, n)"
        )
    if labels.dtype.kind not in "ui" or labels.size != max(labels.shape, default=0):
        raise UserError(
            f"{path}: y is {labels.dtype} of shape {labels.shape}; expected integers of shape "
            "(n, 1)"
        )
    split = archives.make_split(path, images.transpose(3, 2, 0, 1), labels.ravel(), 10, 1)
    return Split(split.images, (split.labels + 1) % 10)
