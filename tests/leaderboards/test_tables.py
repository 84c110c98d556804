"""The table in its three forms says one thing."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from oat_bench.reports import per_lambda as tables
from oat_bench.results.points import PointResult
from oat_bench.results.published import Published
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Hole, Summary

ATTACKS = ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "autoattack", WORST]
TRAINED = [0.0, 0.1, 1.0]


def accuracy(hits, n=800):
    return Accuracy.of(pd.Series([True] * hits + [False] * (n - hits)))


@pytest.fixture
def results():
    points = [(0.0, 800), (0.1, 781), (0.15, 760), (1.0, 700)]
    return [
        result(
            lam,
            accuracy(hits),
            {
                name: accuracy(int(hits * lam) - 10 * k * (lam > 0))
                for k, name in enumerate(ATTACKS)
            },
        )
        for lam, hits in points
    ]


def result(lam, clean, robust):
    return PointResult(
        lam=lam,
        width=1,
        trained=lam in TRAINED,
        n=800,
        clean_acc=clean.value,
        clean_acc_interval=clean,
        autoattack_acc=None,
        robust_acc={k: v for k, v in robust.items() if k != WORST},
        worst_case_acc=robust.get(WORST),
    )


def accuracies(result):
    return {"SA": result.clean_acc_interval, **result.robust}


def test_csv_holds_every_accuracy_with_its_interval(results):
    frame = pd.read_csv(io.StringIO(tables.csv(results, TRAINED)))
    assert frame["lambda"].to_list() == [0.0, 0.1, 0.15, 1.0]
    assert frame["trained"].to_list() == [True, True, False, True]
    assert frame["n"].to_list() == [800] * 4
    assert frame["width"].to_list() == [1.0] * 4
    for row, result in zip(frame.to_dict("records"), results, strict=True):
        for name, expected in accuracies(result).items():
            assert row[name] == pytest.approx(expected.value, abs=0.005)
            assert row[f"{name} low"] == pytest.approx(expected.low, abs=0.005)
            assert row[f"{name} high"] == pytest.approx(expected.high, abs=0.005)
    assert len(frame.columns) == 4 + 3 * (1 + len(ATTACKS))


def test_markdown_holds_every_accuracy_with_its_interval(results):
    text = tables.page(results, TRAINED, "a title").markdown()
    lines = text.splitlines()
    assert lines[0] == "**a title**"
    assert lines[1] == ""
    assert text.endswith("\n")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert table[0] == ["lambda", "n", "SA", *ATTACKS]
    assert all(re.fullmatch(r"-+:", cell) for cell in table[1])
    assert [row[0] for row in table[2:]] == ["0", "0.1", "0.15 *", "1"]
    for row, result in zip(table[2:], results, strict=True):
        for cell, expected in zip(row[2:], accuracies(result).values(), strict=True):
            assert cell == f"{expected.value:.1f} [{expected.low:.1f}, {expected.high:.1f}]"
    assert "* lambda was not trained" in lines[-1]


def test_the_star_marks_what_was_not_trained_and_nothing_else(results):
    everything = tables.page(results, [0.0, 0.1, 0.15, 1.0], "t").markdown()
    assert " * " not in everything.split("Accuracies")[0]
    nothing = tables.page(results, [0.9], "t").markdown()
    assert nothing.split("Accuracies")[0].count(" * ") == 4


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_number_whole(results, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    tables.page(results, TRAINED, "t").tables[0].draw(console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["lambda", "n", "SA", *ATTACKS]
    assert "\u2026" not in console.file.getvalue()
    body = lines[2:]
    assert len(body) == 2 * len(results)
    for result, values, ranges in zip(results, body[::2], body[1::2], strict=True):
        star = [] if result.lam in TRAINED else ["*"]
        shown = [f"{a.value:.1f}" for a in accuracies(result).values()]
        assert values.split() == [f"{result.lam:g}", *star, "800", *shown]
        assert ranges.split() == [f"{a.low:.0f}-{a.high:.0f}" for a in accuracies(result).values()]


def test_tables_without_a_worst_case_have_no_such_column(results):
    few = [result(r.lam, r.clean_acc_interval, {"fgsm": r.robust["fgsm"]}) for r in results]
    assert WORST not in tables.csv(few, TRAINED)
    assert tables.page(few, TRAINED, "t").markdown().splitlines()[2].count("|") == 5


# --- beside what was published


def published(lam, sa, ra, **changes):
    values = {
        "dataset": "svhn",
        "network": "wrn-16-8",
        "method": "oat",
        "lambda": lam,
        "width": 1.0,
        "attack": "pgd-7",
        "norm": "Linf",
        "eps": "8/255",
        "SA": sa,
        "RA": ra,
        "uncertainty": 0.005,
        "source": "a paper",
        "note": "",
    }
    return Published.model_validate(values | changes)


@pytest.fixture
def known():
    return [
        published(0.1, 97.0, 5.25),
        published(1.0, None, 80.0, uncertainty=0.3, source="another", note="read off a figure"),
    ]


def cells(text):
    lines = [line for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_published_values_stand_beside_the_measured_with_the_difference(results, known):
    text = tables.page(results, TRAINED, "t", known).markdown()
    header, _, *rows = cells(text)
    at = header.index("pgd-7 published")
    assert header[at - 1] == "pgd-7"
    assert [name for name in header if "published" in name] == ["SA published", "pgd-7 published"]
    assert [row[header.index("SA published")] for row in rows] == ["", "97.00 (+0.6)", "", ""]
    # at lambda 0.1: 781 * 0.1 = 78 right, less 20; at 1: 700 less 20
    assert [row[at] for row in rows] == [
        "",
        f"5.25 ({100 * 58 / 800 - 5.25:+.1f})",
        "",
        f"80.0 +/- 0.3 ({100 * 680 / 800 - 80:+.1f})",
    ]
    assert "From a paper; another (read off a figure)." in text.splitlines()[-1]


def test_two_sources_stand_in_one_cell(results, known):
    two = [*known, published(0.1, 96.0, 4.0, source="a third")]
    header, _, *rows = cells(tables.page(results, TRAINED, "t", two).markdown())
    assert rows[1][header.index("SA published")] == "97.00 (+0.6); 96.00 (+1.6)"


def test_csv_holds_published_values_and_differences(results, known):
    frame = pd.read_csv(io.StringIO(tables.csv(results, TRAINED, known)))
    assert frame["SA published"].to_list()[1] == 97.0
    assert frame["SA published"].isna().to_list() == [True, False, True, True]
    assert frame["pgd-7 difference"].to_list()[3] == pytest.approx(5.0)
    assert len(frame.columns) == 4 + 3 * (1 + len(ATTACKS)) + 4


def test_the_terminal_shows_them_too(results, known):
    console = Console(width=200, file=io.StringIO())
    tables.page(results, TRAINED, "t", known).tables[0].draw(console)
    assert "80.0 +/- 0.3 (+5.0)" in console.file.getvalue()


@pytest.mark.parametrize("row", [published(0.05, 97.0, 5.0), published(0.1, 97.0, 5.0, width=0.5)])
def test_other_points_change_nothing(results, row):
    plain = tables.page(results, TRAINED, "t").markdown()
    assert tables.page(results, TRAINED, "t", [row]).markdown().startswith(plain.rstrip("\n"))
    assert tables.csv(results, TRAINED, [row]) == tables.csv(results, TRAINED)


def frontier_summary(attack=WORST, width=1.0, hole=True):
    return Summary(
        attack=attack,
        width=width,
        pareto=[0.0, 0.1, 1.0],
        reference=(0.0, 0.0),
        hypervolume=Accuracy(value=43.21, low=41.0, high=45.4),
        hole=Hole(lam=0.1, sa=2.2, ra=36.2, distance=36.27) if hole else None,
    )


def notes(results, *frontiers):
    return tables.page(results, TRAINED, "t", frontiers=frontiers).notes


def test_the_summary_of_the_worst_case_is_the_last_line(results):
    frontiers = [frontier_summary("pgd-7", hole=False), frontier_summary()]
    text = tables.page(results, TRAINED, "t", (), frontiers).markdown()
    assert text.splitlines()[-1] == (
        "Frontier of SA and worst-case RA: hypervolume 43.2% [41.0, 45.4] of the box from (0, 0)% "
        "to (100, 100)%; Pareto-optimal lambda 0, 0.1, 1; hole between lambda 0 and 0.1: SA -2.2, "
        "RA +36.2, 36.3 points apart."
    )
    assert text.count("Frontier of") == 1
    _, *only = notes(results, frontier_summary("pgd-7", hole=False))
    assert only[0].startswith("Frontier of SA and RA under pgd-7: hypervolume")
    assert only[0].endswith("lambda 0, 0.1, 1.")
    _, *widths = notes(results, *[frontier_summary(width=w) for w in (1.0, 0.5)])
    assert ["at width 1:" in widths[0], "at width 0.5:" in widths[1]] == [True, True]
