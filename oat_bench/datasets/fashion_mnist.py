"""Fashion-MNIST."""

from pathlib import Path

from oat_bench.datasets import archives, idx
from oat_bench.datasets.archives import Source
from oat_bench.datasets.splits import Dataset, Split, hold_out_last
from oat_bench.errors import UserError

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
PARTS = {"train": "train", "test": "t10k"}
#: of Debian's package dataset-fashion-mnist: the same bytes, without name and time in gzip's header
_DEBIAN = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}


def fashion_mnist(data_dir: Path) -> Dataset:
    """Pieces of clothing, 28x28 in grey: 60,000 to train and 10,000 to test.

    Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747). The last 5,000 training images are
    the validation split, as the OAT paper has it for its data sets of this size (section 4.1).

    Args:
        data_dir: holds ``train-images-idx3-ubyte.gz`` and the three others, or
            ``FashionMNIST/raw`` with them.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import FashionMNIST

    md5 = dict(FashionMNIST.resources)
    raw = "FashionMNIST/raw"
    folder = archives.locate(data_dir, "fashion-mnist", raw, md5, partial=True) or data_dir / raw
    sources = [Source(FashionMNIST.mirrors[0] + file, file, md5[file]) for file in md5]
    for source in sources:
        if not (folder / source.filename).is_file():
            wanted = f"{', '.join(md5)} from {FashionMNIST.mirrors[0]}"
            archives.download(source, folder, "fashion-mnist", wanted)
    train, test = (read_part(folder, part, size=28, suffix=".gz") for part in PARTS)
    archives.check_originals("fashion-mnist", folder, md5, _DEBIAN)
    return hold_out_last("fashion-mnist", CLASSES, train, test)


def read_part(folder: Path, part: str, *, size: int, suffix: str = "") -> Split:
    """Read the images and the labels of a part in the published files' names and format.

    Args:
        folder: holds both files.
        part: ``train`` or ``test``.
        size: height and width of the images.
        suffix: of the files' names.

    Raises:
        UserError: if they are absent, damaged or of other images.
    """
    path, beside = (
        folder / f"{PARTS[part]}-{kind}-ubyte{suffix}" for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = idx.read(path, 3), idx.read(beside, 1)
    if images.shape[1:] != (size, size):
        raise UserError(
            f"{path}: images of shape {images.shape[1:]}; expected {size} by {size} pixels"
        )
    return archives.make_split(f"{path} and {beside.name}", images[:, None], labels, len(CLASSES))
