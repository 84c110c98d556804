"""A model against its baseline, with outcomes made up and with models that were damaged."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from oat_bench.classifier import load
from oat_bench.errors import UserError
from oat_bench.evaluation import pairs
from oat_bench.evaluation.outcomes import OutcomeStore
from oat_bench.regression import compare, measure_again, read_baseline
from oat_bench.regression.comparison import SA
from oat_bench.regression.formats import as_json, describe, github, junit, markdown, summary


def outcomes(robust, lams=(0.0, 1.0), attack="pgd-7"):
    """Make outcomes of which these are robust; all are right when clean."""
    n = len(robust)
    frames = [
        pd.DataFrame(
            {
                "lam": lam,
                "width": 1.0,
                "attack": attack,
                "example": range(n),
                "label": 1,
                "clean_prediction": 1,
                "attacked_prediction": np.where(robust, 1, 0),
            }
        )
        for lam in lams
    ]
    return pd.concat(frames, ignore_index=True)


def robust(n, broken):
    return np.arange(n) >= broken


def row(check, attack, lam):
    (found,) = [r for r in check.rows if (r.attack, r.lam) == (attack, lam)]
    return found


def test_rows_count_what_they_say():
    check = compare(outcomes(robust(200, 20)), outcomes(robust(200, 50)), ["pgd-7"])
    assert [(r.lam, r.attack) for r in check.rows] == [
        (0.0, SA),
        (0.0, "pgd-7"),
        (1.0, SA),
        (1.0, "pgd-7"),
        (None, SA),
        (None, "pgd-7"),
    ]
    found = row(check, "pgd-7", 1.0)
    assert (found.n, found.baseline, found.now, found.change) == (200, 90.0, 75.0, -15.0)
    assert (found.low, found.high) == tuple(100 * end for end in pairs.interval(0, 30, 200))
    assert found.p_drop >= pairs.drop_p_value(0, 30, 200, 0.01)  # corrected for six rows
    assert check.verdict == found.verdict == "worse"
    assert row(check, SA, 1.0).verdict == "ok"


def test_the_tolerance_and_the_other_direction():
    before, after = outcomes(robust(400, 100)), outcomes(robust(400, 116))
    assert compare(before, after, [], max_drop=1.0).verdict == "worse"
    assert compare(before, after, [], max_drop=4.0).verdict == "ok"
    assert compare(after, before, []).verdict == "better"
    assert compare(before, before, []).verdict == "ok"


def test_the_worst_case_is_a_row_where_there_are_several_attacks():
    before = pd.concat([outcomes(robust(50, 5)), outcomes(robust(50, 9), attack="fgsm")])
    check = compare(before, before, ["pgd-7", "fgsm"])
    assert row(check, "worst", 0.0).baseline == 82.0
    assert row(check, "worst", None).baseline == 82.0


def test_a_detectable_drop_is_found_as_often_as_is_said():
    draw, n = np.random.default_rng(0), 500
    base = outcomes(np.ones(n, dtype=bool), lams=(1.0,))
    size = row(compare(base, base, [], max_drop=1.0), "pgd-7", 1.0).detectable
    found = [
        row(compare(base, outcomes(draw.random(n) >= size / 100, lams=(1.0,)), []), "pgd-7", 1.0)
        for _ in range(60)
    ]
    assert 0.6 <= np.mean([r.verdict == "worse" for r in found]) <= 1.0


def test_outcomes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="not of the same"):
        compare(outcomes(robust(5, 1)), outcomes(robust(6, 1)), [])


# --- formats


@pytest.fixture
def worse():
    name = "<b>&\n::error::\"'%0A"
    before, after = (outcomes(robust(200, k), attack=name) for k in (20, 60))
    return compare(before, after, [])


def test_junit_counts_failures_and_takes_any_name(worse):
    suite = ElementTree.fromstring(junit(worse))
    assert (suite.get("tests"), suite.get("failures")) == ("6", "3")
    assert len(suite.findall("testcase")) == 6
    assert len(suite.findall("testcase/failure")) == 3


def test_github_commands_are_one_line_each(worse):
    lines = github(worse).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("::error title=Less robust::") for line in lines)
    assert all("%0A::error::" in line for line in lines)


def test_json_and_markdown_say_the_same(worse):
    content = json.loads(as_json(worse))
    assert (content["verdict"], len(content["rows"])) == ("worse", 6)
    assert summary(worse).startswith("WORSE: 3 of 6 accuracies dropped by more than 1 points")
    assert markdown(worse).startswith(f"**{summary(worse)}**")
    assert "-20.0" in describe(row(worse, worse.rows[1].attack, 0.0))


# --- models


@pytest.fixture(scope="module")
def data(digits):
    return digits


@pytest.fixture(scope="module")
def baseline(reported_folder):
    return read_baseline(reported_folder)


def again(baseline, classifier, data, seed=0):
    return measure_again(
        baseline, classifier, data, OutcomeStore(None), seed=seed, device=torch.device("cpu")
    )


def check_of(baseline, classifier, data, seed=0):
    now = again(baseline, classifier, data, seed)
    return compare(baseline.outcomes, now, baseline.record.worst_over())


def noised(folder, scale):
    classifier = load(folder)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight += scale * weight.std() * torch.randn(weight.shape, generator=draw)
    return classifier


def test_the_same_model_and_seed_give_the_same_outcomes(baseline, reported_folder, data):
    check = check_of(baseline, load(reported_folder), data)
    assert check.verdict == "ok"
    assert {r.change for r in check.rows} == {0.0}


def test_a_damaged_model_fails(baseline, reported_folder, data):
    """Weights are noised until RA has fallen by 3 points."""
    for scale in 0.05 * 1.25 ** np.arange(20):
        check = check_of(baseline, noised(reported_folder, float(scale)), data)
        fallen = -row(check, "pgd-7", None).change
        if fallen >= 3:
            break
    assert 3 <= fallen <= 15
    assert check.verdict == "worse"


@pytest.mark.slow
def test_the_same_model_passes_with_twenty_seeds(baseline, reported_folder, data):
    classifier = load(reported_folder)
    changes = set()
    for seed in range(1, 21):
        check = check_of(baseline, classifier, data, seed)
        assert check.verdict == "ok"
        changes |= {row(check, "pgd-7", 1.0).change}
    assert len(changes) > 1  # the seed reached the attack


def test_another_model_data_set_or_threat_is_refused(baseline, reported_folder, data):
    classifier = load(reported_folder)
    threat = classifier.info.threat.model_copy(update={"eps": 0.1})
    for changes, words in (
        ({"dataset": "svhn"}, "the baseline is of data set 'digits', the model of 'svhn'"),
        ({"threat": threat}, "only models of one threat model compare"),
    ):
        other = load(reported_folder)
        other.info = classifier.info.model_copy(update=changes)
        with pytest.raises(UserError, match=words):
            again(baseline, other, data)
    with pytest.raises(UserError, match="unknown attack in the baseline 'pgd-8'"):
        baseline.only(["pgd-8"], None)
    with pytest.raises(UserError, match=r"has no lambda 0\.7; it has 0, 0\.2, 1"):
        baseline.only(None, [0.7])
