"""CIFAR-10 in both formats, against torchvision, and files that are not it."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from formats import CIFAR10_FILES, make_images, write_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench import datasets
from oat_bench.datasets.cifar10 import CLASSES, VERSION
from oat_bench.errors import UserError


@pytest.fixture(scope="module")
def folder(cifar10, tmp_path_factory):
    """A folder with the Python version; not to be written to."""
    return cifar10.write_python(tmp_path_factory.mktemp("python"))


@pytest.fixture
def batch(tmp_path):
    """A batch of ten images that a test may spoil."""
    path = tmp_path / "data_batch_1"
    write_batch(path, make_images(10, 32, 0), list(range(10)))
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        VERSION.read_pickle(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


def test_the_python_version_is_read_as_torchvision_reads_it(folder, bless, monkeypatch, capfd):
    bless("CIFAR10", folder)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    meta = published.CIFAR10.meta | {"md5": None}
    monkeypatch.setattr(published.CIFAR10, "meta", meta)
    data = datasets.load("cifar10", folder.parent)
    assert data.name == "cifar10"
    assert data.classes == CLASSES
    assert data.input_shape == (3, 32, 32)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 5000, 30]
    for train in (True, False):
        theirs = published.CIFAR10(folder.parent, train=train)
        ours = [data.train, data.validation] if train else [data.test]
        images = torch.cat([split.images for split in ours]).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, theirs.data)
        assert torch.cat([split.labels for split in ours]).tolist() == theirs.targets
    assert capfd.readouterr().err == ""


def test_files_that_are_not_the_published_ones_are_told_of(folder, bless, capfd, tmp_path):
    datasets.load("cifar10", folder.parent)
    note = capfd.readouterr().err
    assert "data_batch_1, data_batch_2" in note
    assert "not comparable with others' cifar10" in note
    assert len(note.splitlines()) == 1
    bless("CIFAR10", folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    write_batch(other / "test_batch", make_images(3, 32, 5), [1, 2, 3])
    assert len(datasets.load("cifar10", other).test) == 3
    assert f"{other}: test_batch differs from what was published" in capfd.readouterr().err


def test_the_binary_version_is_the_same_data_set(cifar10, folder, tmp_path):
    cifar10.write_binary(tmp_path)
    binary, python = datasets.load("cifar10", tmp_path), datasets.load("cifar10", folder.parent)
    assert binary.fingerprint() == python.fingerprint()


@pytest.mark.parametrize(
    "place", ["", "cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py"]
)
def test_where_the_files_are_looked_for(folder, tmp_path, place):
    shutil.copytree(folder, tmp_path / "data" / place)
    assert len(datasets.load("cifar10", tmp_path / "data").test) == 30


def test_a_missing_batch_is_named(folder, tmp_path):
    copy = tmp_path / "cifar-10-batches-py"
    shutil.copytree(folder, copy)
    (copy / "data_batch_3").unlink()
    (copy / "test_batch").unlink()
    with pytest.raises(UserError) as caught:
        datasets.load("cifar10", tmp_path)
    assert f"{copy} lacks data_batch_3, test_batch of cifar10" in str(caught.value)


def test_too_few_images_to_hold_five_thousand_out(folder, tmp_path):
    copy = tmp_path / "few"
    shutil.copytree(folder, copy)
    write_batch(copy / "data_batch_1", make_images(5, 32, 0), [0] * 5)
    with pytest.raises(UserError, match="4013 training images; expected more than 5000"):
        datasets.load("cifar10", copy)


def test_a_batch_written_by_a_newer_python(tmp_path):
    path, images = tmp_path / "batch", make_images(4, 32, 0)
    content = {b"data": images.reshape(4, -1), b"labels": [3, 2, 1, 0]}
    for protocol in (3, 4):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        split = VERSION.read_pickle(path)
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == [3, 2, 1, 0]


class Touch:
    """Creates a file when unpickled by something that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["whole", "data", "labels", "extra"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol, place):
    trap, path = Touch(tmp_path / "executed"), tmp_path / "data_batch_1"
    content = {b"data": make_images(2, 32, 0).reshape(2, -1), b"labels": [0, 1]}
    path.write_bytes(
        pickle.dumps(trap if place == "whole" else content | {place.encode(): trap}, protocol)
    )
    assert "asks for " in refusal(path)
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
        b"ioat_bench.files\natomic_write\n.",
    ],
)
def test_only_arrays_are_admitted(tmp_path, code):
    path = tmp_path / "batch"
    path.write_bytes(code)
    refusal(path)


@settings(max_examples=80, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_batch_cut_anywhere_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.getbasetemp() / "cut_batch"
    write_batch(path, make_images(10, 32, 0), list(range(10)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged, or not a batch of CIFAR-10" in refusal(path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (make_images(3, 32, 0), [0, 1], "3 images with 2 labels"),
        (make_images(2, 32, 0), [0, 1, 2], "2 images with 3 labels"),
        (make_images(3, 32, 0), [0, 10, 1], "label 10 of image 1 is out of range; expected 0 to 9"),
        (make_images(3, 32, 0), [0, 1, -1], "label -1 of image 2 is out of range; expected 0 to 9"),
        (make_images(3, 32, 0), [0, 1, 0.5], "the labels are not a list of integers"),
        (make_images(3, 32, 0), [0, 1, [2]], "damaged, or not a batch"),
        (make_images(3, 32, 0), [0, 1, b"cat"], "the labels are not a list of integers"),
        (make_images(3, 31, 0), [0, 1, 2], "damaged, or not a batch"),
        (make_images(3, 32, 0).astype(np.float32), [0, 1, 2], "an array that is not of bytes"),
        (np.asfortranarray(make_images(3, 32, 0).reshape(3, -1)), [0, 1, 2], "in Fortran's order"),
    ],
)
def test_mislabelled_and_misshapen_batches(batch, images, labels, message):
    write_batch(batch, images, labels)
    assert message in refusal(batch)


@pytest.mark.parametrize("content", [[1, 2], {b"data": b"", b"labels": []}, {b"labels": [1]}, None])
def test_a_pickle_of_something_else(batch, content):
    batch.write_bytes(pickle.dumps(content, 2))
    assert "damaged, or not a batch of CIFAR-10" in refusal(batch)


def test_binary_files_that_are_cut_or_mislabelled(cifar10, tmp_path):
    path = cifar10.write_binary(tmp_path) / f"{CIFAR10_FILES[1]}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="bytes are no multiple of 3073"):
        datasets.load("cifar10", tmp_path)
    path.write_bytes(content[: 3073 * 7] + b"\x0a" + content[3073 * 7 + 1 :])
    with pytest.raises(UserError, match="label 10 of image 7 is out of range; expected 0 to 9"):
        datasets.load("cifar10", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="holds no image"):
        datasets.load("cifar10", tmp_path)
