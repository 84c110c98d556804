"""CIFAR-10-C and CIFAR-100-C in their true format, of three images, and files that are not it."""

import os

import numpy as np
import pytest
import torch

from oat_bench.datasets import cifar_c
from oat_bench.errors import UserError

LABELS = torch.tensor([3, 0, 9])


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def folder(tmp_path):
    """A folder with all files; returns its path."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for name in (*cifar_c.CORRUPTIONS, "speckle_noise"):
        np.save(folder / f"{name}.npy", numbers.integers(0, 256, (15, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(LABELS.numpy(), 5).astype(np.uint8))
    return folder


def test_images_are_those_of_the_severity_and_the_example(folder, capfd):
    found = cifar_c.find("cifar10", folder.parent, LABELS)
    assert list(found.files) == list(cifar_c.CORRUPTIONS)
    assert len(cifar_c.CORRUPTIONS) == 15
    for name in ("fog", "jpeg_compression"):
        whole = np.load(folder / f"{name}.npy").reshape(5, 3, 32, 32, 3)
        for severity in (1, 4, 5):
            images = found(name, severity, torch.tensor([2, 0]))
            expected = whole[severity - 1, [2, 0]]
            assert images.dtype == np.uint8
            assert np.array_equal(images, np.moveaxis(expected, 3, 1))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("cifar10", "CIFAR-10-C, from 2535967"), ("cifar100", "CIFAR-100-C, from 3555552")],
)
def test_without_the_folder_a_line_says_where_it_is(tmp_path, capfd, name, words):
    assert cifar_c.find(name, tmp_path, LABELS) is None
    err = capfd.readouterr().err
    published, record = words.split(", from ")
    assert err.count("\n") == 1
    assert f"{tmp_path / published} is not there" in err
    assert f"https://zenodo.org/records/{record}" in err


def wrong(shape=(15, 32, 32, 3), dtype=np.uint8):
    return lambda path: np.save(path, np.zeros(shape, dtype))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def trapped(path):
    array = np.empty(15, object)
    array[:] = [Touch(path.parent / "executed")] * 15
    np.save(path, array, allow_pickle=True)


def endless(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(15, 32, 32, 3)", b"(15, 3232323, 3)"[:15], 1))


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("fog", lambda path: path.unlink(), "lacks fog.npy; unpack https://zenodo.org"),
        ("fog", wrong((12, 32, 32, 3)), "uint8 of shape (12, 32, 32, 3); expected uint8 of shape"),
        ("fog", wrong(dtype=np.float32), "float32 of shape (15, 32, 32, 3); expected uint8"),
        ("fog", cut, "damaged, or not an array of NumPy"),
        ("fog", trapped, "damaged, or not an array of NumPy"),
        ("fog", endless, "damaged, or not an array of NumPy"),
        ("fog", lambda path: path.write_bytes(b""), "damaged, or not an array of NumPy"),
        ("fog", lambda path: path.write_bytes(b"PK\3\4" * 99), "damaged, or not an array"),
        ("labels", wrong((15,)), "expected the labels of the test set of cifar10 5 times over"),
        ("labels", wrong((15,), np.float64), "float64 of shape (15,); expected uint8 or int32"),
        ("labels", wrong((15, 1)), "uint8 of shape (15, 1); expected uint8 or int32 or int64"),
        ("labels", trapped, "damaged, or not an array of NumPy"),
    ],
)
def test_files_that_are_not_it_are_refused_in_a_line(folder, file, spoil, words):
    spoil(folder / f"{file}.npy")
    with pytest.raises(UserError) as caught:
        cifar_c.find("cifar10", folder.parent, LABELS)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert words in message
    assert len(message.splitlines()) == 1
    assert not (folder / "executed").exists()
