"""Leaderboards in their four forms say one thing, and show hostile text as text."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from oat_bench.errors import UserError
from oat_bench.reports import per_lambda as tables
from oat_bench.reports import ranking as boards
from oat_bench.results import ranking
from oat_bench.results.ranking import Rule
from oat_bench.results.robustbench import RobustBenchPoint

EVIL = (
    "=cmd()|<script>x</script> `a` [b](http://c) \\input{/etc/passwd} $1_2^3$ %&#~*"
    "\x1b[31m\u202e\n* x"
)


def theirs(name, sa, ra, **changes):
    values = {"id": name, "name": name, "clean_acc": sa, "autoattack_acc": ra, "eps": "0.25"}
    return RobustBenchPoint.model_validate(values | changes)


@pytest.fixture
def board(publish):
    """Two that differ by far, one unreliable."""
    found = [
        publish("poor", {0.5: (200, 40)}, n=200),
        publish("good", {0.5: (180, 110), 1.0: (160, 140)}, n=200, additional_data=True),
        publish("odd", {1.0: (200, 200)}, n=200, unreliable=True, footnote="a note"),
    ]
    return ranking.rank(found, rule=Rule("ra-at-sa", min_sa=85))


@pytest.fixture
def evil(publish):
    changes = dict.fromkeys(["venue", "footnote", "authors"], EVIL)
    record = publish("evil", {1.0: (90, 50)}, **changes)
    # what is read may not be called so, what is made here can
    names = dict.fromkeys(["name", "dataset", "method", "architecture"], EVIL)
    entry = record.entry.model_copy(update=names | {"unreliable": True})
    return ranking.rank([type(record)(record.path, entry)])


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line[:1] == "|"]
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    header, _, *rows = [[cell.strip() for cell in line] for line in split]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_markdown_has_the_ranks_in_order_and_the_unreliable_last(board):
    text = boards.page(board).markdown()
    assert text.startswith("**digits, Linf eps 0.25: worst-case RA, by RA at SA 85**\n\n")
    good, poor, odd = cells(text)
    assert [(row["rank"], row["model"]) for row in (good, poor, odd)] == [
        ("1", "good"),
        ("2", "poor"),
        ("3 !", "odd"),
    ]
    # half way between (90, 55) and (80, 70)
    assert good["RA at SA 85"].startswith("62.5 [")
    assert (good["lambda"], poor["lambda"]) == ("0.5 and 1", "0.5")
    assert [row["extra data"] for row in (good, poor, odd)] == ["yes", "", ""]
    assert odd["remark"] == "unreliable: its entry says so; a note"
    assert "! unreliable" in text


def test_columns_that_say_nothing_are_left_out(board):
    assert set(cells(boards.page(board).markdown())[0]).isdisjoint(
        {"width", "venue", "FLOPs", "ms", "integrity", "SA", "RA"}
    )


def test_csv_has_every_number_in_a_column_of_its_own(board):
    table = pd.read_csv(io.StringIO(boards.csv([(board, ()), (board, ())])))
    assert len(table) == 6
    row = table.to_dict("records")[0]
    (good, *_) = board.rows
    for name, score in (("hypervolume", good.hypervolume), ("RA at SA", good.robust)):
        assert row[name] == pytest.approx(score.value, abs=0.005)
        assert row[f"{name} low"] == pytest.approx(score.low, abs=0.005)
        assert row[f"{name} high"] == pytest.approx(score.high, abs=0.005)
    assert (row["dataset"], row["sort"], row["n"], row["rank"]) == ("digits", "ra-at-sa", 200, 1)
    assert table["unreliable"].to_list() == [False, False, True] * 2


def test_latex_and_terminal_have_the_cells_of_markdown(board):
    rows = cells(boards.page(board).markdown())
    body = re.search(r"\\midrule\n(.*)\n\\bottomrule", boards.page(board).latex(), re.DOTALL)[1]
    for line, row in zip(body.splitlines(), rows, strict=True):
        assert [cell.strip() for cell in line.removesuffix(r" \\").split(" & ")] == [
            cell.replace("[", r"{\scriptsize [").replace("]", "]}") for cell in row.values()
        ]
    console = Console(width=200, file=io.StringIO())
    boards.page(board).tables[0].draw(console)
    printed = console.file.getvalue()
    for row in rows:
        for name, cell in row.items():
            value, _, interval = cell.partition(" [") if name != "remark" else (cell, "", "")
            assert value in printed
            assert interval.rstrip("]") in printed


# --- beside RobustBench's


def test_models_of_robustbench_stand_where_their_numbers_put_them(board):
    fixed = boards.fixed_points(
        board,
        [
            theirs("Best", 90, 70, external=65),
            theirs("Between", 99, 30, venue="GitHub,<br>Sep 2019", unreliable=True),
            theirs("Inaccurate", 80, 70),
            theirs("Near", 99, 10, eps="0.249"),
            theirs("Other", 99, 99, eps="0.5"),
            theirs("None", 99, 99, eps=None),
        ],
    )
    rows = cells(boards.page(board, fixed).markdown())
    assert [row["model"] for row in rows] == [
        *("Best", "good", "Between", "poor", "Near", "Inaccurate", "odd"),
    ]
    assert [row["rank"] for row in rows] == ["", "1", "", "2", "", "", "3 !"]
    best, good, between, *_ = rows
    # the best known RA, where the leaderboard is of the worst case
    assert (best["SA"], best["RA"], best["RA at SA 85"]) == ("90.0", "65.0", "65.0")
    assert best["hypervolume"] == "58.5"
    assert (good["SA"], good["RA"]) == ("80.0 to 90.0", "55.0 to 70.0")
    assert between["venue"] == "GitHub, Sep 2019"
    assert between["remark"] == "unreliable, says RobustBench"
    assert rows[4]["remark"] == "eps 0.249"
    assert rows[5]["RA at SA 85"] == ""
    table = pd.read_csv(io.StringIO(boards.csv([(board, fixed)])))
    assert table["model"].to_list() == [row["model"] for row in rows]
    assert list(table.columns)[5:7] == ["rank", "model"]


def test_robustbench_has_no_ra_under_other_attacks(publish):
    board = ranking.rank([publish("a", {1.0: (90, 50)})], attack="pgd-20")
    with pytest.raises(UserError, match="none under pgd-20; choose --attack autoattack or worst"):
        boards.fixed_points(board, [theirs("a", 90, 50)])
    assert boards.fixed_points(board, []) == []


# --- hostile text


def test_hostile_text_is_text_in_markdown(evil):
    text = boards.page(evil).markdown()
    rest = re.sub(r"\\[\\`*_\[\]<>|~$&]", "", text)
    assert "<script" not in rest
    assert "](http" not in rest
    assert "`" not in rest
    (row,) = cells(text)
    assert row["model"].startswith(r"=cmd()\|\<script\>x")
    assert not set(text) & set("\x1b\u202e")
    # the title is one line
    assert text.splitlines()[1] == ""


def test_hostile_text_is_text_in_latex(evil):
    text = boards.page(evil).latex()
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert not re.search(r"(?<!\\)[$#~^]", text)
    # a row is a line, and none is cut short by a comment
    body = re.search(r"\\midrule\n(.*)\n\\bottomrule", text, re.DOTALL)[1]
    assert len(body.splitlines()) == 1
    assert not re.search(r"(?<!\\)%", body)
    header = re.search(r"\\toprule\n(.*) \\\\", text)[1]
    assert len(re.findall(r"(?<!\\)&", body)) == header.count("&")


def test_hostile_text_is_text_in_csv_and_terminal(evil):
    table = pd.read_csv(io.StringIO(boards.csv([(evil, ())])))
    for name in ("model", "venue", "dataset", "authors"):
        assert table[name].to_list()[0].startswith("'=cmd()")
    console = Console(width=500, file=io.StringIO(), force_terminal=True, color_system=None)
    boards.page(evil).tables[0].draw(console)
    printed = console.file.getvalue()
    assert "[b](http://c)" in printed
    assert "\x1b[31m" not in printed
    assert "\u202e" not in printed


# --- the table of one entry


def test_the_table_of_an_entry_as_latex(publish):
    record = publish(
        "a",
        {0.1: (90, {"fgsm": 40, "pgd-20": 20}), 1.0: (80, {"fgsm": 60, "pgd-20": 50})},
        with_frontiers=True,
    )
    entry = record.entry
    text = tables.page(entry.operating_points, [0.1], "50% [a_b]", (), entry.frontiers).latex()
    body = re.search(r"\\midrule\n(.*)\n\\bottomrule", text, re.DOTALL)[1].splitlines()
    assert [line.split(" & ")[0] for line in body] == ["0.1", "1 *"]
    values = [re.sub(r" \{\\scriptsize .*?\}", "", line) for line in body]
    assert values == [
        r"0.1 & 100 & 90.0 & 40.0 & 20.0 & 20.0 \\",
        r"1 * & 100 & 80.0 & 60.0 & 50.0 & 50.0 \\",
    ]
    assert r"\caption{50\% {[}a\_b{]}}" in text
    assert "hypervolume 42.0" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    unescaped = re.sub(r"\\.", "", text)
    assert unescaped.count("{") == unescaped.count("}")


def test_every_width_has_a_table(publish, cost):
    record = publish("a", {0.1: (90, 20)}, costs={1.0: cost(2000), 0.5: cost(500)})
    text = tables.page(record.entry.operating_points, [0.1], "t").latex()
    assert text.count(r"\begin{tabular}") == 2
    assert text.index("width 1: 10 parameters") < text.index("width 0.5: 10 parameters")
