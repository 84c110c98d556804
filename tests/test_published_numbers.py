"""The pages show what the published entries say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from oat_bench.errors import UserError

ROOT = Path(__file__).parents[1]
ENTRY = "cifar10/Linf/oat-wrn-16-2"
SINGLE = "cifar10/Linf/oat-single-bn-wrn-16-2"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "published_numbers", ROOT / "docs" / "published_numbers.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def written(script, tmp_path):
    """A folder with one page of its own, whose numbers are the entries'."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text(
        f"# Numbers\n\n<!-- numbers: points {ENTRY} --attacks pgd-20 -->\n<!-- end -->\n\n"
        f"SA / RA <!-- numbers: at {ENTRY} --lambda 0.4 --attacks pgd-20 --><!-- end --> at 0.4\n"
    )
    assert script.main([], tmp_path) == 0
    return page


def test_every_page_says_what_the_entries_say(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("number", ["79.8 / 16.8", "76.6 / 27.2 at"])
def test_a_page_that_differs_from_an_entry_is_told(script, written, capsys, number):
    assert script.main(["--check"], written.parent) == 0
    text = written.read_text().replace("<!-- end --> at", " at")  # to find the one within a line
    assert number in text
    digit = number.replace("8 /", "9 /").replace("6 /", "7 /")
    changed = text.replace(number, digit).replace(" at 0.4", "<!-- end --> at 0.4")
    written.write_text(changed)
    capsys.readouterr()
    assert script.main(["--check"], written.parent) == 1
    assert capsys.readouterr().out == "README.md: differs from the entries; run `make numbers`\n"
    assert written.read_text() == changed
    assert script.main([], written.parent) == 0
    assert script.main(["--check"], written.parent) == 0


def test_an_entry_that_changes_changes_the_page(script, tmp_path, monkeypatch):
    raw = json.loads((ROOT / "leaderboards" / f"{ENTRY}.json").read_text())
    raw["operating_points"][1]["robust_acc"]["pgd-20"]["value"] = 17.24
    (tmp_path / "leaderboards").mkdir()
    (tmp_path / "leaderboards" / "mine.json").write_text(json.dumps(raw))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    words = "at mine --lambda 0.1 --attacks pgd-20"
    assert script.numbers(words, table=False) == "79.8 / 17.2"


def test_a_table_has_every_point_of_its_entries(script):
    text = script.numbers(f"points {ENTRY} {SINGLE} --attacks pgd-20,worst", table=True)
    rows = [[one.strip() for one in line.split("|")[1:-1]] for line in text.splitlines()[2:-2]]
    points = [
        json.loads((ROOT / "leaderboards" / f"{name}.json").read_text())["operating_points"]
        for name in (ENTRY, SINGLE)
    ]
    assert len(rows) == len(points[0]) == len(points[1])
    for (lam, *cells), *both in zip(rows, *points, strict=True):
        assert lam == f"{both[0]['lam']:g}" + ("" if both[0]["trained"] else " *")
        for cell, point in zip(cells, both, strict=True):
            pgd, worst = point["robust_acc"]["pgd-20"], point["worst_case_acc"]
            values = [point["clean_acc"], pgd["value"], worst["value"]]
            assert cell == " / ".join(f"{value:.1f}" for value in values)
    assert text.endswith("SA / pgd-20 / worst (n 256), in percent; * lambda was not trained.")


def test_differences_are_signed_and_of_the_second_entry(script):
    words = f"{ENTRY} {SINGLE} --attacks pgd-20"
    points = [
        json.loads((ROOT / "leaderboards" / f"{name}.json").read_text())["operating_points"]
        for name in (ENTRY, SINGLE)
    ]
    for kind, accuracy in (
        ("sa-difference", lambda point: point["clean_acc"]),
        ("ra-difference", lambda point: point["robust_acc"]["pgd-20"]["value"]),
    ):
        expected = accuracy(points[1][1]) - accuracy(points[0][1])
        found = script.numbers(f"{kind} {words} --lambda 0.1", table=False)
        assert re.fullmatch(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", found)
        assert float(found.split()[0]) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize(
    ("words", "table", "message"),
    [
        ("points nowhere --attacks pgd-20", True, "no entry at"),
        (f"points {ENTRY} --attacks pgd-21", True, "has no attack pgd-21; it has fgsm"),
        (f"at {ENTRY} --lambda 0.5 --attacks pgd-20", False, "has no lambda 0.5"),
        (f"sa-difference {ENTRY} {SINGLE} --lambda 0.5 --attacks pgd-20", False, "no lambda 0.5"),
        (f"frontiers {ENTRY} {SINGLE}", True, "one attack is compared; --attacks has 0"),
        (f"frontiers {ENTRY} {SINGLE} --attacks pgd-20 --columns size", True, "no column size"),
        (f"points {ENTRY} --attacks pgd-20", False, "points is not written there; expected at"),
        (f"points {ENTRY} --attack pgd-20 --n 3", True, "unrecognized arguments: --n 3"),
        ("points", True, "required: entries"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(script, words, table, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        script.numbers(words, table=table)
    assert len(str(error.value).splitlines()) == 1


def test_a_marker_that_is_not_closed_is_told(script, written, capsys):
    text = written.read_text().replace("<!-- end -->", "", 1)
    written.write_text(text)
    assert script.main(["--check"], written.parent) == 2
    assert "needs an '<!-- end -->' before the next one" in capsys.readouterr().err
    assert written.read_text() == text
