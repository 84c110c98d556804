"""SVHN's .mat files, against torchvision, and files that are not it."""

import numpy as np
import pytest
import torch
import torchvision.datasets as published

from oat_bench import datasets
from oat_bench.errors import UserError


@pytest.fixture
def folder(svhn, bless, tmp_path):
    """Both files, taken for the published ones, where a folder of their own is looked for."""
    folder = svhn.write(tmp_path / "svhn")
    bless("SVHN", folder)
    return folder


def test_the_files_are_read_as_torchvision_reads_them(folder, capfd):
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


def test_other_files_are_refused_where_they_lie(svhn, folder):
    assert len(datasets.load("svhn", folder.parent).test) == 30
    path = folder / "test_32x32.mat"
    whole = path.read_bytes()
    for content in (whole[:-1], b"<html>404 not found</html>" * 40, b""):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            datasets.load("svhn", folder.parent)
        message = str(caught.value)
        assert message.startswith(f"{folder}: not the published test_32x32.mat of svhn (MD5")
        assert len(message.splitlines()) == 1
