"""One table in its forms."""

import io
import re

import pytest
from rich.console import Console

from oat_bench.reports.table import Cell, Page, Table, ends, short, to_csv
from oat_bench.statistics.accuracy import Estimate

TABLE = Table(
    [
        {"model": "a_b", "n": "7", "RA": Estimate(value=50, low=40.24, high=60), "none": ""},
        {"model": "c|d", "RA": "1 *"},
    ],
    words=["model"],
)


def plain(console):
    """What was printed, without styles."""
    return re.sub("\x1b\\[[0-9;]*m", "", console.file.getvalue())


def test_markdown_has_intervals_in_brackets_and_escapes_words():
    assert TABLE.markdown().splitlines() == [
        "| model   |   n |                RA |",
        "|:--------|----:|------------------:|",
        r"| a\_b    |   7 | 50.0 [40.2, 60.0] |",
        r"| c\|d    |     |               1 * |",
    ]


def test_latex_is_as_booktabs_wants_it():
    assert TABLE.latex().splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"model & n & RA \\",
        r"\midrule",
        r"a\_b & 7 & 50.0 {\scriptsize [40.2, 60.0]} \\",
        r"c\textbar{}d &  & 1 * \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def drawn(table, width, terminal=True):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    table.draw(console)
    return plain(console)


@pytest.mark.parametrize("terminal", [True, False])
def test_intervals_stand_below_numbers(terminal):
    lines = [line.split() for line in drawn(TABLE, 21 if terminal else 8, terminal).splitlines()]
    assert lines[0] == ["model", "n", "RA"]
    assert lines[2:] == [["a_b", "7", "50.0"], ["40.2,", "60.0"], ["c|d", "1", "*"]]


WIDE = Table(
    [
        {
            "rank": str(place),
            "model": f"OAT wrn-{place}",
            "network": "wrn-10-1",
            "SA at lambda": Estimate(value=90 + place, low=80.25, high=95),
            "RA": Estimate(value=40 + place, low=30.25, high=45),
            "parameters": Cell("7 k", beside="x"),
            "remark": f"no. {place}, " + "trained by the recipe of the paper " * 3,
        }
        for place in range(1, 4)
    ],
    words=["model", "network", "remark"],
    keys=["rank", "model"],
)


@pytest.mark.parametrize("width", [36, 44, 60, 80, 120, 200])
def test_a_table_too_wide_for_a_terminal_is_set_in_parts_that_fit(width):
    shown = drawn(WIDE, width)
    assert max(map(len, shown.splitlines())) <= width
    parts = shown.count("rank")
    assert parts == (3 if width < 44 else 1)
    # what all rows share is said once
    assert ("network wrn-10-1, parameters 7 k (x)\n" in shown) == (width < 200)
    # no word and no number is broken, nothing is left out, and every part says whose it is
    words = shown.split()
    for place in range(1, 4):
        assert words.count(f"wrn-{place}") == parts
        assert {f"{90 + place}.0", f"{40 + place}.0"} <= set(words)
    assert words.count("80.2,") == words.count("30.2,") == 3
    assert words.count("recipe") == 9


def test_what_stands_in_brackets_in_a_header_stays_in_one_line():
    names = [f"mi-fgsm-{place} (n 40)" for place in range(6)]
    shown = drawn(Table([dict.fromkeys(names, "97.5")]), 70)
    assert [line.split() for line in shown.splitlines()[:2]] == [
        [f"mi-fgsm-{place}" for place in range(6)],
        ["(n", "40)"] * 6,
    ]
    assert max(map(len, shown.splitlines())) <= 70


def test_what_a_page_says_first():
    page = Page("t_1", [TABLE], ["a note"], said=["so"], code="x = 1")
    text = page.markdown()
    assert text.startswith("**t\\_1**\n\nso\n\n```py\nx = 1\n```\n\n| model")
    assert text.endswith("|\n\na note\n")
    console = Console(file=io.StringIO(), width=80, markup=False)
    page.draw(console)
    shown = console.file.getvalue()
    places = [shown.index(part) for part in ("t_1", "50.0", "\nso\n", "\nx = 1\n", "\na note\n")]
    assert places == sorted(places)


def test_csv_keeps_numbers_and_disarms_formulas():
    rows = [
        {"a": 1},
        {"a": None, "b": "=1+1", "c": "-0.60", **ends("d", Estimate(value=1.234, low=1, high=2))},
    ]
    assert to_csv(rows) == "a,b,c,d,d low,d high\n1,,,,,\n,'=1+1,-0.60,1.234,1.0,2.0\n"
    assert ends("x", None) == {"x": None, "x low": None, "x high": None}


def test_numbers_are_short():
    assert [short(n) for n in (7, 999, 1_000, 77_482, 999_700, 1_163_000_000)] == [
        *("7", "999", "1 k", "77.5 k", "1 M", "1.16 G"),
    ]
