"""One table in its forms."""

import io
import re

import pytest
from rich.console import Console

from oat_bench.reports.table import Page, Table, ends, short, to_csv
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


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_intervals_below_and_cuts_no_number(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=8, color_system=None)
    TABLE.draw(console)
    lines = [line.split() for line in plain(console).splitlines()]
    assert lines[0] == ["model", "n", "RA"]
    assert lines[2:] == [["a_b", "7", "50.0"], ["40.2,", "60.0"], ["c|d", "1", "*"]]


def test_only_the_column_that_is_meant_to_is_folded():
    rows = [{"name": "long-name", "what": "so many words " * 3}]
    console = Console(file=io.StringIO(), force_terminal=True, width=24, color_system=None)
    Table(rows, ["name", "what"], fold="what").draw(console)
    shown = plain(console)
    assert max(map(len, shown.splitlines())) <= 24
    assert (shown.count("long-name"), shown.count("words")) == (1, 3)


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
