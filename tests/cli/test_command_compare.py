"""`oat-bench compare`, `figure` and `results`."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import FIGURES, in_terminal

from oat_bench.results.entries import Entry

# --- compare and figure


def test_compare_prints_tables_and_writes_them_with_a_figure(invoke, two_runs, tmp_path):
    one, two = two_runs / "one", two_runs / "two"
    code, out, err = invoke("compare", one, two, "--attack", "pgd-7", "--out", "there")
    assert (code, err) == (0, "tables and figure in there\n")
    assert out == (tmp_path / "there" / "compare.md").read_text()
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        "compare.md",
        "compare.csv",
        "frontier.svg",
        "frontier.png",
    }
    assert out.startswith("**digits, Linf eps 0.2: pgd-7**\n")
    frame = pd.read_csv(tmp_path / "there" / "compare.csv")
    assert frame["lambda"].to_list() == [0.0, 0.2, 1.0, 0.0, 1.0]
    # the second is the same model: equal on clean images, tested in pairs
    assert frame["SA difference"].dropna().to_list() == [0.0, 0.0]
    assert frame["SA p"].dropna().to_list() == [1.0, 1.0]
    assert frame["RA p"].notna().sum() == 2
    code, turned, _ = invoke("compare", one, two, "--attack", "pgd-7", "--reference", two)
    assert code == 0
    assert "Differences are to OAT no. 2" in turned
    assert (tmp_path / "runs" / "compare" / "compare.md").read_text() == turned
    # fewer rows in place of more are said, as many are not
    assert invoke("compare", one, two)[2] == "tables and figure in runs/compare\n"
    table = "runs/compare/compare.csv"
    assert invoke("compare", two)[2].splitlines()[0] == (
        f"{table}: replaced; the earlier one had 5 rows, this one has 2"
    )


def test_compare_sums_up_runs_that_differ_in_the_seed_alone(invoke, two_runs, tmp_path):
    text = (two_runs / "one" / "entry.json").read_text()
    for seed in (0, 1, 2):
        (tmp_path / f"{seed}.json").write_text(text.replace('"seed": 0', f'"seed": {seed}', 1))
    code, out, _ = invoke("compare", "0.json", "1.json", "2.json", "--out", "there")
    assert code == 0
    assert "| method   |   lambda |   seeds |" in out
    frame = pd.read_csv(tmp_path / "there" / "seeds.csv")
    assert frame["seeds"].to_list() == [3, 3, 3]
    assert frame["RA std"].to_list() == [0, 0, 0]
    code, out, _ = invoke("compare", "0.json", "--out", "there")
    assert code == 0
    assert "seeds |" not in out
    assert not (tmp_path / "there" / "seeds.csv").exists()


def test_a_checkpoint_is_compared_by_what_was_evaluated_of_it(invoke, two_runs, tmp_path):
    code, expected, _ = invoke("compare", two_runs / "two", "--out", "there")
    (tmp_path / "runs").mkdir()
    shutil.copytree(two_runs / "two", tmp_path / "runs" / "deep" / "two")
    shutil.copy(two_runs / "one" / "checkpoint.safetensors", "mine.safetensors")
    assert invoke("compare", "mine.safetensors", "--out", "there")[:2] == (code, expected)
    # of several that which covers most; it is said
    shutil.copytree(two_runs / "two", tmp_path / "runs" / "a")
    entry = json.loads((tmp_path / "runs" / "a" / "entry.json").read_text())
    entry["operating_points"] = entry["operating_points"][:1]
    (tmp_path / "runs" / "a" / "entry.json").write_text(json.dumps(entry))
    _, out, err = invoke("compare", "mine.safetensors", "--out", "there")
    assert (out, "evaluated in runs/deep/two/entry.json" in err) == (expected, True)
    # beside it comes first
    code, expected, _ = invoke("compare", two_runs / "one", "--out", "there")
    checkpoint = two_runs / "one" / "checkpoint.safetensors"
    assert invoke("compare", checkpoint, "--out", "there")[:2] == (code, expected)
    shutil.rmtree(tmp_path / "runs")
    code, out, err = invoke("compare", "mine.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "oat-bench evaluate mine.safetensors makes one" in err
    # a published model is one by its name, and by its checkpoint
    code, out, _ = invoke("compare", "digits/oat-wrn-10-1")
    assert (code, "**digits, Linf eps 0.375" in out) == (0, True)
    shipped = Path(__file__).parents[2] / "leaderboards/digits/Linf/oat-wrn-10-1.safetensors"
    shutil.copy(shipped, tmp_path / "b.safetensors")
    assert invoke("compare", "b.safetensors")[1] == out


def test_an_entry_alone_can_be_compared(invoke, two_runs, tmp_path):
    shutil.copy(two_runs / "two" / "entry.json", tmp_path / "two.json")
    code, out, _ = invoke("compare", two_runs / "one", "two.json", "--attack", "fgsm")
    assert code == 0
    assert "McNemar" not in out
    assert "+0.0" in out
    code, out, _ = invoke("compare", "two.json")
    assert code == 0
    assert "Differences are to the lambda before, in points." in out
    assert "McNemar" not in out


def test_the_lambda_of_one_run_are_compared(invoke, two_runs):
    one = two_runs / "one"
    code, out, err = invoke("compare", one, "--reference-lambda", "0.2", "--out", "there")
    assert code == 0
    assert "Differences are to lambda 0.2, in points. On the same examples (50): " in out
    assert "corrected by Holm for all 4 tests" in out
    frame = pd.read_csv("there/compare.csv")
    assert frame["to lambda"].dropna().to_list() == [0.2, 0.2]
    assert frame["RA p"].notna().to_list() == [True, False, True]
    for arguments, words in (
        ([one, "--reference-lambda", "0.7"], "the run has no lambda 0.7; it has 0, 0.2, 1"),
        ([one, "--reference-lambda", "nan"], "'nan' is not a number"),
        ([one, two_runs / "two", "--reference-lambda", "0"], "is for one run alone"),
    ):
        code, out, err = invoke("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


@pytest.mark.parametrize("columns", [60, 80])
def test_compare_fits_a_terminal(two_runs, tmp_path, columns):
    arguments = ["compare", two_runs / "one", two_runs / "two", "--out", "there"]
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=columns)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= columns
    rows = [line.split() for line in lines if line.startswith("OAT no. 2")]
    if columns == 60:
        assert "n 50" in lines
        assert rows[0][3:5] == ["0", "94.0"]
    else:  # points are one table, frontiers another
        assert rows[0][3:6] == ["0", "50", "94.0"]
        assert sum(line.startswith("OAT no. 1") for line in lines) == 3 + 1
    assert "tables and figure in there" in lines


@pytest.mark.parametrize("kind", FIGURES)
def test_every_figure_can_be_drawn_alone(invoke, two_runs, tmp_path, kind):
    code, out, err = invoke("figure", kind, two_runs / "one", "--out", "a.png")
    assert (code, out, err) == (0, "a.png\n", "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = invoke("figure", kind, two_runs / "one")
    assert (code, out) == (0, f"{kind}.svg\n{kind}.png\n")
    # what the report holds is what the command draws
    report = two_runs / "one" / "figures" / f"{kind}.svg"
    if kind != "saliency":  # its columns are then those trained
        assert (tmp_path / f"{kind}.svg").read_bytes() == report.read_bytes()


def test_figures_have_their_options(invoke, two_runs, tmp_path):
    one, two = two_runs / "one", two_runs / "two"
    for arguments in (
        ["frontier", one, two, "--attack", "fgsm"],
        ["lambda", one, two, "--attack", "pgd-7"],
        ["saliency", one, "--lambda", "0,0.3,1"],
        ["bn-statistics", one, "--layer", "stage2.blocks.0.norm1"],
    ):
        code, out, err = invoke("figure", *arguments, "--out", "b.svg")
        assert (code, out, err) == (0, "b.svg\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], "Missing argument 'RUN...'"),
        (["compare", "nowhere"], "no entry at nowhere; expected a run's folder"),
        (["compare", "model.pt"], "a checkpoint (.safetensors) that was evaluated, or a published"),
        (["compare", "ONE", "--reference", "TWO"], "is none of the runs"),
        (["compare", "ONE", "other.json"], "of cifar10, Linf eps 0.2; only runs of one data set"),
        (["compare", "ONE", "eps.json"], "of digits, Linf eps 8/255; only runs of one"),
        (["compare", "broken.json"], "broken.json: not an entry of oat-bench: "),
        (["compare", "extra.json"], "extra.json: not an entry of oat-bench: unknown key 'extra'"),
        (
            ["compare", "ONE", "--attack", "pgd-8"],
            "'pgd-8' was not run on every model at every lambda; did you",
        ),
        (["figure", "unseen", "TWO"], "no lambda was evaluated that was not trained"),
        (["figure", "frontier", "ONE", "--out", "a.gif"], "a.gif: unknown format '.gif'"),
        (["figure", "bn-statistics", "ONE", "--layer", "norn"], "no norm layer 'norn'; did you"),
        (["figure", "bn-statistics", "TWO"], "no checkpoint at"),
        (["figure", "saliency", "ONE", "--lambda", "2"], "lambda 2 is outside [0, 1]"),
    ],
)
def test_bad_input_of_compare_and_figure_is_one_line(refused, two_runs, tmp_path, arguments, words):
    places = {"ONE": two_runs / "one", "TWO": two_runs / "two"}
    values = json.loads((two_runs / "one" / "entry.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(values | {"dataset": "cifar10"}))
    (tmp_path / "eps.json").write_text(json.dumps(values | {"eps": "8/255"}))
    (tmp_path / "extra.json").write_text(json.dumps(values | {"extra": 1}))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "model.pt").write_bytes(b"PK")
    assert words in refused(*[places.get(argument, argument) for argument in arguments])


def test_damaged_outcomes_are_named_by_compare(refused, two_runs, tmp_path):
    shutil.copytree(two_runs / "one", tmp_path / "one", ignore=shutil.ignore_patterns("outcomes"))
    (tmp_path / "one" / "outcomes.parquet").write_bytes(b"PAR1 but no more")
    assert "outcomes.parquet: damaged outcomes" in refused("compare", tmp_path / "one")


# --- results


def test_results_are_listed_filtered_and_exported(invoke, two_runs, tmp_path):
    code, out, err = invoke("results", two_runs)
    assert (code, err) == (0, "")
    entry = Entry.model_validate_json((two_runs / "one" / "entry.json").read_bytes())
    robust = {(p.lam, a): v for p in entry.operating_points for a, v in p.robust_acc.items()}
    listed = [row for row in out.splitlines() if row.rstrip().endswith("one |")]
    assert len(listed) == len(robust)
    code, out, _ = invoke("results", two_runs / "one", "--attack", "fgsm", "--lambda", "1")
    (row,) = out.splitlines()[2:]
    interval = robust[(1.0, "fgsm")]
    assert f" {interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}] " in row
    assert invoke("results", two_runs / "one", "--out", "all.csv") == (0, "", "6 rows in all.csv\n")
    frame = pd.read_csv(tmp_path / "all.csv")
    found = {(row.lam, row.attack): round(row.ra, 2) for row in frame.itertuples()}
    assert found == {key: interval.value for key, interval in robust.items()}
    assert invoke("results", two_runs / "one", "--examples", "--out", "all.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == frame["n"].sum()


def test_results_refuse_what_they_cannot_do(refused, two_runs):
    assert "expected a file that ends in .csv or .parquet" in refused("results", "--out", "a.xls")
    assert "name one with --out" in refused("results", two_runs, "--examples")
    assert "no folder runs" in refused("results")
    assert "unknown attack in these results 'pgd'" in refused("results", two_runs, "--attack=pgd")


def test_no_results_are_said_to_be_none(invoke, tmp_path):
    (tmp_path / "runs").mkdir()
    assert invoke("results") == (
        0,
        "",
        "nothing was evaluated there, or nothing of what was asked\n",
    )
