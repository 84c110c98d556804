"""CIFAR-100, with its fine labels."""

from pathlib import Path

from oat_bench.datasets.cifar import Version
from oat_bench.datasets.splits import Dataset

CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar",
    "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile",
    "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster",
    "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster",
    "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip
VERSION = Version(
    name="cifar100",
    classes=CLASSES,
    binary_folder="cifar-100-binary",
    binary_files=("train.bin", "test.bin"),
    labels=b"fine_labels",
    n_labels=2,
    max_bytes=1 << 29,  # thrice the published training images
)


def cifar100(data_dir: Path) -> Dataset:
    """Photographs of a hundred classes, 32x32 in colour: 50,000 to train and 10,000 to test.

    The last 5,000 training images are the validation split, as of CIFAR-10. Reads the Python and
    the binary version; downloads the Python one.

    Args:
        data_dir: holds ``cifar-100-python``, ``cifar-100-binary`` or the archive of the first.

    Raises:
        UserError: if the files are absent and cannot be downloaded, or are damaged.
    """
    from torchvision.datasets import CIFAR100

    return VERSION.load(data_dir, CIFAR100)
