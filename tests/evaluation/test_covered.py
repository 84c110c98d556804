"""A report covers what its folder has of the model; what it does not is said."""

import pandas as pd
import pytest
import torch

from oat_bench import figures, run
from oat_bench.checkpoint import load
from oat_bench.figures.report import of_run
from oat_bench.result import measured
from oat_bench.results import records, validation

ATTACKS = "fgsm,pgd-7"


@pytest.fixture
def evaluate(brief, digits, trained_folder, tmp_path, monkeypatch, capfd):
    """Evaluate into a folder: the entry, and what was said."""
    monkeypatch.setattr(figures, "draw_report", lambda *_: {})
    model, device = load(trained_folder), torch.device("cpu")

    def evaluate(out, lambdas, attacks=ATTACKS, n=40, *, only=False, seed=0, **changes):
        changes |= {"lambdas": [*map(float, lambdas)], "attacks": attacks, "n_examples": n}
        card = run.with_evaluation(brief, digits, **changes)
        ready = run.prepare_attacks(card, 10, seed)
        about = {"command": f"oat-bench run --lambda {lambdas}", "device": device}
        result = measured(model, card, digits, ready, out=tmp_path / out, only=only, **about)
        result.save(tmp_path / out)
        record = records.read(tmp_path / out)
        assert validation.contradictions(record) == []
        return record.entry, capfd.readouterr().err

    return evaluate


def found(entry):
    """The accuracies, without what is timed."""
    points = [
        point.model_dump(exclude={"cost", "attack_costs"}) for point in entry.operating_points
    ]
    return points, entry.frontiers, entry.attacks, entry.flags


def passes(entry):
    points = entry.operating_points
    return [sum(c.forward + c.backward for c in p.attack_costs) for p in points]


@pytest.mark.parametrize("killed", [False, True])
def test_two_runs_are_reported_as_one_that_does_all(evaluate, tmp_path, killed):
    whole, said = evaluate("whole", [0, 0.2, 1])
    assert said == ""
    evaluate("parts", [0, 1])
    if killed:  # it left its outcomes, and no report
        (tmp_path / "parts" / "entry.json").unlink()
    parts, said = evaluate("parts", [0.2, 1])
    assert said == "the report also covers lambda 0, from earlier runs; --only leaves that out\n"
    assert found(parts) == found(whole)
    assert passes(parts) == passes(whole)
    commands = ["oat-bench run --lambda [0, 1]", "oat-bench run --lambda [0.2, 1]"]
    assert parts.command == " && ".join(commands[killed:])
    keys = ["lam", "attack", "example"]
    frames = [pd.read_parquet(tmp_path / p / "outcomes.parquet") for p in ("whole", "parts")]
    first, second = (frame.sort_values(keys, ignore_index=True) for frame in frames)
    pd.testing.assert_frame_equal(first, second)


def test_less_of_everything_leaves_the_report_as_it_was(evaluate, tmp_path):
    whole, _ = evaluate("one", [0, 0.2, 1])
    fewer, said = evaluate("one", [0.2], "fgsm", 15)
    assert said.startswith("the report also covers ")
    for what in ("lambda 0, 1", "pgd-7", "fgsm on 40 examples", "--only"):
        assert what in said
    assert found(fewer) == found(whole)
    assert passes(fewer) == passes(whole)
    fewer, _ = evaluate("one", [0.2], "pgd-7", 15)  # weakest first all the same
    assert {(*point.robust_acc,) for point in fewer.operating_points} == {("fgsm", "pgd-7")}
    assert [attack.name for attack in fewer.attacks] == ["fgsm", "pgd-7"]
    narrow, said = evaluate("one", [0.2], "fgsm", 15, only=True)
    assert ("entry.json: replaced; the earlier one had" in said, "--only" in said) == (True, False)
    (point,) = narrow.operating_points
    assert (point.n, set(point.robust_acc)) == (15, {"fgsm"})
    # of one attack there is no worst case
    assert "worst" not in (tmp_path / "one" / "table.md").read_text()


def test_of_killed_runs_what_has_as_many_examples_is_covered(evaluate, tmp_path):
    evaluate("one", [0], n=15)
    evaluate("one", [0.1], "fgsm,noise", n=40)
    evaluate("one", [1], n=40)
    (tmp_path / "one" / "entry.json").unlink()
    entry, said = evaluate("one", [0.2], "pgd-7", n=20)
    assert said.startswith("the report also covers lambda 0.1, 1, from earlier runs")
    sizes = {point.lam: (point.n, set(point.robust_acc)) for point in entry.operating_points}
    assert sizes == {0.1: (20, {"fgsm"}), 0.2: (20, {"pgd-7"}), 1: (20, {"fgsm", "pgd-7"})}
    # as many examples as there are of all that is asked for
    (tmp_path / "one" / "entry.json").unlink()
    entry, said = evaluate("one", [0.1, 1], "fgsm", n=20)
    assert {point.lam: point.n for point in entry.operating_points} == {0.1: 40, 1: 40}
    assert "fgsm on 40 examples" in said


def test_a_point_that_lacks_an_attack_has_no_worst_case(evaluate):
    evaluate("one", [0, 1])
    entry, said = evaluate("one", [0.2], "fgsm")
    assert "no worst case at lambda 0.2: pgd-7 not run there\n" in said
    worst = {point.lam: point.worst_case_acc is not None for point in entry.operating_points}
    assert worst == {0: True, 0.2: False, 1: True}
    assert [set(p.robust_acc) for p in entry.operating_points][1] == {"fgsm"}
    # of all points there is a frontier under what all have
    assert [summary.attack for summary in entry.frontiers] == ["fgsm"]


def test_where_no_attack_is_common_to_all_points_no_frontier_is_drawn(evaluate):
    evaluate("one", [0], "fgsm", 5)
    entry, said = evaluate("one", [1], "pgd-7", 5)
    assert said.startswith("the report also covers lambda 0, from earlier runs")
    assert [set(point.robust_acc) for point in entry.operating_points] == [{"fgsm"}, {"pgd-7"}]
    assert (entry.frontiers or [], [*of_run(entry, None, ())]) == ([], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seed": 1}, "attack seed 0"), ({"gradients": "bf16"}, "gradients in float32")],
)
def test_what_is_measured_otherwise_is_not_mixed_and_its_end_is_said(evaluate, changes, words):
    evaluate("one", [0, 1])
    entry, said = evaluate("one", [1], **changes)
    assert [point.lam for point in entry.operating_points] == [1]
    assert f"replaced; the earlier one had {words}" in said


def test_an_attack_that_sees_survivors_now_is_of_survivors_everywhere(evaluate):
    evaluate("one", [0, 1], n=40, fewer_examples={})
    entry, said = evaluate("one", [1], n=40, fewer_examples={"pgd-7": 5})
    first, second = entry.operating_points
    assert [point.robust_acc["pgd-7"].sampled for point in (first, second)] == [5, 5]
    assert "the report also covers lambda 0, from earlier runs" in said
    assert "replaced; the earlier one had pgd-7" in said
