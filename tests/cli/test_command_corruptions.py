"""`oat-bench corruptions` as a user meets it."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from commands import in_terminal

import oat_bench
from oat_bench import datasets
from oat_bench.datasets import Dataset, Split, cifar_c
from oat_bench.evaluation import corruptions


def cells(out):
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_corruptions_prints_what_it_writes(invoke, finished):
    options = ["--lambda", "0.2,1", "--n-examples", "40", "--severities", "5,1"]
    code, out, err = invoke("corruptions", finished, *options)
    assert (code, err) == (0, f"tables in {finished}\n")
    assert out == (finished / "corruptions.md").read_text()
    assert "none of these accuracies is an RA, and none is part of worst." in out
    assert "n 40. SA:" in out
    assert "the mean over severities 1, 5. mean: over 8 corruptions" in out
    headers, *rows = cells(out)
    assert headers[:4] == ["lambda", "SA", "mean", "gaussian noise"]
    assert len(headers) == 3 + 8
    report = json.loads((finished / "corruptions.json").read_text())
    assert (report["source"], report["n"], report["severities"]) == ("computed", 40, [1, 5])
    assert report["model_fingerprint"] == oat_bench.load(finished).fingerprint()
    assert report["data_fingerprint"] == datasets.load("digits").fingerprint()
    assert report["command"] == shlex.join(["oat-bench", "corruptions", str(finished), *options])
    assert {"oat-bench", "pillow", "torch"} <= report["versions"].keys()
    table = pd.read_csv(finished / "corruptions.csv")
    assert table["lambda"].tolist() == [0.2, 1.0]
    points, lines = report["operating_points"], table.to_dict("records")
    for row, point, line in zip(rows, points, lines, strict=True):
        values = point["corruptions"]
        mean = np.mean(list(values.values()))
        assert point["mean"]["low"] <= mean <= point["mean"]["high"]
        assert point["mean"]["value"] == pytest.approx(mean, abs=1e-3)
        assert row[0] == f"{point['lam']:g}"
        assert row[2].startswith(f"{point['mean']['value']:.1f} [")
        assert row[3:] == [f"{np.mean(each):.1f}" for each in values.values()]
        assert line["contrast 5"] == values["contrast"][1]
        assert line["mean"] == point["mean"]["value"]
    # the same images, the same numbers
    assert invoke("corruptions", finished, *options) == (0, out, err)
    # that of other images is not replaced without a word
    fewer = ["--lambda", "0.2", "--n-examples", "20", "--severities", "1"]
    said = invoke("corruptions", finished, *fewer)[2].splitlines()
    assert said[0].startswith(f"{finished / 'corruptions.json'}: replaced; the earlier one was of ")
    assert said[0].endswith(f"corruptions {finished} {' '.join(options)}")


@pytest.fixture
def cifar(monkeypatch, build_classifier, tmp_path):
    """A checkpoint of a CIFAR-10 of six test images; returns these."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=numbers).byte()
    split = Split(images, torch.tensor([3, 0, 9, 1, 1, 4]))
    classes = tuple(str(label) for label in range(10))
    small = Dataset("cifar10", classes, split, split, split)
    monkeypatch.setitem(datasets.DATASETS.registered, "cifar10", lambda _: small)
    model = build_classifier(dataset="cifar10", input_shape=(3, 32, 32))
    oat_bench.save(model, tmp_path / "cifar.safetensors")
    return split


def test_the_authors_files_are_used_where_they_are(invoke, cifar, tmp_path):
    arguments = ["corruptions", "cifar.safetensors", "--lambda", "1", "--out", "results"]
    code, out, err = invoke(*arguments, "--severities", "2")
    assert code == 0
    assert err.splitlines()[1:] == ["tables in results"]
    assert "data/CIFAR-10-C is not there: corruptions are computed" in err
    assert "common corruptions, computed, 6 images" in out
    folder = tmp_path / "data" / "CIFAR-10-C"
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for name in cifar_c.CORRUPTIONS:
        np.save(folder / f"{name}.npy", numbers.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(cifar.labels.numpy(), 5))
    code, out, err = invoke(*arguments, "--severities", "2")
    assert code == 0
    assert "common corruptions, CIFAR-10-C, 6 images" in out
    assert cells(out)[0][3:] == [name.replace("_", " ") for name in cifar_c.CORRUPTIONS]
    (point,) = json.loads((tmp_path / "results" / "corruptions.json").read_text())[
        "operating_points"
    ]
    network = oat_bench.load("cifar.safetensors").at(1.0)
    for name in ("fog", "snow"):
        x = torch.from_numpy(np.load(folder / f"{name}.npy")[6:12]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            hits = (network(x).argmax(1) == cifar.labels).sum()
        assert point["corruptions"][name] == [round(100 * int(hits) / 6, 4)]


def test_corruptions_in_a_terminal(finished, tmp_path):
    options = ["--lambda", "1", "--n-examples", "10", "--severities", "1"]
    code, shown = in_terminal("corruptions", finished, *options, cwd=tmp_path, columns=100)
    assert code == 0
    assert "jpeg compression" in shown
    assert "corrupting" in shown
    assert f"tables in {finished}" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'MODEL'"),
        (["nowhere"], "no checkpoint at nowhere"),
        (["RUN", "--severities", "1,6"], "'6' is no severity; expected some of 1,2,3,4,5"),
        (["RUN", "--lambda", "2"], "lambda 2 is outside [0, 1]"),
        (["RUN", "--widths", "0.5"], "width 0.5 asked for; the network has 1"),
        (["RUN", "--n-examples", "900"], "900 examples asked for; the test set has 800"),
        (["RUN", "--dataset", "mnist"], "unknown data set 'mnist'"),
    ],
)
def test_bad_input_of_corruptions_is_one_line(refused, finished, monkeypatch, arguments, words):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(corruptions, "evaluate", forbidden)
    places = {"RUN": finished}
    assert words in refused("corruptions", *[places.get(word, word) for word in arguments])
    assert not list(finished.glob("corruptions.*"))
