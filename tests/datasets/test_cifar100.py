"""CIFAR-100 in both formats, against torchvision."""

import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from formats import md5, pack

from oat_bench import datasets
from oat_bench.benchmark import benchmark_card
from oat_bench.datasets.cifar100 import CLASSES, VERSION
from oat_bench.errors import UserError


@pytest.fixture(scope="module")
def folder(cifar100, tmp_path_factory):
    """A folder with the Python version; not to be written to."""
    return cifar100.write_python(tmp_path_factory.mktemp("python"))


def test_the_python_version_is_read_as_torchvision_reads_it(folder, bless, monkeypatch, capfd):
    bless("CIFAR100", folder)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CLASSES)}))
    monkeypatch.setattr(published.CIFAR100, "meta", published.CIFAR100.meta | {"md5": None})
    data = datasets.load("cifar100", folder.parent)
    assert (data.name, data.classes, data.input_shape) == ("cifar100", CLASSES, (3, 32, 32))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 5000, 30]
    for train in (True, False):
        theirs = published.CIFAR100(folder.parent, train=train)
        ours = [data.train, data.validation] if train else [data.test]
        images = torch.cat([split.images for split in ours]).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, theirs.data)
        assert torch.cat([split.labels for split in ours]).tolist() == theirs.targets
    assert capfd.readouterr().err == ""


def test_the_binary_version_is_the_same_data_set(cifar100, folder, tmp_path):
    cifar100.write_binary(tmp_path)
    binary = datasets.load("cifar100", tmp_path)
    assert binary.fingerprint() == datasets.load("cifar100", folder.parent).fingerprint()


def test_it_comes_out_of_the_published_archive(folder, bless, monkeypatch, tmp_path):
    bless("CIFAR100", folder)
    archive = pack(folder, tmp_path / published.CIFAR100.filename)
    with pytest.raises(UserError, match=r"cifar-100-python.tar.gz is damaged \(MD5 differs"):
        datasets.load("cifar100", tmp_path)
    monkeypatch.setattr(published.CIFAR100, "tgz_md5", md5(archive))
    data = datasets.load("cifar100", tmp_path)
    assert data.fingerprint() == datasets.load("cifar100", folder.parent).fingerprint()


def test_classes_are_a_hundred_in_alphabetical_order():
    assert len(CLASSES) == 100
    assert sorted(CLASSES) == list(CLASSES)


def test_a_batch_of_cifar_10_is_none(cifar10, tmp_path):
    path = cifar10.write_python(tmp_path) / "test_batch"
    with pytest.raises(UserError, match="damaged, or not a batch of CIFAR-100"):
        VERSION.read_pickle(path)


@pytest.mark.parametrize("name", ["cifar100", "cifar100-small"])
def test_the_benchmarks_differ_from_those_of_cifar_10_in_the_data_set(name):
    card, other = benchmark_card(name), benchmark_card(name.replace("100", "10"))
    assert card.dataset == "cifar100"
    parts = ("network", "threat", "training", "evaluation", "method")
    assert all(getattr(card, part) == getattr(other, part) for part in parts)
