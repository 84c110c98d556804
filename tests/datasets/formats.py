"""Files in the formats that the data sets were published in, written small."""

import gzip
import hashlib
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import scipy.io
from torchvision.datasets import CIFAR10, CIFAR100, STL10

CIFAR10_FILES = [file for file, _ in CIFAR10.train_list + CIFAR10.test_list]


def make_images(n: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how CIFAR-10 was published."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def write_batch(path: Path, images: np.ndarray, labels: list, **more: list) -> None:
    batch = {
        b"batch_label": b"a batch",
        **({key.encode(): values for key, values in more.items()} or {b"labels": labels}),
        b"data": images.reshape(len(images), -1),
        b"filenames": [b"image.png"] * len(images),
    }
    with path.open("wb") as file:
        _Python2Pickler(file, protocol=2).dump(batch)
    # NumPy's modules have moved since
    path.write_bytes(
        path.read_bytes().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    )


class Cifar10:
    """5,040 images of noise: five batches of 1,002 and a test batch of 30."""

    def __init__(self) -> None:
        self.images = [make_images(n, 32, seed) for seed, n in enumerate([1002] * 5 + [30])]
        numbers = np.random.default_rng(9)
        self.labels = [numbers.integers(0, 10, len(images)) for images in self.images]

    def write_python(self, root: Path) -> Path:
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for file, images, labels in zip(CIFAR10_FILES, self.images, self.labels, strict=True):
            write_batch(folder / file, images, labels.tolist())
        return folder

    def write_binary(self, root: Path) -> Path:
        folder = root / "cifar-10-batches-bin"
        folder.mkdir(parents=True)
        for file, images, labels in zip(CIFAR10_FILES, self.images, self.labels, strict=True):
            rows = np.hstack([labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)])
            (folder / f"{file}.bin").write_bytes(rows.tobytes())
        return folder


class Cifar100:
    """5,020 images of noise to train and 30 to test; fine and coarse labels."""

    def __init__(self) -> None:
        self.images = {"train": make_images(5020, 32, 0), "test": make_images(30, 32, 1)}
        numbers = np.random.default_rng(9)
        self.fine = {part: numbers.integers(0, 100, len(x)) for part, x in self.images.items()}
        self.coarse = {part: fine // 5 for part, fine in self.fine.items()}

    def write_python(self, root: Path) -> Path:
        folder = root / CIFAR100.base_folder
        folder.mkdir(parents=True)
        for part, images in self.images.items():
            labels = {"fine_labels": self.fine[part], "coarse_labels": self.coarse[part]}
            lists = {key: values.tolist() for key, values in labels.items()}
            write_batch(folder / part, images, [], **lists)
        return folder

    def write_binary(self, root: Path) -> Path:
        folder = root / "cifar-100-binary"
        folder.mkdir(parents=True)
        for part, images in self.images.items():
            labels = np.stack([self.coarse[part], self.fine[part]], 1).astype(np.uint8)
            rows = np.hstack([labels, images.reshape(len(images), -1)])
            (folder / f"{part}.bin").write_bytes(rows.tobytes())
        return folder


class Svhn:
    """5,020 digits of noise to train and 30 to test; 10 stands for the digit 0."""

    def __init__(self) -> None:
        self.images = {"train": make_images(5020, 32, 0), "test": make_images(30, 32, 1)}
        numbers = np.random.default_rng(9)
        self.labels = {
            part: numbers.integers(1, 11, len(images)) for part, images in self.images.items()
        }

    def write(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        for part in ("train", "test"):
            write_mat(root / f"{part}_32x32.mat", self.images[part], self.labels[part])
        return root


def write_mat(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    content = {"X": images.transpose(2, 3, 1, 0), "y": labels.astype(np.uint8)[:, None]}
    scipy.io.savemat(path, content)


class Stl10:
    """60 images of noise to train and 20 to test, six and two of each class."""

    def __init__(self) -> None:
        self.images = {"train": make_images(60, 96, 0), "test": make_images(20, 96, 1)}
        self.labels = {
            part: np.random.default_rng(9).permutation(len(images)) % 10 + 1
            for part, images in self.images.items()
        }

    def write(self, root: Path) -> Path:
        folder = root / STL10.base_folder
        folder.mkdir(parents=True)
        for part in ("train", "test"):
            columns_first = self.images[part].transpose(0, 1, 3, 2)
            (folder / f"{part}_X.bin").write_bytes(columns_first.tobytes())
            (folder / f"{part}_y.bin").write_bytes(self.labels[part].astype(np.uint8).tobytes())
        (folder / "class_names.txt").write_text("\n".join(map(str, range(10))))
        return folder


def idx_bytes(array: np.ndarray) -> bytes:
    """Write bytes as the page of MNIST describes the format."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 0x08, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


class FashionMnist:
    """5,020 images of noise to train and 30 to test."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(9)
        counts = {"train": 5020, "t10k": 30}
        self.images = {
            part: numbers.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            for part, n in counts.items()
        }
        self.labels = {part: numbers.integers(0, 10, n) for part, n in counts.items()}

    def write(self, folder: Path, *, unpacked: bool = False) -> Path:
        """Write the published files and, as torchvision leaves them, what is in them."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in self.images:
            for kind, array in (
                ("images-idx3", self.images[part]),
                ("labels-idx1", self.labels[part]),
            ):
                content = idx_bytes(array)
                name = f"{part}-{kind}-ubyte"
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
                if unpacked:
                    (folder / name).write_bytes(content)
        return folder


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder into an archive as published."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    return archive


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
