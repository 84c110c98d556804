"""STL-10's binaries, against torchvision, and files that are not it."""

import numpy as np
import pytest
import torch
import torchvision.datasets as published

from oat_bench import datasets
from oat_bench.datasets.published import STL10_CLASSES
from oat_bench.errors import UserError


@pytest.fixture
def folder(stl10, bless, tmp_path):
    """The files, taken for the published ones."""
    folder = stl10.write(tmp_path)
    bless("STL10", folder)
    return folder


def refusal(data_dir):
    with pytest.raises(UserError) as caught:
        datasets.load("stl10", data_dir)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_files_are_read_as_torchvision_reads_them(folder, capfd, monkeypatch):
    # torchvision also checks the images without labels, which nobody needs here
    labelled = [entry for entry in published.STL10.train_list if "unlabeled" not in entry[0]]
    monkeypatch.setattr(published.STL10, "train_list", labelled)
    data = datasets.load("stl10", folder.parent)
    assert data.classes == STL10_CLASSES
    assert data.input_shape == (3, 96, 96)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [54, 6, 20]
    train, test = (published.STL10(folder.parent, split=part) for part in ("train", "test"))
    assert np.array_equal(data.test.images.numpy(), test.data)
    assert np.array_equal(data.test.labels.numpy(), test.labels)
    for name, split in (("train", data.train), ("validation", data.validation)):
        part, index = data.origin[name]
        assert part == "train"
        assert np.array_equal(split.images.numpy(), train.data[index])
        assert np.array_equal(split.labels.numpy(), train.labels[index])
    assert capfd.readouterr().err == ""


def test_a_stratified_tenth_is_held_out_always_the_same(folder):
    data, again = (datasets.load("stl10", folder.parent) for _ in range(2))
    kept, held_out = data.origin["train"][1], data.origin["validation"][1]
    assert sorted(torch.cat([kept, held_out]).tolist()) == list(range(60))
    assert torch.bincount(data.validation.labels, minlength=10).max() == 1
    assert torch.equal(held_out, again.origin["validation"][1])
    assert data.fingerprint() == again.fingerprint()


def test_of_the_published_number_a_tenth_has_fifty_of_each_class():
    labels = torch.arange(10).repeat(500)
    images = torch.zeros(5000, 1, 1, 1, dtype=torch.uint8)
    split = datasets.Split(images, labels)
    data = datasets.splits.hold_out_tenth("stl10", STL10_CLASSES, split, split)
    assert torch.bincount(data.validation.labels).tolist() == [50] * 10
    assert torch.bincount(data.train.labels).tolist() == [450] * 10


def test_files_that_are_missing_or_others_are_named(folder):
    path = folder / "test_y.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    expected = f"{folder}: not the published test_y.bin of stl10 (MD5 differs)"
    assert refusal(folder.parent).startswith(expected)
    path.unlink()
    assert f"{folder} lacks test_y.bin of stl10" in refusal(folder.parent)
