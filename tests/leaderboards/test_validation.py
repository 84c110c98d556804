"""What `leaderboard validate` finds: one problem each, from an entry that has none."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from oat_bench.checkpoint import save
from oat_bench.datasets.splits import nested_order
from oat_bench.errors import UserError
from oat_bench.results import records, validation
from oat_bench.results.outcomes import write_parquet
from oat_bench.results.points import summarize
from oat_bench.results.records import find
from oat_bench.results.validation import problems
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import Accuracy
from oat_bench.statistics.phases import Design

ROOT = Path(__file__).parents[2]
MISSING = "is missing; make it by oat-bench integrity"


@pytest.fixture
def valid(publish):
    return publish(
        "a",
        {0.0: (98, {"fgsm": 20, "pgd-20": 2}), 1.0: (90, {"fgsm": 60, "pgd-20": 50})},
        with_outcomes=True,
        with_frontiers=True,
        examined=True,
    )


def change(record, edit):
    """Change the JSON of an entry, and return what is then wrong."""
    values = json.loads(record.entry_path.read_text())
    edit(values)
    record.entry_path.write_text(json.dumps(values))
    _, found = validation.validate(record.entry_path)
    assert all("\n" not in str(problem) for problem in found)
    return found


def texts(found, severity="error"):
    return [problem.text for problem in found if problem.severity == severity]


def test_what_ships_has_no_problem():
    entries, found = validation.validate(ROOT / "leaderboards")
    assert len(entries) >= 3
    # published before a report of integrity was asked for
    assert {problem.text.split(" ", 1)[1] for problem in found} <= {MISSING}
    assert texts(found) == []


def test_a_valid_entry_has_none(valid):
    assert validation.validate(valid.path) == ([valid.path], [])
    assert validation.validate(valid.path.parents[2]) == ([valid.path], [])


POINT = "operating_points"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(dataset="svhn"), "expected under svhn/Linf/"),
        (lambda v: v.update(threat_model="L2"), "expected under digits/L2/"),
        (lambda v: v.update(model_fingerprint="F" * 64), "model_fingerprint is 'FFF"),
        (lambda v: v.update(benchmark_card="no"), "benchmark_card is 'no'"),
        (lambda v: v.update(data_fingerprint="0"), "data_fingerprint is '0'"),
        (lambda v: v["attacks"][0].update(card="x"), "card of attack fgsm is 'x'"),
        (lambda v: v["attacks"].append(v["attacks"][0]), "attack fgsm is described twice"),
        (lambda v: v.update(command="rm -rf /"), "command is 'rm -rf /'"),
        (lambda v: v.update(name=" "), "name is empty"),
        (lambda v: v["versions"].pop("torch"), "versions lacks torch"),
        (lambda v: v[POINT][0].update(clean_acc=97.0), "clean_acc is 97, its interval"),
        (lambda v: v[POINT][0].update(autoattack_acc=1.0), "autoattack_acc is not that"),
        (lambda v: v[POINT].append(v[POINT][0]), "the entry has an operating point twice"),
        (lambda v: v["frontiers"][0]["hypervolume"].update(value=1.0), "hypervolume 1, by the"),
        (lambda v: v["frontiers"][0].update(pareto=[0.0]), "pareto is not that of the outcomes"),
        (lambda v: v["frontiers"][0].update(attack="pgd-7"), "there are no outcomes of it"),
        (lambda v: v.update(eps="much"), "not an entry of oat-bench"),
        (lambda v: v.pop("seed"), "key 'seed' is missing"),
    ],
)
def test_each_fault_is_found(valid, edit, message):
    found = texts(change(valid, edit))
    assert any(message in text for text in found), found


def interval(point, name, value, low, high):
    point["robust_acc"][name].update(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: interval(p, "fgsm", 60.0, 61.0, 70.0), "60 is outside its interval [61, 70]"),
        (lambda p: interval(p, "fgsm", 60.4, 50.0, 70.0), "60.4% is no share of 100 examples"),
        (lambda p: interval(p, "fgsm", 60.0, 55.0, 65.0), "is not the Wilson interval of 60 of"),
        (lambda p: interval(p, "fgsm", 91.0, 83.77, 95.19), "RA under fgsm, 91, is above SA, 90"),
        (lambda p: interval(p, "fgsm", 49.0, 39.42, 58.65), "the worst case, 50, is above RA"),
        (lambda p: p.update(n=200), "is not the Wilson interval"),
        (lambda p: p["robust_acc"].update(odd=p["robust_acc"]["fgsm"]), "nothing says what"),
    ],
)
def test_accuracies_must_be_possible(valid, edit, message):
    valid.outcomes_path.unlink()
    found = texts(change(valid, lambda v: edit(v[POINT][1])))
    assert any(message in text for text in found), found


def test_ra_of_fewer_examples_may_be_above_sa_of_all(publish):
    record = publish("a", {1.0: (90, {"pgd-20": 50})}, examined=True)

    def fewer(values):
        point = values[POINT][0]
        point["robust_acc"]["pgd-20"].update(value=100.0, low=72.25, high=100.0, n=10)
        point["worst_case_acc"].update(value=100.0, low=72.25, high=100.0, n=10)

    assert change(record, fewer) == []


def test_an_order_of_attacks_that_is_not_plausible_is_a_warning(publish):
    record = publish("a", {1.0: (95, {"fgsm": 20, "pgd-20": 60})}, examined=True)
    _, found = validation.validate(record.path)
    (warning,) = found
    assert warning.severity == "warning"
    assert "lambda 1: fgsm breaks more than pgd-20 (RA 20 against 60)" in warning.text
    # but not what chance may explain
    near = publish("b", {1.0: (95, {"fgsm": 55, "pgd-20": 60})}, examined=True)
    assert validation.problems(near) == []


def test_two_entries_of_one_name(publish):
    a = publish("a", {1.0: (90, 50)})
    text = a.path.read_text()
    a.path.with_name("b.json").write_text(text)
    _, found = validation.validate(a.path.parent)
    assert texts(found) == ["a.json has the same name, 'a'"]


# --- what lies beside


def test_outcomes_must_give_the_numbers(valid):
    frame = pd.read_parquet(valid.outcomes_path)
    frame.loc[0, "attacked_prediction"] = 3
    frame.to_parquet(valid.outcomes_path)
    _, found = validation.validate(valid.path)
    assert any("fgsm is 20 of 100, by the outcomes 19.00 of 100" in t for t in texts(found))
    frame[frame["lam"] == 0].to_parquet(valid.outcomes_path)
    assert texts(validation.problems(valid)) == ["a.parquet is of other operating points"]
    frame[frame["attack"] == "fgsm"].to_parquet(valid.outcomes_path)
    # without one of its attacks there is no worst case
    assert texts(validation.problems(valid))[0].endswith("the outcomes are of fgsm")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000])
def test_damaged_outcomes_are_a_problem(valid, content):
    valid.outcomes_path.write_bytes(content)
    (text,) = texts(validation.problems(valid))
    assert "damaged outcomes" in text


@pytest.mark.parametrize(
    ("column", "values"),
    [("lam", "a"), ("label", None), ("attack", 3), ("example", 2.5), ("width", "1;2")],
)
def test_outcomes_of_other_types_are_a_problem(valid, column, values):
    frame = pd.read_parquet(valid.outcomes_path)
    frame.assign(**{column: values}).to_parquet(valid.outcomes_path)
    assert texts(validation.problems(valid))


def test_a_checkpoint_must_be_the_models(publish, build_classifier):
    classifier = build_classifier()
    stated = {"model_fingerprint": classifier.fingerprint(), "benchmark_card": "b" * 64}
    record = publish("a", {1.0: (90, 50)}, **stated)
    path = record.entry_path.with_suffix(".safetensors")
    save(classifier, path)
    # that checkpoint does not say what it was trained by
    assert texts(validation.problems(record)) == [
        f"benchmark_card is '{'b' * 64}'; a.safetensors is of ''"
    ]
    save(build_classifier(seed=1), path)
    assert "a.safetensors is another model" in texts(validation.problems(record))[0]
    path.write_bytes(b"x")
    assert "damaged" in texts(validation.problems(record))[0]


def test_a_report_of_integrity_must_be_the_models(valid):
    path = valid.entry_path.with_suffix(".integrity.json")
    path.write_text(json.dumps({"verdict": "pass", "model_fingerprint": "f" * 64}))
    assert validation.validate(valid.path.parent) == ([valid.path], [])
    path.write_text(json.dumps({"verdict": "pass", "model_fingerprint": "e" * 64}))
    assert texts(validation.problems(valid)) == ["a.integrity.json is of another model"]
    path.write_text("{")
    assert "cannot be read" in texts(validation.problems(valid))[0]


def test_a_new_entry_needs_a_report(publish):
    record = publish("a", {1.0: (90, 50)}, flags=[])
    (problem,) = validation.problems(record)
    assert (problem.severity, problem.text) == ("error", f"a.integrity.json {MISSING}")
    before = publish("b", {1.0: (90, 50)})
    (problem,) = validation.problems(before)
    assert (problem.severity, problem.text) == ("warning", f"b.integrity.json {MISSING}")
    # what an entry says of its report must be so
    wrong = "integrity is 'fail'; c.integrity.json says 'pass'"
    for said, found in (("fail", [wrong]), ("pass", []), (None, [])):
        other = publish("c", {1.0: (90, 50)}, examined=True, integrity=said)
        assert texts(validation.problems(other)) == found
    claimed = publish("d", {1.0: (90, 50)}, integrity="pass")
    assert texts(validation.problems(claimed)) == [f"d.integrity.json {MISSING}"]


# --- files


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 100_000, b'{"name": 1e999}']
)
def test_a_file_that_is_no_entry_is_one_problem(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    _, (problem,) = validation.validate(path)
    assert problem.severity == "error"
    assert str(problem).startswith(f"{path}: error: not an entry of oat-bench")


def test_without_an_entry_there_is_nothing_to_check(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="no entr"):
            validation.validate(path)


def test_entries_are_told_from_what_lies_beside_them(valid, tmp_path):
    runs = tmp_path / "runs" / "a"
    (runs / "outcomes" / "cell").mkdir(parents=True)
    for name in ("entry.json", "splits.json", "integrity.json", "outcomes/cell/cell.json"):
        (runs / name).write_text("{}")
    valid.entry_path.with_suffix(".integrity.json").write_text("{}")
    valid.entry_path.with_suffix(".transfer.json").write_text("{}")
    assert find(tmp_path) == [valid.path, runs / "entry.json"]


def test_a_run_is_checked_where_it_lies(valid, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "entry.json").write_bytes(valid.path.read_bytes())
    (run / "outcomes.parquet").write_bytes(valid.outcomes_path.read_bytes())
    assert validation.validate(run) == ([run / "entry.json"], [])
    assert validation.problems(records.read(run)) == []


@pytest.fixture
def phased(publish):
    """A published entry whose PGD-20 was run on the first 30 of 80 survivors, of which 21 stand."""
    n, points = 200, {0.5: (150, {"fgsm": 80, "pgd-20": 80})}
    record = publish("a", points, n=n, with_outcomes=True, examined=True)
    rows = record.outcomes()
    order = nested_order(torch.ones(n, dtype=torch.int64)).tolist()
    rows = rows.set_index("example").loc[order].reset_index()
    survivors = [example for example in order if example < 80]
    costly, sample = rows["attack"] == "pgd-20", set(survivors[:30])
    rows = rows[~costly | rows["example"].isin(sample)]
    broken = (rows["attack"] == "pgd-20") & rows["example"].isin(survivors[:9])
    rows.loc[broken, "attacked_prediction"] = 3
    return sampled(record, rows), rows, survivors


def sampled(record, rows):
    """Write an entry of these outcomes, in which PGD-20 is of survivors."""
    attacks = [
        one.model_copy(update={"after": ["fgsm"] if one.name == "pgd-20" else None})
        for one in record.entry.attacks
    ]
    design = Design(["fgsm", "pgd-20"], {"pgd-20": ["fgsm"]})
    changes = {"attacks": attacks, "operating_points": summarize(rows, design)}
    entry = record.entry.model_copy(
        update=changes | {"frontiers": frontier.summarize(rows, design)}
    )
    record.entry_path.write_text(entry.as_json())
    write_parquet(record.outcomes_path, rows.reset_index(drop=True))
    return records.read(record.path)


def test_an_entry_of_two_phases_has_no_problem(phased):
    record, _, _ = phased
    accuracy = record.entry.operating_points[0].robust_acc["pgd-20"]
    assert (accuracy.value, accuracy.left, accuracy.sampled) == (28.0, 80, 30)
    assert not texts(problems(record))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampled": 60}, "is not the interval of 42 of 60, sampled of 80 left of 200"),
        ({"left": 160}, "28% is no share of 30 examples, sampled of 160 left of 200"),
        ({"sampled": 81}, "81 sampled of 80 left of 200 examples cannot be"),
        ({"left": 201}, "30 sampled of 201 left of 200 examples cannot be"),
        ({"left": None}, "30 sampled of None left of 200 examples cannot be"),
        ({"left": None, "sampled": None}, "is not the Wilson interval of 56 of 200"),
        ({"value": 29.0}, "29% is no share of 30 examples, sampled of 80 left of 200"),
        ({"high": 33.0}, "is not the interval of 21 of 30"),
    ],
)
def test_forged_samples_are_found(phased, changes, message):
    record, _, _ = phased
    (point,) = record.entry.operating_points
    point.robust_acc["pgd-20"] = point.robust_acc["pgd-20"].model_copy(update=changes)
    assert any(message in text for text in texts(problems(record))), texts(problems(record))


def test_counts_of_a_sample_must_be_those_of_the_outcomes(phased):
    record, _, _ = phased
    (point,) = record.entry.operating_points
    point.robust_acc["pgd-20"] = Accuracy.two_phase(200, 80, 60, 42)
    said = "pgd-20 is 28 of 200, 60 of 80 left, by the outcomes 28.00 of 200, 30 of 80 left"
    assert f"a.parquet: lambda 0.5: {said}" in texts(problems(record))


def test_a_sample_that_was_chosen_is_found(phased):
    record, rows, survivors = phased
    moved = {survivors[0]: survivors[40]}  # one that breaks goes, one that stands comes
    costly = rows["attack"] == "pgd-20"
    chosen = rows.assign(example=rows["example"].where(~costly, rows["example"].replace(moved)))
    chosen.loc[costly & (chosen["example"] == survivors[40]), "attacked_prediction"] = 1
    found = texts(problems(sampled(record, chosen)))
    assert found == ["a.parquet: lambda 0.5: pgd-20 was not run on the first 30 survivors"]
