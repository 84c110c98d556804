"""`oat-bench leaderboard` as a user meets it."""

import json
import shutil
from pathlib import Path

from commands import in_terminal

from oat_bench.results.entries import Entry


def test_a_run_is_published_checked_ranked_and_exported(invoke, two_runs):
    evaluated = two_runs / "one"
    code, out, err = invoke("leaderboard", "add", evaluated)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"make it by: oat-bench integrity {evaluated}" in err
    brief = ["--attacks", "fgsm", "--lambda", "1", "--n-examples", "10"]
    assert invoke("integrity", evaluated, *brief)[0] == 0
    code, out, err = invoke("leaderboard", "add", evaluated, "--authors", "A. Author")
    place = Path("leaderboards/digits/Linf/oat-wrn-10-1.json")
    assert (code, err) == (0, "")
    beside = [str(place.with_suffix(end)) for end in (".parquet", ".integrity.json")]
    assert out.splitlines() == [str(place), *beside]
    assert Entry.model_validate_json(place.read_text()).integrity in ("pass", "warn")
    assert Entry.model_validate_json(place.read_text()).authors == "A. Author"
    assert Entry.model_validate_json(place.read_text()).attack_seed == 0
    assert invoke("leaderboard", "validate") == (0, "1 entry, 0 errors, 0 warnings\n", "")
    # a table of all, and of the entry alone
    code, out, err = invoke("leaderboard", "table")
    assert (code, err) == (0, "")
    assert out.startswith("**digits, Linf eps 0.2: worst-case RA, by hypervolume**\n\n|   rank |")
    assert invoke("leaderboard", "table", "digits") == (0, out, "")
    code, table, _ = invoke("leaderboard", "table", place)
    assert table == (evaluated / "table.md").read_text()
    assert invoke("leaderboard", "table", evaluated)[1] == table
    assert invoke("leaderboard", "table", place, "--format", "latex")[1] == (
        (evaluated / "table.tex").read_text()
    )
    for name, begins in (("t.md", "**digits"), ("t.csv", "dataset,"), ("t.tex", "% needs")):
        said = f"written to sub/{name}\n"
        assert invoke("leaderboard", "table", "--out", f"sub/{name}") == (0, "", said)
        assert Path("sub", name).read_text().startswith(begins)
    # AutoAttack was not run
    code, _, err = invoke("leaderboard", "export", place, "--lambda", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "AutoAttack was not run at lambda 1" in err


def test_a_published_point_is_exported(invoke, tmp_path):
    entry = Path(__file__).parents[2] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"
    code, out, err = invoke("leaderboard", "export", entry, "--lambda", "0.4")
    assert code == 0
    assert err == "RobustBench has no leaderboard of digits; it has cifar10, cifar100, imagenet\n"
    point = next(
        p for p in Entry.model_validate_json(entry.read_text()).operating_points if p.lam == 0.4
    )
    assert json.loads(out)["autoattack_acc"] == f"{point.autoattack_acc:.2f}"
    invoke("leaderboard", "export", entry, "--lambda", "0.4", "--out", "model.json")
    assert (tmp_path / "model.json").read_text() == out


def test_the_schema_is_printed(invoke):
    code, out, err = invoke("leaderboard", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$id"].startswith("urn:oat-bench:entry:")


def test_problems_are_a_line_each_and_exit_with_1(invoke, tmp_path):
    shipped = Path(__file__).parents[2] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"
    folder = tmp_path / "leaderboards" / "digits" / "Linf"
    folder.mkdir(parents=True)
    values = json.loads(shipped.read_text())
    (folder / "a.json").write_text(json.dumps(values | {"command": "echo\n\x1b[31m"}))
    (folder / "b.json").write_text("{")
    (folder / "c.json").write_text(json.dumps(values | {"name": "another"}))
    for name in "ac":  # an entry needs its report of integrity
        shutil.copy(shipped.with_suffix(".integrity.json"), folder / f"{name}.integrity.json")
    code, out, err = invoke("leaderboard", "validate")
    assert (code, err) == (1, "")
    first, second, last = out.splitlines()
    assert first.startswith("leaderboards/digits/Linf/a.json: error: command is")
    assert second.startswith("leaderboards/digits/Linf/b.json: error: not an entry of oat-bench")
    assert last == "3 entries, 2 errors, 0 warnings"
    assert invoke("leaderboard", "validate", folder / "c.json")[0] == 0
    # a table leaves out what cannot be read, and says so
    code, out, err = invoke("leaderboard", "table")
    assert code == 0
    assert err.startswith("left out: leaderboards/digits/Linf/b.json: not an entry")
    assert "another" in out


def test_leaderboards_refuse_in_one_line(refused, tmp_path):
    shipped = Path(__file__).parents[2] / "leaderboards"
    entry = shipped / "digits" / "Linf" / "oat-wrn-10-1.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    for file in entry.parent.glob(f"{entry.stem}.[!s]*"):  # not its weights
        shutil.copy(file, tmp_path / "one")
    table = ("leaderboard", "table", "--from", "one")
    for arguments, words in (
        (("leaderboard", "add", "none"), "no entry at none"),
        (("leaderboard", "validate"), "no entry at leaderboards"),
        (("leaderboard", "validate", "empty"), "no entries in empty"),
        (("leaderboard", "table"), "no folder leaderboards"),
        ((*table, "digit"), "unknown data set in these leaderboards 'digit'; did you mean digits"),
        ((*table, "--attack", "pgd-21"), "did you mean pgd-20"),
        ((*table, "--min-sa", "101"), "--min-sa"),
        ((*table, "--out", "x.txt"), "expected a file that ends in .md, .csv or .tex"),
        ((*table, "--out", "x.md", "--format", "terminal"), "--format terminal is for a terminal"),
        ((*table, "--robustbench", "empty"), "no model_info of RobustBench"),
        (("leaderboard", "export", entry, "--lambda", "0.35"), "the entry has no lambda 0.35"),
        (("leaderboard", "export", entry, "--lambda", "2"), "--lambda"),
        (("leaderboard", "export", entry), "--lambda"),
    ):
        assert words in refused(*arguments)


def test_a_leaderboard_is_drawn_in_a_terminal(tmp_path):
    shipped = Path(__file__).parents[2] / "leaderboards"
    arguments = ("leaderboard", "table", "digits", "--from", shipped)
    code, out = in_terminal(*arguments, cwd=tmp_path, columns=140)
    assert code == 0
    assert "digits, Linf eps 0.375: worst-case RA, by hypervolume" in out
    assert "\u2500" in out
    assert "|" not in out
