"""The built wheel, installed where nothing else is, used where nothing lies."""

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_an_installed_wheel_runs_in_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    install = [scripts / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*install, wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    run = subprocess.run(
        [scripts / "oat-bench", "run", "--attacks", "fgsm,pgd-7", "--n-examples", "100"],
        cwd=empty,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("**fashion-12x12, wrn-10-1, OAT, Linf eps")
    assert [path.name for path in empty.iterdir()] == ["runs"]
    written = {path.name for path in (empty / "runs" / "fashion-12x12-seed0").iterdir()}
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
