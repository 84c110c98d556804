"""SVHN's .mat files, against torchvision, and files that are not it."""

import shutil

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as published
from formats import make_images, write_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench import datasets
from oat_bench.datasets.svhn import _read
from oat_bench.errors import UserError


@pytest.fixture(scope="module")
def folder(svhn, tmp_path_factory):
    """A folder with both files; not to be written to."""
    return svhn.write(tmp_path_factory.mktemp("svhn"))


def refusal(path):
    with pytest.raises(UserError) as caught:
        _read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


def test_the_files_are_read_as_torchvision_reads_them(folder, bless, capfd):
    bless("SVHN", folder)
    data = datasets.load("svhn", folder)
    assert data.classes == tuple("0123456789")
    assert data.input_shape == (3, 32, 32)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 5000, 30]
    for part in ("train", "test"):
        theirs = published.SVHN(folder, split=part)
        ours = [data.train, data.validation] if part == "train" else [data.test]
        assert np.array_equal(torch.cat([split.images for split in ours]).numpy(), theirs.data)
        assert np.array_equal(torch.cat([split.labels for split in ours]).numpy(), theirs.labels)
    assert capfd.readouterr().err == ""


def test_ten_is_the_digit_zero(svhn, folder):
    data = datasets.load("svhn", folder)
    labels = torch.cat([data.train.labels, data.validation.labels]).numpy()
    zeros = svhn.labels["train"] == 10
    assert zeros.any()
    assert np.array_equal(labels == 0, zeros)
    assert np.array_equal(labels[~zeros], svhn.labels["train"][~zeros])


def test_other_files_than_the_published_ones_are_told_of(folder, capfd):
    datasets.load("svhn", folder)
    note = capfd.readouterr().err
    assert "train_32x32.mat, test_32x32.mat differ from what was published (MD5)" in note
    assert len(note.splitlines()) == 1


@pytest.mark.parametrize("place", ["", "svhn"])
def test_where_the_files_are_looked_for(folder, tmp_path, place):
    shutil.copytree(folder, tmp_path / "data" / place)
    assert len(datasets.load("svhn", tmp_path / "data").test) == 30


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), compressed=st.booleans())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, share, compressed):
    path = tmp_path_factory.getbasetemp() / "cut.mat"
    content = {"X": make_images(8, 32, 0).transpose(2, 3, 1, 0), "y": np.full((8, 1), 1, np.uint8)}
    scipy.io.savemat(path, content, do_compression=compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": np.ones((2, 1), np.uint8)}, "has no variable 'X'; expected X and y"),
        ({"X": make_images(2, 32, 0).transpose(2, 3, 1, 0)}, "has no variable 'y'"),
        ({"X": make_images(2, 32, 0), "y": np.ones((2, 1), np.uint8)}, "of shape (2, 3, 32, 32)"),
        ({"X": np.zeros((32, 32, 3)), "y": np.ones((1, 1), np.uint8)}, "expected uint8 of shape"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1), np.uint8)}, "X is float64"),
        ({"X": "digits", "y": np.ones((2, 1), np.uint8)}, "X is no array of real numbers"),
        (
            {"X": make_images(2, 32, 0).transpose(2, 3, 1, 0), "y": np.ones((2, 2), np.uint8)},
            "y is uint8 of shape (2, 2); expected integers of shape (n, 1)",
        ),
        (
            {"X": make_images(2, 32, 0).transpose(2, 3, 1, 0), "y": np.array([[1.5], [2]])},
            "y is float64",
        ),
    ],
)
def test_variables_that_are_missing_or_misshapen(tmp_path, content, message):
    path = tmp_path / "train_32x32.mat"
    scipy.io.savemat(path, content)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "3 images with 2 labels"),
        ([1, 2, 3, 4], "3 images with 4 labels"),
        ([1, 0, 3], "label 0 of image 1 is out of range; expected 1 to 10"),
        ([1, 2, 11], "label 11 of image 2 is out of range; expected 1 to 10"),
    ],
)
def test_mislabelled_files(tmp_path, labels, message):
    path = tmp_path / "test_32x32.mat"
    write_mat(path, make_images(3, 32, 0), np.array(labels))
    assert message in refusal(path)


def test_something_else_than_a_mat_file(tmp_path):
    path = tmp_path / "train_32x32.mat"
    path.write_text("<html>404 not found</html>" * 40)
    assert "damaged, or not a MATLAB file" in refusal(path)
