"""What names a model: paths first, then code, places, and published names."""

import shutil
from pathlib import Path

import pytest
import torch

import oat_bench
from oat_bench.errors import UserError
from oat_bench.registry import MODELS

SHIPPED = Path(__file__).parents[2] / "leaderboards"
DIGITS = SHIPPED / "digits" / "Linf"


def test_a_path_wins_over_a_name_a_place_and_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = oat_bench.load(DIGITS / "oats-wrn-10-1.safetensors").fingerprint()
    for name in ("digits/oat-wrn-10-1", "hf:owner/name", "robustbench:x", "mine.py:build"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(DIGITS / "oats-wrn-10-1.safetensors", name)
        assert oat_bench.load(name).fingerprint() == other
        Path(name).unlink()
    assert oat_bench.load("digits/oat-wrn-10-1").fingerprint() != other


def test_a_run_s_folder_wins_too(trained_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_folder, "digits/oat-wrn-10-1")
    run = oat_bench.load(trained_folder).fingerprint()
    assert oat_bench.load("digits/oat-wrn-10-1").fingerprint() == run


def test_an_exported_file_and_code_are_loaded_from_python(tmp_path, digits):
    classifier = oat_bench.load("digits/oat-wrn-10-1")
    path = tmp_path / "net.safetensors"
    oat_bench.export(classifier, path, lam=0.4)
    x = digits.test.inputs(slice(8))
    torch.testing.assert_close(oat_bench.load(path).at(0.4)(x), classifier.at(0.4)(x))

    (tmp_path / "mine.py").write_text(
        "import torch\ndef build():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    source = f"{tmp_path}/mine.py:build"
    for dataset in ("digits", digits, lambda: digits):
        assert oat_bench.load(source, dataset=dataset).at(1.0)(x).shape == (8, 10)
    with pytest.raises(UserError, match=r"mine\.py:build: name what it classifies"):
        oat_bench.load(source)


def test_a_place_of_somebody_s_own_is_told_what_follows_the_colon(monkeypatch, build_classifier):
    asked = []

    def fetch(name):
        asked.append(name)
        return build_classifier()

    monkeypatch.setitem(MODELS.registered, "lab", fetch)
    assert oat_bench.load("lab:group/net:v2").info.method == "oat"
    assert asked == ["group/net:v2"]
    with pytest.raises(UserError, match="unknown place of models 'lap'; did you mean lab"):
        oat_bench.load("lap:group/net")


@pytest.mark.parametrize(
    "path",
    ["C:\\models\\net", "./digits/oat-wrn-10-1", "x.safetensors", "digits/x.safetensors", ""],
)
def test_what_can_be_a_path_alone_is_one(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint at .* or a run's folder$"):
        oat_bench.load(path)


def test_evaluate_takes_a_published_name(digits):
    result = oat_bench.evaluate(
        "digits/oat-wrn-10-1", dataset=digits, attacks="fgsm", lambdas=[1], n_examples=20
    )
    assert result.entry.model_fingerprint == oat_bench.load("digits/oat-wrn-10-1").fingerprint()
