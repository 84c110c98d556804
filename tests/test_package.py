"""The built wheel, installed where nothing else is, used where nothing lies."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from contextlib import suppress
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from oat_bench import cards
from oat_bench.checkpoint import load
from oat_bench.zoo import published

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_carries_package_cards_and_models_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    patterns = ("attacks/*.toml", "benchmarks/*.toml", "benchmarks/published/*.csv")
    shipped = {path.relative_to(ROOT).as_posix() for p in patterns for path in ROOT.glob(p)}
    assert sum(name.endswith(".csv") for name in shipped) >= 2
    for model in (ROOT / "leaderboards").rglob("*.safetensors"):
        files = [model.with_suffix(".json"), model.with_suffix(".integrity.json")]
        files += [model] if model.stat().st_size < 1_000_000 else []
        shipped |= {file.relative_to(ROOT).as_posix() for file in files if file.is_file()}
    shipped.add("leaderboards/models.json")
    assert {f"oat_bench/_cards/{name}" for name in shipped} == {n for n in names if "/_cards/" in n}
    for source in (ROOT / "oat_bench").rglob("*.py"):
        assert source.relative_to(ROOT).as_posix() in names
    assert {name.split("/")[0] for name in names} == {"oat_bench", "oat_bench-0.1.0.dist-info"}
    assert any(name.endswith("LICENSE") for name in names)
    assert "oat_bench/results/robustbench.json" in names
    images = (ROOT / "oat_bench" / "datasets" / "fashion-12x12").iterdir()
    assert {path.relative_to(ROOT).as_posix() for path in images} <= names


def test_models_of_the_wheel_are_those_of_the_checkout(wheel, tmp_path, monkeypatch):
    here = {model.name: published.find(model.name) for model in published.models()}
    zipfile.ZipFile(wheel).extractall(tmp_path)
    installed = tmp_path / "oat_bench" / "_cards"
    monkeypatch.setattr(cards, "folder", lambda kind: installed / kind)
    monkeypatch.setenv("OAT_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OAT_BENCH_MODELS", (ROOT / "leaderboards").as_uri())
    assert [model.name for model in published.models()] == list(here)
    downloaded = 0
    for model in published.models():
        found = published.find(model.name)
        assert found.read_bytes() == here[model.name].read_bytes()
        assert model.bytes == found.stat().st_size
        assert json.loads(model.entry.read_text())["model_fingerprint"] == load(found).fingerprint()
        downloaded += (tmp_path / "cache") in found.parents
    assert 0 < downloaded < len(here)


def test_versions_agree():
    import oat_bench

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert oat_bench.__version__ == project["version"]


def declared(wheel: Path) -> set[str]:
    """Return the distributions that come with a wheel: its dependencies, and theirs."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        texts = message_from_bytes(file.read(name)).get_all("Requires-Dist")
    found: set[str] = set()
    left = [Requirement(text) for text in texts]
    while left:
        one = left.pop()
        extras = one.extras or {""}
        if not (one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)):
            continue
        name = canonicalize_name(one.name)
        if name not in found:
            found.add(name)
            with suppress(metadata.PackageNotFoundError):  # of another platform
                own = [Requirement(text) for text in metadata.requires(name) or ()]
                left += [r for r in own if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_an_installed_wheel_runs_in_an_empty_folder(wheel, tmp_path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", target, wheel], check=True)
    # what the wheel declares is there, and nothing else of what is installed here
    names = declared(wheel)
    assert {"torch", "torchattacks", "pandas"} <= names
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            installed = metadata.distribution(name)
            for top in {path.parts[0] for path in installed.files or ()} - {".."}:
                if not (target / top).exists():
                    (target / top).symlink_to(installed.locate_file(top))
    assert not (target / "pytest").exists()
    options = ["--attacks", "fgsm,pgd-7", "--n-examples", "100", "--epochs", "2"]
    run = subprocess.run(
        [sys.executable, "-S", target / "bin" / "oat-bench", "run", *options],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("**fashion-12x12, wrn-10-1, OAT, Linf eps")
    assert [path.name for path in empty.iterdir()] == ["runs"]
    (folder,) = (empty / "runs").iterdir()
    written = {path.name for path in folder.iterdir()}
    assert written >= {
        "checkpoint.safetensors",
        "entry.json",
        "figures",
        "log.csv",
        "outcomes.parquet",
        "report.md",
        "table.csv",
        "table.md",
    }
