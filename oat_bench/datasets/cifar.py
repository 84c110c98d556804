"""CIFAR-10 and CIFAR-100 in either published format, read without running or unpickling anything.

Both are of Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from oat_bench.datasets import archives, pickled
from oat_bench.datasets.archives import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError, one_line
from oat_bench.files import read_bounded

if TYPE_CHECKING:
    import torchvision

_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Version:
    """One of the two.

    Attributes:
        name: of the data set.
        classes: their names.
        binary_folder: of the binary version.
        binary_files: those of the training images, then that of the test images.
        labels: key of the labels in a batch of the Python version.
        n_labels: bytes before an image in the binary version; the last is the label.
        max_bytes: of a file: some times what was published.
    """

    name: str
    classes: tuple[str, ...]
    binary_folder: str
    binary_files: tuple[str, ...]
    labels: bytes
    n_labels: int
    max_bytes: int

    @property
    def _batch(self) -> str:
        return f"a batch of {self.name.upper().replace('CIFAR', 'CIFAR-')}"

    def load(self, data_dir: Path, published: "type[torchvision.datasets.CIFAR10]") -> Dataset:
        """Read either format; download the Python one if there is none.

        Args:
            data_dir: holds the folder of a format, or the archive of the Python one.
            published: torchvision's class, which knows the archive, the files and their MD5.

        Raises:
            UserError: if the files are absent and cannot be downloaded, or are damaged.
        """
        md5 = dict(published.train_list + published.test_list)
        folder = archives.locate(data_dir, self.name, published.base_folder, md5)
        if folder is None:
            files = self.binary_files
            binary = archives.locate(data_dir, self.name, self.binary_folder, files)
            if binary is not None:
                return self._assemble([self.read_binary(binary / file) for file in files])
            source = Source(published.url, published.filename, published.tgz_md5)
            archive = archives.download(source, data_dir, self.name)
            members = [f"{published.base_folder}/{file}" for file in md5]
            archives.unpack(archive, members, data_dir)
            folder = data_dir / published.base_folder
        batches = [self.read_pickle(folder / file) for file in md5]
        archives.check_originals(self.name, folder, md5)
        return self._assemble(batches)

    def _assemble(self, batches: list[Split]) -> Dataset:
        *parts, test = batches
        train = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
        return hold_out_last(self.name, self.classes, train, test)

    def read_binary(self, path: Path) -> Split:
        """Read rows of labels and 3,072 pixels."""
        content = np.frombuffer(read_bounded(path, self.max_bytes, self._batch), np.uint8)
        row = self.n_labels + int(np.prod(_SHAPE))
        if content.size % row:
            raise UserError(f"{path}: damaged; {content.size} bytes are no multiple of {row}")
        rows = content.reshape(-1, row)
        images = rows[:, self.n_labels :].reshape(-1, *_SHAPE)
        return archives.make_split(path, images, rows[:, self.n_labels - 1], len(self.classes))

    def read_pickle(self, path: Path) -> Split:
        """Read a dictionary of ``data`` [n, 3072] and labels from a pickle."""
        content = read_bounded(path, self.max_bytes, self._batch)
        try:
            batch = pickled.read(content)
            images = batch[b"data"].pixels()
            images = images.reshape(len(images), *_SHAPE)
            labels = batch[self.labels]
            if not isinstance(labels, list) or any(type(label) is not int for label in labels):
                raise ValueError("the labels are not a list of integers")
            numbers = np.array(labels, dtype=np.int64)
        except Exception as error:  # what is damaged may fail in any way
            raise UserError(f"{path}: damaged, or not {self._batch} ({one_line(error)})") from error
        return archives.make_split(path, images, numbers, len(self.classes))
