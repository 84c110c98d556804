"""Families of runs, against NumPy on the accuracies of their entries."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from oat_bench.reports import comparison as reports
from oat_bench.results import comparison, records
from oat_bench.results.entries import Entry
from oat_bench.results.points import PointResult
from oat_bench.statistics.accuracy import Accuracy


def make_entry(seed, *, lambdas=(0.0, 0.1, 1.0), width=1.0, trained=(0.0, 1.0), **changes):
    """Draw an entry's accuracies."""
    draw = np.random.default_rng([seed, len(str(changes))])
    points = []
    for lam in lambdas:
        sa, ra = np.round(draw.uniform(20, 90, 2), 2)
        clean, robust = (Accuracy(value=v, low=v - 1, high=v + 1) for v in (sa, ra))
        points.append(
            PointResult(
                lam=lam,
                width=width,
                trained=lam in trained,
                n=100,
                clean_acc=sa,
                clean_acc_interval=clean,
                autoattack_acc=None,
                robust_acc={"fgsm": robust},
                worst_case_acc=robust,
            )
        )
    fields = {
        "name": "OAT",
        "dataset": "digits",
        "architecture": "wrn-10-1",
        "threat_model": "Linf",
        "eps": "8/255",
        "method": "oat",
        "seed": seed,
        "operating_points": points,
        "attacks": [
            {
                "name": "fgsm",
                "engine": "oat_bench",
                "class": "FGSM",
                "eps": 8 / 255,
                "parameters": {},
                "card": "",
            }
        ],
        "gradients": "float32",
        "command": "",
        "benchmark_card": "",
        "model_fingerprint": "",
        "selection": "",
        "interpolation": "none",
        "versions": {},
    }
    return Entry.model_validate(fields | changes)


def test_a_family_is_summed_up_as_numpy_and_scipy_do():
    entries = [make_entry(seed) for seed in range(4)]
    rows = comparison.over_seeds(entries, "fgsm")
    assert [(row.method, row.lam, row.trained) for row in rows] == [
        ("OAT", 0.0, True),
        ("OAT", 0.1, False),
        ("OAT", 1.0, True),
    ]
    for place, row in enumerate(rows):
        points = [entry.operating_points[place] for entry in entries]
        for spread, values in (
            (row.clean, [point.clean_acc for point in points]),
            (row.robust, [point.robust_acc["fgsm"].value for point in points]),
        ):
            assert spread.n == 4
            assert spread.value == pytest.approx(np.mean(values), abs=1e-4)
            assert spread.std == pytest.approx(np.std(values, ddof=1), abs=1e-4)
            interval = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
            assert (spread.low, spread.high) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "pgd-at"},
        {"architecture": "wrn-16-1"},
        {"dataset": "svhn"},
        {"threat_model": "L2"},
        {"eps": "4/255"},
        {"trained": (0.0, 0.1, 1.0)},
        {"selection": "last: epoch 7"},
        {"seed": 0},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_no_family(changes):
    changes = {"seed": 1} | changes
    ran = {"selection": "last: epoch 10"}
    pair = [make_entry(0, **ran), make_entry(changes.pop("seed"), **(ran | changes))]
    assert comparison.over_seeds(pair, "fgsm") == []
    assert comparison.over_seeds([make_entry(0)], "fgsm") == []


def test_the_best_epoch_in_validation_is_no_other_recipe():
    best = "best: highest mean of (1 - lambda) SA + lambda RA on the validation slice, epoch {}"
    pair = [make_entry(seed, selection=best.format(seed)) for seed in (3, 5)]
    assert len(comparison.over_seeds(pair, "fgsm")) == 3


def test_a_seed_counts_once_and_a_point_needs_two():
    runs = [make_entry(0), make_entry(1, lambdas=(0.0, 1.0)), make_entry(1)]
    rows = comparison.over_seeds(runs, "fgsm")
    assert [row.lam for row in rows] == [0.0, 1.0]
    assert all(row.clean.n == 2 for row in rows)
    assert rows == comparison.over_seeds(runs[:2], "fgsm")


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"method": "pgd-at"}, ["OAT", "PGD-AT"]),
        ({"architecture": "wrn-16-1"}, ["OAT wrn-10-1", "OAT wrn-16-1"]),
        ({"trained": (0.0,)}, ["OAT, lambda 0, 1", "OAT, lambda 0"]),
        ({"width": 0.5}, ["OAT"]),
    ],
)
def test_families_are_told_apart(change, labels):
    runs = [make_entry(seed) for seed in (0, 1)] + [make_entry(seed, **change) for seed in (2, 3)]
    if "width" in change:  # of one family, at other points
        labels = ["OAT, width 1", "OAT, width 0.5"]
    assert list(dict.fromkeys(row.method for row in comparison.over_seeds(runs, "fgsm"))) == labels


@pytest.fixture
def write(tmp_path):
    def write(*entries):
        for place, entry in enumerate(entries):
            (tmp_path / f"{place}.json").write_text(entry.model_dump_json(by_alias=True))
        return records.read_all([tmp_path / f"{place}.json" for place in range(len(entries))])

    return write


def test_the_comparison_shows_it_beside_what_it_shows_of_each_run(write):
    found = write(make_entry(0), make_entry(1), make_entry(2, method="pgd-at"))
    result = comparison.compare(found, attack="fgsm")
    text = reports.page(result).markdown()
    lines = [line for line in text.splitlines() if line.startswith("| method")]
    assert len(lines) == 3
    assert " mean SA |" in lines[-1]
    assert reports.SEEDS in text
    assert "Wilson" in reports.SEEDS
    first = result.over_seeds[1]
    (shown,) = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if re.match(r"\| OAT +\| +0\.1 \* \| +2 \|", line)
    ]
    assert shown[:3] == ["OAT", "0.1 *", "2"]
    assert shown[3] == f"{first.clean.value:.1f} [{first.clean.low:.1f}, {first.clean.high:.1f}]"
    assert shown[6] == f"{first.robust.std:.2f}"
    alone = reports.page(comparison.compare(found[1:], attack="fgsm")).markdown()
    assert "std SA" not in alone
    assert reports.SEEDS not in alone


def test_the_csv_holds_every_number(write):
    rows = comparison.over_seeds([make_entry(seed) for seed in range(3)], "fgsm")
    frame = pd.read_csv(io.StringIO(reports.seeds_csv(rows)))
    assert frame["lambda"].to_list() == [0.0, 0.1, 1.0]
    assert frame["seeds"].to_list() == [3] * 3
    for place, row in enumerate(rows):
        for name, spread in (("SA", row.clean), ("RA", row.robust)):
            for column, value in (
                ("mean", spread.value),
                ("std", spread.std),
                ("mean low", spread.low),
                ("mean high", spread.high),
            ):
                assert frame[f"{name} {column}"][place] == pytest.approx(value, abs=1e-4)
