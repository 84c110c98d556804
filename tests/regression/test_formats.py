"""What a check prints: parsed back, and with names that would be commands."""

import json
import re
from xml.etree import ElementTree

import pytest
from making import CELLS, first, outcomes

from oat_bench.regression import baseline as baselines
from oat_bench.regression.check import Check
from oat_bench.regression.comparison import compare
from oat_bench.reports import check as formats
from oat_bench.statistics.phases import Design

HOSTILE = "a\n::error::b\r|x|<b>&*_`[c](d)\x1b[31m\x00\udcff,%:"
BOTH = Design(["fgsm", "pgd-7"])
BEFORE = outcomes({cell: first(300) for cell in CELLS})
SIDES = {
    "ok": outcomes({cell: first(300) for cell in CELLS}),
    "worse": outcomes({cell: first(250) for cell in CELLS}),
    "better": outcomes({cell: first(350) for cell in CELLS}),
}


@pytest.fixture
def report(baseline, honest):
    def report(verdict, model="model.safetensors", dataset="digits", **options):
        base = baselines.read(baseline)
        entry = base.record.entry.model_copy(update={"dataset": dataset})
        object.__setattr__(base.record, "entry", entry)
        comparison = compare(BEFORE, SIDES[verdict], BOTH)
        assert comparison.verdict == verdict
        check = Check(comparison, base, honest, [], SIDES[verdict], None)
        return formats.Report(check, model, "base.json", **options)

    return report


@pytest.mark.parametrize("verdict", SIDES)
def test_json_holds_every_number(report, verdict):
    found = report(verdict, update="oat-bench check m --update-baseline")
    content = json.loads(formats.as_json(found))
    assert content["verdict"] == verdict
    assert content["summary"].startswith(f"{verdict}: ")
    assert (content["max_drop"], content["confidence"]) == (1.0, 0.95)
    for row, values in zip(found.comparison.rows, content["rows"], strict=True):
        for key in ("lam", "measure", "n", "baseline", "now", "change", "low", "high", "verdict"):
            assert values[key] == getattr(row, key)
        for key in ("changed", "detectable"):
            assert values[key] == getattr(row, key)
    assert content["tolerance_too_fine"] is True


@pytest.mark.parametrize("verdict", SIDES)
def test_markdown_has_a_line_for_each_row(report, verdict):
    text = formats.markdown(report(verdict))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 12
    assert len({line.count("|") for line in lines}) == 1
    assert ("**worse**" in text) == (verdict == "worse")
    assert "Warning: a tolerance of 1 point is finer than 400 examples support" in text


def test_an_update_is_offered_where_it_is_better(report):
    command = "oat-bench check m --baseline b.json --update-baseline"
    for verdict in SIDES:
        offered = formats.offer(report(verdict, update=command))
        assert offered == ([f"to make it the baseline: {command}"] if verdict == "better" else [])
    assert formats.offer(report("better")) == []
    done = report("ok", update=command, updated=("b.json", "b.parquet"))
    assert formats.offer(done) == ["baseline updated: b.json, b.parquet"]


@pytest.mark.parametrize("name", ["model", HOSTILE])
def test_junit_is_xml_with_a_case_for_each_row(report, name):
    text = formats.junit(report("worse", model=name, dataset=name))
    text.encode()  # no half of a surrogate
    suites = ElementTree.fromstring(text.encode())
    (suite,) = suites
    cases = suite.findall("testcase")
    assert (suite.get("tests"), len(cases)) == ("12", 12)
    failed = [case for case in cases if case.find("failure") is not None]
    assert suite.get("failures") == str(len(failed)) == "9"
    assert not any(case.get("name").startswith("SA") for case in failed)
    assert formats.printable(name) in suite.get("name")
    assert "\n" not in suite.get("name")


def test_github_reads_only_our_commands(report):
    text = formats.github(report("worse", model=HOSTILE, dataset=HOSTILE))
    text.encode()
    before, token, rest = re.fullmatch(
        r"(.*?)::stop-commands::([0-9a-f]{32})\n(.*)", text, re.DOTALL
    ).groups()
    assert rest.endswith(f"\n::{token}::\n")
    assert rest.count(token) == 1
    commands = before.splitlines()
    assert all(re.match(r"::(error|notice|warning) title=[^:,]*::", line) for line in commands)
    kinds = [line.split()[0] for line in commands]
    assert kinds == ["::error"] * 10 + ["::warning"]
    # nothing of a name starts a line, the table's included
    assert not any(line.startswith("::error::b") for line in text.splitlines())
    assert "\x1b" not in text
    assert "\x00" not in text
    # the escapes are undone as the runner undoes them
    assert formats.printable(HOSTILE) in commands[0].replace("%25", "%")


def test_github_says_the_verdict(report):
    assert formats.github(report("better", update="c")).startswith(
        "::notice title=oat-bench check%3A better::model.safetensors: better: "
    )
    assert "%0Ato make it the baseline: c\n" in formats.github(report("better", update="c"))
    assert "::error" not in formats.github(report("ok"))
    # every message is one line
    assert formats._command("error", "a:b,c%", "x%\r\ny") == (
        "::error title=a%3Ab%2Cc%25::x%25%0D%0Ay"
    )


def test_markdown_takes_no_name_for_its_own(report):
    text = formats.markdown(report("worse", model=HOSTILE, dataset=HOSTILE))
    title = text.splitlines()[0]
    assert "\\<b\\>\\&\\*\\_\\`\\[c\\](d)" in title
    assert "\\|x\\|" in title
    assert "a ::error::b" in title  # the line end is a space


def test_printable_leaves_what_can_be_printed():
    assert formats.printable("Zürich 数字 :smile: [red]") == "Zürich 数字 :smile: [red]"
    assert formats.printable("a\nb\u202e\x7f") == "a b\\u202e\\x7f"


@pytest.mark.parametrize("write", [formats.markdown, formats.as_json, formats.junit, formats.plain])
def test_a_detectable_drop_is_never_told_without_what_it_is_told_for(report, write):
    found = report("worse")
    low, high = (f(row.detectable for row in found.comparison.rows[:8]) for f in (min, max))
    text = write(found)
    assert f"a true drop of {low:.1f} to {high:.1f} points is found 80 times in 100" in text
    assert "if as many outcomes change as here, 0.0 to 12.5%" in text
    (trained,) = found.comparison.between_trainings()
    assert "If 20% change, as between two trainings on the digits, it takes a drop of" in text
    assert f"it takes a drop of {trained:.1f} points" in text
