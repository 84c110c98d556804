"""Baselines: what they ask for, and what does not go with them."""

import json

import pandas as pd
import pytest
import torch
from making import measure, publish

from oat_bench.attacks.card import attack_card
from oat_bench.cards import Threat
from oat_bench.datasets import Dataset, Split
from oat_bench.errors import UserError
from oat_bench.regression import baseline as baselines
from oat_bench.results.records import Record, read
from oat_bench.statistics.phases import Design


def rewritten(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_where_outcomes_lie(baseline, tmp_path):
    assert read(baseline).outcomes_path == tmp_path / "digits.parquet"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "entry.json").write_text(baseline.read_text())
    for path in (folder, folder / "entry.json"):
        assert read(path).outcomes_path == folder / "outcomes.parquet"
        assert read(path).outcomes() is None
    # another entry in a run's folder is not the run's
    (folder / "outcomes.parquet").write_bytes(baseline.with_suffix(".parquet").read_bytes())
    (folder / "other.json").write_text(baseline.read_text())
    assert read(folder / "other.json").outcomes() is None
    frames = [read(path).outcomes() for path in (folder, baseline)]
    pd.testing.assert_frame_equal(*frames)


def test_attacks_are_rebuilt_as_they_were_run(baseline, measured):
    ready, _ = measured
    rebuilt = baselines.read(baseline).prepare(10)
    assert [a.fingerprint() for a in rebuilt] == [a.fingerprint() for a in ready]
    assert [a.card for a in rebuilt] == [a.card for a in ready]
    others = baselines.read(baseline).prepare(10, seed=7)
    assert {attack.seed for attack in others} == {7}


def test_a_card_that_changed_or_never_shipped_is_rebuilt_from_the_entry(
    tmp_path, honest, digits, baseline
):
    ready, _ = measure(honest, digits, attacks=("fgsm", "pgd-7"), lambdas=(0.0,), n=5)
    entry = json.loads(baseline.read_text())
    entry["attacks"][1] |= {"card": "of another day"}
    entry["attacks"][1]["parameters"] |= {"steps": 3}
    baseline.write_text(json.dumps(entry))
    _, pgd = baselines.read(baseline).prepare(10)
    assert pgd.parameters == ready[1].parameters | {"steps": 3}
    assert (pgd.card.name, pgd.card.engine, pgd.card.class_) == ("pgd-7", "oat_bench", "PGD")
    assert pgd.threat.eps == honest.info.threat.eps


def test_the_attack_of_another_library_draws_from_the_seed(tmp_path, honest, digits):
    shipped = attack_card("autoattack")
    ready, outcomes = measure(
        honest,
        digits,
        attacks=("fgsm", "autoattack"),
        lambdas=(1.0,),
        n=30,
        fewer={"autoattack": 6},
    )
    path = publish(tmp_path / "x.json", honest, digits, ready, outcomes)
    base = baselines.read(path)
    for seed in (0, 5):
        _, auto = base.prepare(10, seed)
        expected = [
            part.resolve(honest.info.threat, n_classes=10, seed=seed) for part in shipped.parts
        ]
        assert [run.parameters for run in auto.chain] == expected
        assert {run.parameters["seed"] for run in auto.chain} == {seed}
    # fewer examples, in the order of the evaluation
    (many, names), (few, others) = base.shares()
    assert (names, others) == (["fgsm"], ["autoattack"])
    assert (len(many), len(few)) == (30, 6)
    assert torch.equal(many[:6], few)


def test_some_attacks_and_lambda(baseline):
    base = baselines.read(baseline)
    assert base.whole
    part = base.restricted(["pgd-7"], [1.0])
    assert not part.whole
    assert set(part.outcomes["attack"]) == {"pgd-7"}
    assert set(part.outcomes["lam"]) == {1.0}
    # of some attacks there is no worst case
    assert part.design() == Design()
    assert base.design() == Design(["fgsm", "pgd-7"])
    with pytest.raises(UserError, match=r"unknown attack of the baseline 'pgd-8'; did you mean"):
        base.restricted(["pgd-8"])
    with pytest.raises(UserError, match=r"lambda 0.5 is not of the baseline; it has 0, 1"):
        base.restricted(lambdas=[0.5])


# --- what does not go together


def broken(path, **changes):
    """Return the complaint about a baseline whose outcomes were changed."""
    frame = pd.read_parquet(path.with_suffix(".parquet"))
    frame = changes["by"](frame)
    frame.to_parquet(path.with_suffix(".parquet"))
    with pytest.raises(UserError) as error:
        baselines.read(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: f[f["attack"] == "fgsm"], "the outcomes are of fgsm"),
        (lambda f: f[f["lam"] == 0], "is of other operating points"),
        (lambda f: f.iloc[1:], "fgsm is "),
        (lambda f: f.iloc[:0], "is of other operating points"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "holds an outcome twice"),
        (lambda f: f.assign(attacked_prediction=f["label"]), "by the outcomes"),
        (lambda f: f.assign(example=f["example"] + 1000 * f["lam"].astype(int)), "other examples"),
        (lambda f: f.assign(label="nine"), "damaged outcomes"),
        (lambda f: f.drop(columns="lam"), "damaged outcomes"),
        (lambda f: f.assign(example=float("nan")), "damaged outcomes"),
    ],
)
def test_outcomes_that_are_not_the_entrys_are_refused(baseline, change, complaint):
    assert complaint in broken(baseline, by=change)


def test_an_entry_alone_is_no_baseline(baseline):
    baseline.with_suffix(".parquet").unlink()
    with pytest.raises(UserError, match="has no outcomes beside it"):
        baselines.read(baseline)


def test_another_threat_model_is_refused(baseline, honest):
    base = baselines.read(baseline)
    base.check_model(honest.info)
    for threat in (Threat(eps=0.3), Threat(eps=0.2, norm="L2")):
        with pytest.raises(UserError, match="threat model") as error:
            base.check_model(honest.info.model_copy(update={"threat": threat}))
        assert "\n" not in str(error.value)


def test_operating_points_that_the_model_lacks_are_refused(tmp_path, baseline, honest):
    base = baselines.read(baseline)
    dedicated = honest.info.model_copy(update={"method": "pgd-at", "trained_lambdas": [0.0, 0.5]})
    with pytest.raises(UserError, match=r"pgd-at: lambda 1 was not trained.*--lambda"):
        base.check_model(dedicated)
    entry = json.loads(baseline.read_text())
    frame = pd.read_parquet(baseline.with_suffix(".parquet")).assign(width=0.5)
    frame.to_parquet(baseline.with_suffix(".parquet"))
    for point in entry["operating_points"]:
        point["width"] = 0.5
    baseline.write_text(json.dumps(entry))
    with pytest.raises(UserError, match=r"width 0.5 asked for; the network has 1"):
        baselines.read(baseline).check_model(honest.info)


def with_test(data, split):
    return Dataset(data.name, data.classes, data.train, data.validation, split)


def test_other_data_are_refused(baseline, digits):
    base = baselines.read(baseline)
    base.check_data(digits)
    test = digits.test
    cases = [
        (Dataset("svhn", digits.classes, digits.train, digits.validation, test), "'svhn'"),
        (with_test(digits, Split(16 - test.images, test.labels, test.levels)), "not those that"),
    ]
    for data, complaint in cases:
        with pytest.raises(UserError, match=complaint):
            base.check_data(data)
    # an entry of before images were hashed says less
    old = baselines.read(rewritten(baseline, data_fingerprint=""))
    old.check_data(digits)
    old.check_data(cases[1][0])
    with pytest.raises(UserError, match="is missing; the test set of 'digits' has 300"):
        old.check_data(with_test(digits, test.take(slice(0, 300))))
    with pytest.raises(UserError, match="labels of 'digits' are not those"):
        old.check_data(with_test(digits, Split(test.images, test.labels.roll(1), test.levels)))


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        ({"class": "Nothing"}, "unknown class in attack card"),
        ({"parameters": {"eps": "$secret"}}, "cannot be run"),
        ({"parameters": {"steps": 7}}, "needs parameter 'eps'"),
        ({"engine": "os"}, "cannot be run"),
    ],
)
def test_attacks_that_cannot_be_rebuilt_are_refused_in_one_line(baseline, attack, complaint):
    entry = json.loads(baseline.read_text())
    entry["attacks"][1] |= {"card": "unknown"} | attack
    path = baseline.with_name("other.json")
    path.write_text(json.dumps(entry))
    record = Record(path, read(path).entry)
    base = baselines.Baseline(record, record.entry.attacks, [], pd.DataFrame())
    with pytest.raises(UserError, match=complaint):
        base.prepare(10)
