"""The table in its three forms says one thing."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from oat_bench.evaluation.statistics import WORST, Accuracy, PointResult
from oat_bench.leaderboards import tables

ATTACKS = ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "autoattack", WORST]
TRAINED = [0.0, 0.1, 1.0]


def accuracy(hits, n=800):
    return Accuracy.of(pd.Series([True] * hits + [False] * (n - hits)))


@pytest.fixture
def results():
    points = [(0.0, 800), (0.1, 781), (0.15, 760), (1.0, 700)]
    return [
        PointResult(
            lam,
            1.0,
            accuracy(hits),
            {
                name: accuracy(int(hits * lam) - 10 * k * (lam > 0))
                for k, name in enumerate(ATTACKS)
            },
        )
        for lam, hits in points
    ]


def accuracies(result):
    return {"SA": result.clean, **result.robust}


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
    text = tables.markdown(results, TRAINED, "a title")
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
    everything = tables.markdown(results, [0.0, 0.1, 0.15, 1.0], "t")
    assert " * " not in everything.split("Accuracies")[0]
    nothing = tables.markdown(results, [], "t")
    assert nothing.split("Accuracies")[0].count(" * ") == 4


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_number_whole(results, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(tables.terminal(results, TRAINED))
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
    few = [PointResult(r.lam, r.width, r.clean, {"fgsm": r.robust["fgsm"]}) for r in results]
    assert WORST not in tables.csv(few, TRAINED)
    assert tables.markdown(few, TRAINED, "t").splitlines()[2].count("|") == 5
