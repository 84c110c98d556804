"""The check from end to end: damaged, the same, better; exit codes; renewing a baseline."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from making import measure, noised, publish

from oat_bench.checkpoint import load, save
from oat_bench.deployment import export
from oat_bench.errors import UserError
from oat_bench.evaluation.survivors import Sample
from oat_bench.regression import baseline as baselines
from oat_bench.regression import check as checks
from oat_bench.regression.comparison import compare
from oat_bench.results.entries import Entry
from oat_bench.statistics.phases import Design

ROBUST = {"attacks": ("pgd-7",), "lambdas": (0.5, 1.0), "n": 800}


def robust(outcomes):
    """Return RA in percent, over all operating points."""
    right = outcomes["clean_prediction"] == outcomes["label"]
    return 100 * (right & (outcomes["attacked_prediction"] == outcomes["label"])).mean()


@pytest.fixture(scope="session")
def sides(honest, digits):
    """The honest classifier and one damaged until RA is 6 points lower, with their outcomes."""
    ready, outcomes = measure(honest, digits, **ROBUST)
    scale = 0.1
    while True:
        damaged = noised(honest, scale)
        _, lower = measure(damaged, digits, **ROBUST)
        if robust(lower) <= robust(outcomes) - 6:
            return ready, outcomes, damaged, lower
        scale *= 1.15


def test_a_damaged_model_fails(invoke, tmp_path, honest, digits, sides):
    ready, outcomes, damaged, lower = sides
    assert 6 <= robust(outcomes) - robust(lower) < 12
    publish(tmp_path / "base.json", honest, digits, ready, outcomes)
    save(damaged, tmp_path / "damaged.safetensors")
    code, out, err = invoke("check", "damaged.safetensors", "--baseline", "base.json")
    assert (code, err.count("\n")) == (1, 1)
    assert "\nworse: " in out
    assert "**worse**" in out
    # what it found is kept: the second time nothing is computed
    (cells,) = Path("runs").glob("check-*/outcomes")
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*.parquet")}
    arguments = ["check", "damaged.safetensors", "--baseline", "base.json"]
    code, text, _ = invoke(*arguments, "--format", "json")
    assert code == 1
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("*.parquet")} == before
    assert json.loads(text)["verdict"] == "worse"
    # a coarser tolerance allows it
    code, out, _ = invoke(*arguments, "--max-drop", "15")
    assert code == 0
    assert "\nok: " in out
    # and what fails is never made the baseline
    kept = [(tmp_path / name).read_bytes() for name in ("base.json", "base.parquet")]
    code, out, _ = invoke(*arguments, "--update-baseline")
    assert code == 1
    assert "updated" not in out
    assert [(tmp_path / name).read_bytes() for name in ("base.json", "base.parquet")] == kept


def test_the_same_model_is_ok_to_the_digit(invoke, tmp_path, baseline, honest, measured):
    save(honest, tmp_path / "same.safetensors")
    code, text, _ = invoke("check", "same.safetensors", "--baseline", baseline, "--format", "json")
    assert code == 0
    content = json.loads(text)
    assert content["verdict"] == "ok"
    assert {row["change"] for row in content["rows"]} == {0.0}
    assert content["model_fingerprint"] == content["baseline_fingerprint"]


@pytest.mark.slow
def test_the_same_model_passes_with_twenty_seeds(honest, digits, tmp_path):
    options = {"attacks": ("pgd-7",), "lambdas": (0.2, 1.0), "n": 300}
    path = publish(tmp_path / "base.json", honest, digits, *measure(honest, digits, **options))
    base = baselines.read(path)
    changed = 0
    for seed in range(1, 21):
        done = checks.check(honest, base, digits, seed=seed, show=False)
        assert done.comparison.verdict != "worse"
        changed += any(row.change for row in done.comparison.rows)
    assert changed  # other seeds are other attacks


def test_a_better_model_passes_and_may_become_the_baseline(invoke, tmp_path, honest, digits, sides):
    ready, outcomes, damaged, lower = sides
    described = {"authors": "A. Author", "venue": "v", "link": "l", "footnote": "f", "name": "Ours"}
    path = publish(tmp_path / "base.json", damaged, digits, ready, lower, **described)
    (tmp_path / "base.integrity.json").write_text("{}")
    (tmp_path / "base.md").write_text("of the old model")
    (tmp_path / "baseline.md").write_text("of nothing here")
    save(damaged, tmp_path / "base.safetensors")
    save(honest, tmp_path / "better.safetensors")
    arguments = ["check", "better.safetensors", "--baseline", "base.json"]
    code, out, _ = invoke(*arguments)
    assert code == 0
    assert "\nbetter: " in out
    command = "oat-bench check --update-baseline better.safetensors --baseline base.json"
    assert f"to make it the baseline: {command}\n" in out
    assert Entry.model_validate_json(path.read_text()).model_fingerprint == damaged.fingerprint()

    code, out, _ = invoke(*command.split()[1:])
    assert code == 0
    assert "baseline updated: base.json, base.parquet, base.safetensors" in out
    entry = Entry.model_validate_json(path.read_text())
    assert entry.model_fingerprint == honest.fingerprint()
    assert load(tmp_path / "base.safetensors").fingerprint() == honest.fingerprint()
    assert {key: getattr(entry, key) for key in described} == described
    assert (entry.command, entry.data_fingerprint) == (command, digits.fingerprint())
    # what else was of the old model is gone
    left = {path.name for path in tmp_path.glob("base*")}
    assert left == {"base.json", "base.parquet", "base.safetensors", "baseline.md"}
    # the new baseline is whole, and the model is as good as itself
    code, out, _ = invoke(*arguments)
    assert code == 0
    assert "\nok: " in out
    assert compare(baselines.read(path).outcomes, outcomes, Design(["pgd-7"])).verdict == "ok"
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_baseline_is_renewed_as_a_whole_or_not_at_all(
    tmp_path, baseline, honest, digits, monkeypatch
):
    base = baselines.read(baseline)
    done = checks.check(honest, base, digits, seed=3, show=False)
    before = [baseline.read_bytes(), baseline.with_suffix(".parquet").read_bytes()]

    def fail(_fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space"):
            checks.renew(done, digits, "oat-bench check")
    assert [baseline.read_bytes(), baseline.with_suffix(".parquet").read_bytes()] == before
    assert not list(tmp_path.glob(".*.tmp"))
    checks.renew(done, digits, "oat-bench check")
    entry = Entry.model_validate_json(baseline.read_text())
    assert entry.attack_seed == 3
    assert [a.card for a in entry.attacks] == [a.card for a in base.record.entry.attacks]


def test_a_part_or_a_run_is_not_renewed(invoke, tmp_path, baseline, honest, trained_folder):
    save(honest, tmp_path / "m.safetensors")
    arguments = ["check", "m.safetensors", "--baseline", baseline, "--update-baseline"]
    code, out, err = invoke(*arguments, "--lambda", "1")
    assert (code, out) == (2, "")
    assert "updated as a whole" in err
    folder = tmp_path / "run"
    shutil.copytree(trained_folder, folder)
    shutil.copy(baseline, folder / "entry.json")
    shutil.copy(baseline.with_suffix(".parquet"), folder / "outcomes.parquet")
    code, _, err = invoke("check", "m.safetensors", "--baseline", folder, "--update-baseline")
    assert code == 2
    assert "is the folder of a run, and stays" in err
    done = checks.check(honest, baselines.read(folder), digits_of(honest), show=False)
    with pytest.raises(UserError, match="the folder of a run"):
        checks.renew(done, digits_of(honest), "")
    # but a run is a baseline, and a run's folder a model whose outcomes stay with it
    code, out, _ = invoke("check", folder, "--baseline", folder, "--lambda", "1")
    assert code == 0
    assert "to make it the baseline" not in out
    assert list((folder / "outcomes").iterdir())
    assert not Path("runs").exists()


def digits_of(classifier):
    from oat_bench import datasets

    return datasets.load(classifier.info.dataset)


def test_formats_on_the_line(invoke, tmp_path, baseline, honest, monkeypatch):
    save(honest, tmp_path / "m.safetensors")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = ["check", "m.safetensors", "--baseline", baseline, "--attacks", "fgsm"]
    code, text, _ = invoke(*arguments)
    assert (code, summary.read_text()) == (0, "before\n")
    assert invoke(*arguments, "--format", "markdown")[:2] == (0, text)
    code, out, _ = invoke(*arguments, "--format", "github")
    assert code == 0
    assert out.startswith("::notice title=oat-bench check%3A ok::m.safetensors: ok: ")
    assert summary.read_text() == f"before\n{text}\n"
    code, out, _ = invoke(*arguments, "--format", "junit")
    assert len(ElementTree.fromstring(out.encode()).findall(".//testcase")) == 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dataset": "cifar100"}, "the model is of data set 'digits', the baseline of 'cifar100'"),
        ({"eps": "0.3"}, "the model is of threat model Linf eps 0.2, the baseline of Linf eps 0.3"),
        ({"threat_model": "L2"}, "only models of one threat model compare"),
        ({"data_fingerprint": "0" * 64}, "not those that the baseline was measured on"),
        ({"operating_points": []}, "the entry has no operating points"),
    ],
)
def test_bad_input_is_told_in_one_line(invoke, tmp_path, baseline, honest, change, complaint):
    save(honest, tmp_path / "m.safetensors")
    baseline.write_text(json.dumps(json.loads(baseline.read_text()) | change))
    code, out, err = invoke("check", "m.safetensors", "--baseline", baseline)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["m.safetensors"], "Missing option '--baseline'"),
        (["m.safetensors", "--baseline", "none.json"], "no entry at none.json"),
        (["none", "--baseline", "digits.json"], "no checkpoint at none"),
        (["m.safetensors", "--baseline", "digits.json", "--attacks", "x"], "known: fgsm, pgd-7"),
        (["m.safetensors", "--baseline", "digits.json", "--attacks", ""], "unknown attack"),
        (["m.safetensors", "--baseline", "digits.json", "--lambda", "0.3"], "it has 0, 1"),
        (["m.safetensors", "--baseline", "digits.json", "--max-drop", "-1"], "--max-drop"),
        (["m.safetensors", "--baseline", "digits.json", "--max-drop", "nan"], "--max-drop"),
        (["m.safetensors", "--baseline", "digits.json", "--confidence", "1"], "--confidence"),
        (["m.safetensors", "--baseline", "digits.json", "--dataset", "svhnn"], "did you mean svhn"),
    ],
)
def test_bad_options_are_told_in_one_line(invoke, tmp_path, baseline, honest, arguments, complaint):
    save(honest, tmp_path / "m.safetensors")
    code, out, err = invoke("check", *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_the_model_of_other_images_is_refused(invoke, tmp_path, baseline, build_classifier):
    save(build_classifier(num_classes=4), tmp_path / "m.safetensors")
    code, _, err = invoke("check", "m.safetensors", "--baseline", baseline)
    assert code == 2
    assert "the checkpoint of 'digits' has 4 classes:" in err


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_an_exported_file_is_checked_at_its_lambda(invoke, tmp_path, baseline, honest, kind):
    export(honest, tmp_path / f"same.{kind}", lam=1.0)
    export(noised(honest, 2.0), tmp_path / f"worse.{kind}", lam=1.0)
    code, out, _ = invoke("check", f"same.{kind}", "--baseline", baseline, "--format", "json")
    found = json.loads(out)
    assert (code, found["verdict"]) == (0, "ok")
    assert {row["lam"] for row in found["rows"]} == {1.0}
    assert all(abs(row["change"]) <= 1 for row in found["rows"])
    code, out, _ = invoke("check", f"worse.{kind}", "--baseline", baseline)
    assert code == 1
    assert "**worse**" in out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--lambda", "0"], "lambda 0 asked for; net.safetensors is the network at lambda 1 alone"),
        (["--update-baseline"], "a baseline is of a checkpoint"),
    ],
)
def test_an_exported_file_is_what_it_was_exported_as(
    invoke, tmp_path, baseline, honest, options, complaint
):
    export(honest, tmp_path / "net.safetensors", lam=1.0)
    before = Path(baseline).read_bytes()
    code, _, err = invoke("check", "net.safetensors", "--baseline", baseline, *options)
    assert code == 2
    assert complaint in err
    assert Path(baseline).read_bytes() == before


def test_an_exported_lambda_that_the_baseline_lacks_is_said(invoke, tmp_path, baseline, honest):
    export(honest, tmp_path / "net.safetensors", lam=0.3)
    code, _, err = invoke("check", "net.safetensors", "--baseline", baseline)
    assert code == 2
    assert "lambda 0.3 is not of the baseline; it has 0, 1" in err


def test_a_baseline_of_survivors_is_checked_by_its_own_design(invoke, tmp_path, honest, digits):
    """FGSM on 120 images, PGD-7 on 20 that it left standing: the same model, and a damaged one."""
    design = Design(["fgsm", "pgd-7"], {"pgd-7": ["fgsm"]})
    samples = {"pgd-7": Sample(["fgsm"], 20)}
    ready, outcomes = measure(honest, digits, n=120, lambdas=(0.5, 1.0), samples=samples)
    path = publish(tmp_path / "base.json", honest, digits, ready, outcomes, design=design)
    assert not baselines.read(path).record.entry.operating_points[0].robust_acc["fgsm"].sampled
    save(honest, tmp_path / "same.safetensors")
    save(noised(honest, 3.0), tmp_path / "noise.safetensors")
    arguments = ["--baseline", "base.json", "--max-drop", "5", "--format", "json"]
    code, text, err = invoke("check", "same.safetensors", *arguments)
    found = json.loads(text)
    assert (code, err.count("\n"), found["verdict"]) == (0, 1, "ok")
    rows = {(row["lam"], row["measure"]): row for row in found["rows"]}
    assert rows[0.5, "pgd-7"]["sampled"] == rows[None, "worst"]["sampled"] == [20, 20]
    assert rows[0.5, "fgsm"]["sampled"] is rows[0.5, "SA"]["sampled"] is None
    assert {row["n"] for row in found["rows"]} == {120}
    assert all(row["change"] == 0 for row in found["rows"])
    entry = baselines.read(path).record.entry
    for point in entry.operating_points:
        row = rows[point.lam, "pgd-7"]
        assert row["baseline"] == pytest.approx(point.robust_acc["pgd-7"].value, abs=1e-3)
    # one that has lost everything fails; what a sample follows comes with it, and no worst case
    code, text, _ = invoke("check", "noise.safetensors", *arguments, "--attacks", "pgd-7")
    found = json.loads(text)
    assert (code, found["verdict"], found["failed"]) == (1, "worse", True)
    assert {row["measure"] for row in found["rows"]} == {"SA", "fgsm", "pgd-7", "worst"}
    # so few examples show no drop to be small
    code, text, _ = invoke("check", "same.safetensors", *arguments, "--strict")
    assert (code, json.loads(text)["verdict"]) == (1, "not excluded")
    code, text, _ = invoke("check", "same.safetensors", "--baseline", "base.json")
    assert "These rows are two-phase estimates" in text
    # a baseline that is renewed keeps its design
    code, _, err = invoke("check", "same.safetensors", *arguments, "--update-baseline")
    assert (code, err.count("\n")) == (0, 1)
    again = baselines.read(path)
    assert again.design() == design
    assert again.record.entry.operating_points[0].robust_acc == entry.operating_points[0].robust_acc
