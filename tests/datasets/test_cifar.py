"""CIFAR-10 and CIFAR-100 in both formats, against torchvision, and files that are not theirs."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from formats import CIFAR10_FILES, make_images, write_batch

from oat_bench import datasets
from oat_bench.benchmark import benchmark_card
from oat_bench.datasets import cifar
from oat_bench.errors import UserError

CLASSES = {"cifar10": cifar.CLASSES_10, "cifar100": cifar.CLASSES_100}
KEYS = {"cifar10": "label_names", "cifar100": "fine_label_names"}


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request):
    return request.param


@pytest.fixture
def folder(name, request, bless, tmp_path):
    """The Python version, taken for the published one."""
    folder = request.getfixturevalue(name).write_python(tmp_path / "python")
    bless(name.upper(), folder)
    return folder


def refusal(name, data_dir):
    with pytest.raises(UserError) as caught:
        datasets.load(name, data_dir)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_python_version_is_read_as_torchvision_reads_it(name, folder, monkeypatch, capfd):
    original = getattr(published, name.upper())
    meta = original.meta | {"md5": None}
    (folder / meta["filename"]).write_bytes(pickle.dumps({KEYS[name]: list(CLASSES[name])}))
    monkeypatch.setattr(original, "meta", meta)
    data = datasets.load(name, folder.parent)
    assert (data.name, data.classes, data.input_shape) == (name, CLASSES[name], (3, 32, 32))
    few = {"cifar10": 10, "cifar100": 20}[name]
    assert [len(split) for split in (data.train, data.validation, data.test)] == [few, 5000, 30]
    for train in (True, False):
        theirs = original(folder.parent, train=train)
        ours = [data.train, data.validation] if train else [data.test]
        images = torch.cat([split.images for split in ours]).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, theirs.data)
        assert torch.cat([split.labels for split in ours]).tolist() == theirs.targets
    assert capfd.readouterr().err == ""


def test_the_binary_version_is_the_same_data_set(name, folder, request, bless, tmp_path):
    binary = request.getfixturevalue(name).write_binary(tmp_path / "binary")
    with pytest.raises(UserError, match=rf"binary/.*: not the published .*\.bin of {name} \(MD5"):
        datasets.load(name, binary.parent)
    bless(name.upper(), binary)
    bless(name.upper(), folder)
    fingerprint = datasets.load(name, folder.parent).fingerprint()
    assert datasets.load(name, binary.parent).fingerprint() == fingerprint


@pytest.mark.parametrize(
    "place", ["", "cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py"]
)
@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_where_the_files_are_looked_for(folder, tmp_path, place):
    shutil.copytree(folder, tmp_path / "data" / place)
    assert len(datasets.load("cifar10", tmp_path / "data").test) == 30


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_batches_that_are_missing_cut_or_others_are_named(folder):
    whole = (folder / CIFAR10_FILES[1]).read_bytes()
    write_batch(folder / "test_batch", make_images(3, 32, 5), [1, 2, 3])
    message = refusal("cifar10", folder.parent)
    assert message.startswith(f"{folder}: not the published test_batch of cifar10 (MD5 differs)")
    assert "have the originals downloaded, or name other images as a folder" in message
    for content in (whole[: len(whole) // 2], whole[:-1], b""):
        (folder / CIFAR10_FILES[1]).write_bytes(content)
        assert "not the published data_batch_2, test_batch" in refusal("cifar10", folder)
    with (folder / CIFAR10_FILES[1]).open("r+b") as file:
        file.truncate(1 << 42)  # sparse: refused without reading 4 TiB
    assert "not the published data_batch_2, test_batch" in refusal("cifar10", folder)
    (folder / "data_batch_3").unlink()
    (folder / "test_batch").unlink()
    expected = f"{folder} lacks data_batch_3, test_batch of cifar10"
    assert expected in refusal("cifar10", folder.parent)


class Touch:
    """Creates a file when unpickled by something that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["whole", "data", "labels", "extra"])
@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_a_malicious_pickle_is_not_executed(folder, tmp_path, protocol, place, bless):
    trap, path = Touch(tmp_path / "executed"), folder / "test_batch"
    content = {b"data": make_images(2, 32, 0).reshape(2, -1), b"labels": [0, 1]}
    content = trap if place == "whole" else content | {place.encode(): trap}
    path.write_bytes(pickle.dumps(content, protocol))
    assert "not the published test_batch" in refusal("cifar10", folder)
    bless("CIFAR10", folder)  # not even if it were
    assert "a batch of CIFAR asks for " in refusal("cifar10", folder)
    assert not trap.path.exists()
    with path.open("rb") as file:
        pickle.load(file)  # it would have been
    assert trap.path.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"c__builtin__\ngetattr\n.",
        b"(ioat_bench.files\natomic_write\n.",
        b"\x82\x01.",  # a registered extension
    ],
)
def test_no_other_name_is_looked_up(tmp_path, code):
    path = tmp_path / "batch"
    path.write_bytes(code)
    with pytest.raises((UserError, ValueError), match=r"asks for|unregistered extension"):
        cifar.read_pickle(path)


def test_classes_are_in_alphabetical_order():
    assert [len(classes) for classes in CLASSES.values()] == [10, 100]
    assert all(sorted(classes) == list(classes) for classes in CLASSES.values())


@pytest.mark.parametrize("name", ["cifar100", "cifar100-small"])
def test_the_benchmarks_of_cifar_100_differ_in_the_data_set_only(name):
    card, other = benchmark_card(name), benchmark_card(name.replace("100", "10"))
    assert card.dataset == "cifar100"
    parts = ("network", "threat", "training", "evaluation", "method")
    assert all(getattr(card, part) == getattr(other, part) for part in parts)
