"""A package of somebody's own adds a method, an engine and a data set, and nothing here changes."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import oat_bench
from oat_bench import OATClassifier
from oat_bench.registry import DATASETS, ENGINES, METHODS

DOCS = Path(__file__).parents[1] / "docs"
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "strangers-defence"
version = "1.0"

[project.entry-points."oat_bench.methods"]
two-heads = "two_heads:TwoHeadsMethod"

[project.entry-points."oat_bench.engines"]
shift = "shift_engine"

[project.entry-points."oat_bench.datasets"]
bright-digits = "bright_digits:bright_digits"

[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""
BRIGHT = """
from dataclasses import replace
from oat_bench import datasets

def bright_digits(data_dir):
    \"""Digits under a name of somebody's own.\"""
    return replace(datasets.load("digits"), name="bright-digits")
"""
CARD = """
extends = "digits"
dataset = "bright-digits"

[method]
name = "two-heads"
hidden = 24

[training]
epochs = 3
batch_size = 64
lr = 0.05
lambdas = [0, 0.5, 1]

[threat]
eps = 0.1
step_size = 0.03

[evaluation]
lambdas = [0, 0.5, 1]
attacks = "fgsm,pgd-7"
n_examples = 60
fewer_examples = {}
"""
ATTACK = """
name = "shift"
engine = "shift"
class = "Shift"

[parameters]
sign = 1.0
"""


def block(page: str, place: int) -> str:
    found = re.findall(r"```(?:py|toml)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return found[place]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package of the documentation, built and installed by pip into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "two_heads.py").write_text(block("add-a-method.md", 0))
    (source / "shift_engine.py").write_text(block("add-an-attack.md", 2))
    (source / "bright_digits.py").write_text(BRIGHT)
    assert block("add-a-method.md", 1).strip() in PYPROJECT
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run([*install, *options], check=True, timeout=300)
    return target


@pytest.fixture
def known(installed, monkeypatch):
    """The package on the path of this process, and forgotten after."""
    monkeypatch.syspath_prepend(str(installed))
    importlib.invalidate_caches()
    for registry in (METHODS, ENGINES, DATASETS):
        registry.__dict__.pop("_foreign", None)
    yield installed
    for registry in (METHODS, ENGINES, DATASETS):
        registry.__dict__.pop("_foreign", None)


def test_it_trains_and_goes_wherever_a_method_goes(known, invoke, tmp_path, monkeypatch):
    """Trained, saved, loaded, evaluated, checked, calibrated, examined, exported, published."""
    Path("card.toml").write_text(CARD)
    Path("shift.toml").write_text(ATTACK)
    code, out, err = invoke("run", "--benchmark", "card.toml", "--out", "runs/mine")
    assert code == 0, err
    assert "bright-digits" in out
    classifier = oat_bench.load("runs/mine")
    assert type(classifier).__name__ == "TwoHeadsMethod"
    assert classifier.info.options == {"hidden": 24}
    entry = json.loads(Path("runs/mine/entry.json").read_text())
    assert entry["method"] == "two-heads"
    points = entry["operating_points"]
    assert points[0]["clean_acc"] > 50
    assert points[2]["robust_acc"]["pgd-7"]["value"] > points[0]["robust_acc"]["pgd-7"]["value"]

    code, out, err = invoke(
        *("evaluate", "--model", "runs/mine", "--lambda", "0,0.25,1", "--n-examples", "40"),
        *("--attacks", "./shift.toml", "--out", "runs/again"),
    )
    assert code == 0, err
    assert "0.25 *" in out
    x, y = classifier_images(40)
    model = classifier.at(0.0)
    right = model(x).argmax(1) == y
    stands = right & (model((x + 0.1).clamp(0, 1)).argmax(1) == y)
    found = json.loads(Path("runs/again/entry.json").read_text())["operating_points"][0]
    assert found["robust_acc"]["shift"]["value"] == pytest.approx(
        100 * stands.float().mean().item(), abs=1e-4
    )

    for command in (
        ("check", "runs/mine", "--baseline", "runs/mine/entry.json"),
        (*("calibrate", "runs/mine", "--min-sa", "50%", "--attack", "pgd-7"), "--split", "test"),
        (
            *("integrity", "runs/mine", "--attacks", "fgsm,pgd-7", "--lambda", "1"),
            "--n-examples",
            "20",
        ),
        ("transfer", "runs/mine", "--attack", "pgd-7", "--n-examples", "20"),
    ):
        code, out, err = invoke(*command)
        assert code in (0, 1), f"{command}: {err}"
        assert "Traceback" not in err

    estimator = OATClassifier(classifier, lam=1.0)
    assert estimator.predict(x.numpy(), lam=0.5).shape == (40, 10)
    code, out, err = invoke("export", "runs/mine", "--lambda", "1", "--out", "net.onnx")
    assert code == 0, err
    code, out, err = invoke(
        *("leaderboard", "add", "runs/mine", "--to", "boards", "--authors", "A. Stranger"),
        *("--link", "https://example.org", "--venue", "none"),
    )
    assert code == 0, err


def classifier_images(n):
    data = oat_bench.datasets.load("digits")
    ids = oat_bench.datasets.nested_order(data.test.labels)[:n]
    return data.test.inputs(ids), data.test.labels[ids]


def test_its_options_are_checked_before_anything_is_trained(known, invoke):
    Path("card.toml").write_text(CARD.replace("hidden = 24", "hiden = 24"))
    code, _, err = invoke("train", "--benchmark", "card.toml")
    assert code == 2
    assert "unknown key 'hiden'; did you mean hidden?" in err


def test_a_package_that_fails_is_told_in_one_line(known, invoke):
    (known / "two_heads.py").rename(known / "away.py")
    sys.modules.pop("two_heads", None)
    try:
        Path("card.toml").write_text(CARD)
        code, _, err = invoke("train", "--benchmark", "card.toml")
    finally:
        (known / "away.py").rename(known / "two_heads.py")
    assert code == 2
    assert "method 'two-heads' is two_heads:TwoHeadsMethod, which cannot be imported" in err
    assert len(err.strip().splitlines()) == 1


def test_a_method_registered_in_a_script_is_known_too():
    @METHODS.register("of-a-script")
    class OfAScript(METHODS["fixed"]):
        """A method of this process."""

    try:
        assert METHODS["of-a-script"] is OfAScript
        assert "of-a-script" in METHODS
    finally:
        del METHODS.registered["of-a-script"]
