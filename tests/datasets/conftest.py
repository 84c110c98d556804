"""Small data sets as published, whose files count as the original ones if asked."""

import pytest
import torchvision.datasets as published
from formats import Cifar10, Cifar100, FashionMnist, Stl10, Svhn, md5

from oat_bench.datasets import cifar


@pytest.fixture(scope="session")
def cifar10():
    return Cifar10()


@pytest.fixture(scope="session")
def cifar100():
    return Cifar100()


@pytest.fixture(scope="session")
def svhn():
    return Svhn()


@pytest.fixture(scope="session")
def stl10():
    return Stl10()


@pytest.fixture(scope="session")
def fashion_mnist():
    return FashionMnist()


@pytest.fixture
def bless(monkeypatch):
    """Make the files of a folder the published ones of a class of torchvision's."""

    def bless(name, folder):
        original = getattr(published, name)

        def blessed(file, checksum):
            return md5(folder / file) if (folder / file).is_file() else checksum

        if name == "FashionMNIST":
            found = [(file, blessed(file, old)) for file, old in original.resources]
            monkeypatch.setattr(original, "resources", found)
            return
        if name == "SVHN":
            parts = original.split_list.items()
            found = {part: [url, file, blessed(file, old)] for part, (url, file, old) in parts}
            monkeypatch.setattr(original, "split_list", found)
            return
        for which in ("train_list", "test_list"):
            found = [[file, blessed(file, old)] for file, old in getattr(original, which)]
            monkeypatch.setattr(original, which, found)
        if name.lower() in cifar.BINARY:
            inside, binary = cifar.BINARY[name.lower()]
            found = {file: blessed(file, old) for file, old in binary.items()}
            monkeypatch.setitem(cifar.BINARY, name.lower(), (inside, found))

    return bless
