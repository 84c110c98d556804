"""Fashion-MNIST's files against torchvision, and the part of it that comes with the package."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as published

from oat_bench import datasets
from oat_bench.datasets.published import DEBIAN, FASHION_12X12, FASHION_CLASSES, read_part
from oat_bench.errors import UserError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fashion_12x12.py"


@pytest.fixture(scope="module")
def data_dir(fashion_mnist, tmp_path_factory):
    """Holds the files where torchvision leaves them; not to be written to."""
    root = tmp_path_factory.mktemp("fashion")
    fashion_mnist.write(root / "FashionMNIST" / "raw", unpacked=True)
    return root


def refusal(data_dir):
    with pytest.raises(UserError) as caught:
        datasets.load("fashion-mnist", data_dir)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_files_are_read_as_torchvision_reads_them(data_dir, bless, capfd):
    bless("FashionMNIST", data_dir / "FashionMNIST" / "raw")
    data = datasets.load("fashion-mnist", data_dir)
    assert list(data.classes) == published.FashionMNIST.classes
    assert data.input_shape == (1, 28, 28)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 5000, 30]
    for train in (True, False):
        theirs = published.FashionMNIST(data_dir, train=train)
        ours = [data.train, data.validation] if train else [data.test]
        assert torch.equal(torch.cat([split.images for split in ours])[:, 0], theirs.data)
        assert torch.equal(torch.cat([split.labels for split in ours]), theirs.targets)
    assert capfd.readouterr().err == ""


def test_files_of_debian_are_known_and_others_are_not_read(data_dir, bless, monkeypatch):
    raw = data_dir / "FashionMNIST" / "raw"
    message = refusal(data_dir)
    assert message.startswith(f"{raw}: not the published train-images-idx3-ubyte.gz, train-labels")
    originals = published.FashionMNIST.resources
    bless("FashionMNIST", raw)
    for file, checksum in published.FashionMNIST.resources:
        monkeypatch.setitem(DEBIAN, file, checksum)
    monkeypatch.setattr(published.FashionMNIST, "resources", originals)
    assert len(datasets.load("fashion-mnist", data_dir).test) == 30


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_where_the_files_are_looked_for(data_dir, bless, tmp_path, place):
    bless("FashionMNIST", data_dir / "FashionMNIST" / "raw")
    shutil.copytree(data_dir / "FashionMNIST" / "raw", tmp_path / "data" / place)
    assert len(datasets.load("fashion-mnist", tmp_path / "data").test) == 30


def test_the_part_that_comes_with_the_package():
    data = datasets.load("fashion-12x12")
    assert data.classes == FASHION_CLASSES
    assert data.input_shape == (1, 12, 12)
    for split, count in ((data.train, 360), (data.validation, 40), (data.test, 100)):
        assert torch.bincount(split.labels).tolist() == [count] * 10
    places = torch.cat([data.origin[name][1] for name in ("train", "validation")])
    assert sorted(places.tolist()) == list(range(4000))
    # what was measured was measured on these very bytes
    assert data.fingerprint() == "de3486780f0ae26eeab45ff8ed5a55c178a4f04757fc28e1c8c5ae482261022e"
    assert "Copyright © 2017 Zalando SE" in (FASHION_12X12 / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in FASHION_12X12.iterdir()) < 1_000_000


def test_the_script_that_made_it(fashion_mnist, data_dir, tmp_path, monkeypatch):
    """Against the integral over areas: how much of each pixel lies in each of the 12 intervals."""
    edges = np.arange(13)[:, None] * 28 / 12
    below = np.clip(edges - np.arange(28), 0, 1)  # the share of each pixel below each edge
    weights = np.diff(below, axis=0) * 12 / 28
    assert np.allclose(weights.sum(1), 1)
    raw = data_dir / "FashionMNIST" / "raw"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(raw), "--out", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    for part, per_class in (("train", 400), ("t10k", 100)):
        labels = fashion_mnist.labels[part]
        seen, places = [0] * 10, []
        for place, label in enumerate(labels):
            seen[label] += 1
            if seen[label] <= per_class:
                places.append(place)
        reduced = read_part(tmp_path, part)
        assert reduced.labels.tolist() == labels[places].tolist()
        exact = weights @ fashion_mnist.images[part][places[:50]] @ weights.T
        assert np.abs(reduced.images[:50, 0].numpy() - exact).max() <= 0.5 + 1e-9
