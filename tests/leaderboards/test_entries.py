"""Entries: RobustBench's names, and numbers that are those of the outcomes."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.results import records
from oat_bench.results.entries import Entry, make_entry
from oat_bench.results.points import summarize
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.phases import Design

#: the fields of a model_info file of RobustBench
ROBUSTBENCH = {
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "eps",
    "clean_acc",
    "reported",
    "autoattack_acc",
}


def outcomes(n=37):
    """Outcomes in which attack k breaks every (k + 2)nd example, at two lambda."""
    rows = []
    for lam in (0.0, 0.15):
        for k, attack in enumerate(["fgsm", "pgd-7", "autoattack"]):
            for example in range(n):
                clean = 1 if example % 10 else 2
                broken = example % (k + 2) == 0 or lam == 0
                rows.append((lam, 1.0, attack, example, 1, clean, 3 if broken else clean))
    names = ["lam", "width", "attack", "example", "label"]
    return pd.DataFrame(rows, columns=[*names, "clean_prediction", "attacked_prediction"])


@pytest.fixture
def make(build_classifier):
    def make(attacks=("fgsm", "pgd-7", "autoattack"), eps=8 / 255, norm="Linf", frame=None):
        ready = [
            prepare(attack_card(name), Threat(eps=eps), n_classes=10, seed=0) for name in attacks
        ]
        frame = outcomes() if frame is None else frame
        info = build_classifier().info
        seen = frame[frame["attack"].isin(attacks)]
        results = summarize(seen, Design(attacks), info.trained_at)
        return make_entry(
            info, results, ready, model_fingerprint="f" * 64, command="c", eps=eps, norm=norm
        )

    return make


def test_the_json_is_read_back_as_the_same_entry(make):
    entry = make()
    text = entry.model_dump_json(by_alias=True)
    assert Entry.model_validate_json(text) == entry
    with pytest.raises(ValidationError):
        Entry.model_validate(json.loads(text) | {"surprise": 1})
    missing = json.loads(text)
    del missing["dataset"]
    with pytest.raises(ValidationError):
        Entry.model_validate(missing)


def test_the_names_are_robustbenchs(make):
    values = json.loads(make().model_dump_json(by_alias=True))
    at_a_point = {"clean_acc", "autoattack_acc"}
    assert set(values) >= ROBUSTBENCH - at_a_point
    for point in values["operating_points"]:
        assert set(point) >= at_a_point
    assert values["dataset"] == "digits"
    assert values["architecture"] == "wrn-10-1"
    assert values["eps"] == "8/255"
    assert values["threat_model"] == "Linf"
    assert values["number_forward_passes"] == 1
    assert values["additional_data"] is False
    assert values["attacks"][0]["class"] == "FGSM"


def test_the_accuracies_are_those_of_the_outcomes(make):
    frame, entry = outcomes(), make()
    assert [point.lam for point in entry.operating_points] == [0.0, 0.15]
    assert [point.trained for point in entry.operating_points] == [True, False]
    for point in entry.operating_points:
        rows = frame[frame["lam"] == point.lam]
        right = rows["clean_prediction"] == rows["label"]
        robust = right & (rows["attacked_prediction"] == rows["label"])
        assert point.n == 37
        assert point.clean_acc == round(100 * right.mean(), 4)
        assert point.clean_acc == point.clean_acc_interval.value
        assert list(point.robust_acc) == ["fgsm", "pgd-7", "autoattack"]
        for name, interval in point.robust_acc.items():
            assert interval.value == round(100 * robust[rows["attack"] == name].mean(), 4)
            assert interval.low <= interval.value <= interval.high
        assert point.autoattack_acc == point.robust_acc["autoattack"].value
        worst = robust.groupby(rows["example"]).all()
        assert point.worst_case_acc.value == round(100 * worst.mean(), 4)
        assert WORST not in point.robust_acc


def test_what_was_not_run_is_not_claimed(make):
    entry = make(attacks=("fgsm",))
    assert all(point.autoattack_acc is None for point in entry.operating_points)
    assert [attack.name for attack in entry.attacks] == ["fgsm"]
    assert entry.reported is None


@pytest.mark.parametrize(
    ("eps", "written"),
    [
        *[(level / 255, f"{level}/255") for level in range(1, 17) if level % 51],
        (0.4, "0.4"),
        (0.2, "0.2"),
        (0.3, "0.3"),
        (0.5, "0.5"),
        (0.0, "0"),
        (1.0, "1"),
        (3.0, "3"),
        (0.25 / 255, "0.000980392"),
        (0.031, "0.031"),
        (128 / 255, "128/255"),
    ],
)
def test_eps_is_written_as_in_the_field(make, eps, written):
    assert make(eps=eps, attacks=("pgd-7",)).eps == written


def test_the_attacks_are_recorded_as_they_were_run(make):
    entry = make(eps=0.1)
    for recorded, name in zip(entry.attacks, ["fgsm", "pgd-7", "autoattack"], strict=True):
        card = attack_card(name)
        assert recorded.name == name
        assert recorded.engine == "oat_bench"  # which computes in place of torchattacks
        assert recorded.eps == 0.1
        assert {part.parameters["eps"] for part in recorded.chain()} == {0.1}
        assert recorded.card == card.fingerprint()


def test_parameters_without_a_finite_value_survive_json(build_classifier):
    card = AttackCard.model_validate(
        {
            "name": "art-pgd",
            "engine": "art",
            "class": "ProjectedGradientDescent",
            "parameters": {"norm": float("inf"), "eps": "$eps"},
        }
    )
    other = card.model_copy(update={"parameters": {"norm": None, "eps": "$eps"}})
    assert card.fingerprint() != other.fingerprint()
    attack = prepare(card, Threat(eps=0.1), n_classes=10, seed=0)
    frame = outcomes().assign(attack="art-pgd").drop_duplicates(["lam", "example"])
    results = summarize(frame, Design(["art-pgd"]))
    entry = make_entry(
        build_classifier().info,
        results,
        [attack],
        model_fingerprint="",
        command="",
        eps=0.1,
        norm="Linf",
    )
    text = entry.model_dump_json(by_alias=True)
    assert json.loads(text)["attacks"][0]["parameters"] == {"norm": "Infinity", "eps": 0.1}


def test_an_entry_names_the_versions_behind_it(make):
    import torch
    import torchattacks

    versions = make().versions
    assert versions["torch"] == torch.__version__
    assert versions["torchattacks"] == torchattacks.__version__
    assert {"oat-bench", "adversarial-robustness-toolbox"} <= set(versions)


def test_intervals_are_rounded_to_four_decimals(make):
    for point in make().operating_points:
        for interval in [point.clean_acc_interval, *point.robust_acc.values()]:
            assert isinstance(interval, Accuracy)
            for value in (interval.value, interval.low, interval.high):
                assert round(value, 4) == value


@given(st.integers(1, 999).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_table_of_an_entry_is_the_table_of_its_outcomes(count):
    hits, n = count
    assert f"{Accuracy.counted(hits, n).value:.1f}" == f"{100 * hits / n:.1f}"


def test_summary_numbers_of_every_frontier_are_in_the_entry(build_classifier):
    frame = outcomes()
    summaries = frontier.summarize(frame, Design(["fgsm", "pgd-7"]))
    entry = make_entry(
        build_classifier().info,
        summarize(frame, Design()),
        [],
        model_fingerprint="",
        command="",
        eps=0.1,
        norm="Linf",
        frontiers=summaries,
    )
    assert Entry.model_validate_json(entry.model_dump_json(by_alias=True)) == entry
    assert [f.attack for f in entry.frontiers] == ["fgsm", "pgd-7", "autoattack", WORST]
    for written in entry.frontiers:
        assert written.hypervolume.low <= written.hypervolume.value <= written.hypervolume.high
        assert written.hole.lam == 0.15


def test_an_entry_without_summary_numbers_stays_valid(make):
    values = json.loads(make().model_dump_json(by_alias=True))
    del values["frontiers"]
    assert Entry.model_validate(values).frontiers is None


def test_an_attack_on_survivors_names_its_first_phase(make, tmp_path):
    """The design of an evaluation stands in its entry, whole; entries of before have none."""
    plain = make()
    assert [attack.after for attack in plain.attacks] == [None] * 3
    costly = plain.attacks[-1].model_copy(update={"after": ["fgsm", "pgd-7"]})
    entry = plain.model_copy(update={"attacks": [*plain.attacks[:-1], costly]})
    (tmp_path / "entry.json").write_text(entry.as_json())
    design = records.read(tmp_path).design()
    assert design == Design(["fgsm", "pgd-7", "autoattack"], {"autoattack": ["fgsm", "pgd-7"]})
