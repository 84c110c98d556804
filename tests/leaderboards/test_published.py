"""What lies under leaderboards/ is what the package writes."""

import re
from pathlib import Path

import pandas as pd
import pytest

from oat_bench import datasets, run
from oat_bench.attacks.card import attack_card
from oat_bench.benchmark import benchmark_card
from oat_bench.checkpoint import load
from oat_bench.regression import baseline as baselines
from oat_bench.results.entries import Entry
from oat_bench.results.records import find

ROOT = Path(__file__).parents[2]
ENTRIES = find(ROOT / "leaderboards")
OUTCOMES = sorted((ROOT / "leaderboards").rglob("*.parquet"))
CHECKPOINTS = sorted((ROOT / "leaderboards").rglob("*.safetensors"))


def test_there_are_entries():
    assert ENTRIES


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_an_entry_is_valid_and_lies_where_it_belongs(path):
    entry = Entry.model_validate_json(path.read_text())
    assert path.parent == ROOT / "leaderboards" / entry.dataset / entry.threat_model
    assert entry.command.startswith("oat-bench ")
    for point in entry.operating_points:
        worst = point.worst_case_acc
        robust = point.robust_acc.values()
        # only what is of the same examples compares
        assert all(r.value <= point.clean_acc for r in robust if r.n is None)
        same = [r.value for r in robust if r.n == worst.n]
        assert same
        assert worst.value <= min(same)


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_a_checkpoint_is_that_of_its_entry(path):
    entry = Entry.model_validate_json(path.with_suffix(".json").read_text())
    classifier = load(path)
    assert classifier.fingerprint() == entry.model_fingerprint
    assert (classifier.info.dataset, classifier.info.method) == (entry.dataset, entry.method)


@pytest.mark.parametrize("path", OUTCOMES, ids=lambda path: path.stem)
def test_outcomes_make_a_baseline_and_are_small(path):
    # `read` refuses what comes to other accuracies
    baseline = baselines.read(path.with_suffix(".json"))
    dataset = baseline.record.entry.dataset
    if dataset in datasets.BUNDLED:  # the others are not at hand in tests
        baseline.check_data(datasets.load(dataset))
    checkpoint = path.with_suffix(".safetensors")
    if checkpoint in CHECKPOINTS:
        baseline.check_model(load(checkpoint).info)
    assert baseline.whole
    assert path.stat().st_size < 10_000 + 5 * len(pd.read_parquet(path))


def test_the_digits_entry_is_a_baseline():
    assert ROOT / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.parquet" in OUTCOMES


@pytest.mark.parametrize("benchmark", ["fashion-12x12", "fashion-12x12-l2", "digits-large-eps"])
def test_the_shipped_cards_are_those_of_the_published_entry(benchmark):
    card = benchmark_card(benchmark)
    data = datasets.load(card.dataset)
    path = ROOT / "leaderboards" / card.dataset / card.threat.norm / "oat-wrn-10-1.json"
    entry = Entry.model_validate_json(path.read_text())
    assert run.training_identity(card, data, entry.seed) == entry.benchmark_card
    for attack in entry.attacks:
        assert attack_card(attack.name).fingerprint() == attack.card


def test_in_l2_too_robustness_is_chosen_at_test_time():
    path = ROOT / "leaderboards" / "fashion-12x12" / "L2" / "oat-wrn-10-1.json"
    first, *_, last = Entry.model_validate_json(path.read_text()).operating_points
    assert (first.lam, last.lam) == (0, 1)
    assert last.robust_acc["autoattack"].value > first.robust_acc["autoattack"].value + 15
    assert first.clean_acc > last.clean_acc


def test_the_tutorial_shows_the_published_numbers():
    path = ROOT / "leaderboards" / "fashion-12x12" / "Linf" / "oat-wrn-10-1.json"
    entry = Entry.model_validate_json(path.read_text())
    page = (ROOT / "docs" / "tutorial.md").read_text()
    rows = re.findall(r"^\| +[\d.]+ \| \d+ \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == len(entry.operating_points)
    for row, point in zip(rows, entry.operating_points, strict=True):
        shown = [float(cell.split()[0]) for cell in row.split("|")]
        robust = [interval.value for interval in point.robust_acc.values()]
        assert shown == [
            round(value, 1) for value in (point.clean_acc, *robust, point.worst_case_acc.value)
        ]
