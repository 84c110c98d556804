"""`oat-bench check` as a user meets it."""

import json
import shutil

import pytest
import torch

from oat_bench.checkpoint import load, save
from oat_bench.results.entries import Entry


@pytest.fixture(scope="module")
def baseline(two_runs, tmp_path_factory):
    """A published entry with its outcomes beside it."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(two_runs / "one" / "entry.json", folder / "model.json")
    shutil.copy(two_runs / "one" / "outcomes.parquet", folder / "model.parquet")
    return folder / "model.json"


def fragile(folder, into):
    """Another checkpoint, trained to be right on clean images alone."""
    classifier = load(folder)
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight *= 0.97
            weight += (
                0.35
                * weight.std()
                * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    save(classifier, into)


def test_check_passes_the_same_model_and_fails_a_damaged_one(invoke, finished, baseline, tmp_path):
    code, out, err = invoke("check", finished, "--baseline", baseline)
    assert (code, err) == (0, f"outcomes in {finished}\n")
    assert "\nok: in 16 accuracies no drop of more than 1 point is supported" in out
    fragile(finished, tmp_path / "fragile.safetensors")
    code, out, _ = invoke("check", "fragile.safetensors", "--baseline", baseline)
    assert code == 1
    assert "\nworse: " in out
    # its outcomes are stored: nothing is attacked again
    options = ["check", "fragile.safetensors", "--baseline", baseline, "--format"]
    assert invoke(*options, "json")[0] == 1
    content = json.loads(invoke(*options, "json")[1])
    assert content["verdict"] == "worse"
    assert invoke(*options, "junit")[1].startswith("<?xml")
    assert invoke(*options, "github")[1].startswith("::error title=oat-bench check%3A worse::")


def test_github_gets_its_summary(invoke, finished, baseline, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = invoke("check", finished, "--baseline", baseline, "--format", "github")
    assert code == 0
    assert out.startswith("::notice title=oat-bench check%3A ok::")
    assert "\nok: in 16 accuracies" in (tmp_path / "summary.md").read_text()


def test_a_better_model_passes_and_becomes_the_baseline(invoke, finished, baseline, tmp_path):
    fragile(finished, tmp_path / "old.safetensors")
    for end in ("json", "parquet"):
        shutil.copy(baseline.with_suffix(f".{end}"), tmp_path / f"base.{end}")
    # the damaged model becomes the baseline only where its drop is tolerated
    options = ["--baseline", "base.json", "--update-baseline"]
    assert invoke("check", "old.safetensors", *options)[0] == 1
    assert Entry.model_validate_json((tmp_path / "base.json").read_bytes()).method == "oat"
    assert (tmp_path / "base.json").read_bytes() == baseline.read_bytes()
    code, out, _ = invoke("check", "old.safetensors", *options, "--max-drop", "99")
    assert code == 0
    assert "\nbaseline updated: base.json, base.parquet\n" in out
    entry = Entry.model_validate_json((tmp_path / "base.json").read_bytes())
    assert entry.model_fingerprint == load(tmp_path / "old.safetensors").fingerprint()
    # against it the first model is better
    code, out, _ = invoke("check", finished, "--baseline", "base.json")
    assert code == 0
    assert "\nto make it the baseline: oat-bench check --update-baseline " in out
    assert invoke("check", finished, *options)[0] == 0
    entry = Entry.model_validate_json((tmp_path / "base.json").read_bytes())
    first = Entry.model_validate_json(baseline.read_bytes())
    assert [p.robust_acc for p in entry.operating_points] == [
        p.robust_acc for p in first.operating_points
    ]


def test_check_refuses_what_does_not_compare(refused, finished, baseline, tmp_path):
    shutil.copy(baseline, tmp_path / "alone.json")
    for options, words in (
        (["--baseline", "none"], "no entry at none"),
        (["--baseline", "alone.json"], "has no outcomes beside it"),
        (["--baseline", baseline, "--attacks", "pgd"], "unknown attack of the baseline 'pgd'"),
        (["--baseline", baseline, "--lambda", "0.7"], "lambda 0.7 is not of the baseline"),
        (["--baseline", baseline, "--max-drop", "200"], "--max-drop"),
        (["--baseline", baseline, "--max-drop", "nan"], "--max-drop"),
        (["--baseline", baseline, "--update-baseline", "--lambda", "1"], "leave out --attacks"),
    ):
        assert words in refused("check", finished, *options)
