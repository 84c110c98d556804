"""Reports of attack integrity, written and read back."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from oat_bench import __version__
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.reports.integrity import page
from oat_bench.results import integrity
from oat_bench.results.checks import Check
from oat_bench.results.integrity import IntegrityDial, IntegrityPoint


def check(name="order", verdict="pass", **numbers):
    return Check(name=name, verdict=verdict, evidence=f"what {name} rests on", numbers=numbers)


@pytest.fixture
def report(build_classifier):
    """One operating point that passes, one that fails."""
    order = {"clean": 97.0, "fgsm": 60.0, "pgd-20": 40.0, "inversions": 0}
    honest = [check(**order), check("loss", mean=[0.1, 0.5])]
    masked = [check(**order), check("loss", "warn"), check("zero gradients", "fail")]
    info = build_classifier().info
    return integrity.make_report(
        info,
        [
            IntegrityPoint.of(OperatingPoint(0.1), honest),
            IntegrityPoint.of(OperatingPoint(1.0), masked),
        ],
        attacks=["fgsm", "pgd-20", "autoattack"],
        n=200,
        fewer_examples={"autoattack": 100},
        seed=3,
        model_fingerprint="model",
        data_fingerprint="data",
        command="oat-bench integrity runs/x",
    )


def test_the_verdict_is_the_worst(report):
    assert [point.verdict for point in report.operating_points] == ["pass", "fail"]
    assert report.verdict == "fail"


def test_what_is_written_is_read_back(report):
    written = report.model_dump_json()
    assert integrity.Integrity.model_validate_json(written) == report
    values = json.loads(written)
    assert (values["format_version"], values["threat_model"], values["eps"]) == (1, "Linf", "0.2")
    assert values["versions"]["oat-bench"] == __version__


def test_numbers_that_are_none_are_read_back(report):
    odd = check(low=float("nan"), high=float("inf"))
    point = IntegrityPoint.of(OperatingPoint(0.0), [odd])
    written = report.model_copy(update={"operating_points": [point]}).model_dump_json()
    (read,) = integrity.Integrity.model_validate_json(written).operating_points
    assert str(read.checks[0].numbers) == str({"low": float("nan"), "high": float("inf")})


def test_markdown_has_a_table_for_each_lambda(report):
    text = page(report).markdown()
    assert text.startswith("**digits, wrn-10-1, OAT, Linf eps 0.2: attack integrity: fail**\n")
    assert "\nlambda 0.1: pass\n" in text
    assert "\nlambda 1: fail\n" in text
    assert "\n| zero gradients | fail      | what zero gradients rests on |\n" in text
    assert "n 200, autoattack 100." in text
    assert "It takes 9 examples, all to one side" in text  # 3 pairs at 0.01: 2**-9 is below a third
    alone = report.model_copy(update={"attacks": ["fgsm"]})
    assert "It takes" not in page(alone).markdown()


def test_widths_are_named_where_there_are_several(report):
    first, second = report.operating_points
    wide = report.model_copy(
        update={"operating_points": [first, second.model_copy(update={"width": 0.5})]}
    )
    assert page(wide).tables[1].heading == "lambda 1, width 0.5: fail"
    assert page(report).tables[1].heading == "lambda 1: fail"


def test_a_dial_has_a_verdict_and_a_table_of_its_own(report):
    values = json.loads(report.model_dump_json())
    assert values.pop("dials") == []
    assert integrity.Integrity.model_validate(values) == report  # one from before there were dials
    assert "dial" not in page(report).markdown()
    honest = report.operating_points[0]
    dials = [
        IntegrityDial(width=width, n=500, verdict=verdict, checks=[check("dial", verdict)])
        for width, verdict in ((1.0, "pass"), (0.5, "fail"))
    ]
    info = SimpleNamespace(
        dataset="digits",
        architecture="wrn-10-1",
        method="oats",
        threat=Threat(eps=0.2, step_size=0.05),
    )
    options = values.keys() & {"attacks", "n", "seed", "model_fingerprint", "data_fingerprint"}
    slim = integrity.make_report(
        info,
        [honest, honest.model_copy(update={"width": 0.5})],
        dials=dials,
        fewer_examples={},
        command="",
        **{key: values[key] for key in options},
    )
    assert slim.verdict == "fail"
    text = page(slim).markdown()
    assert "\nall lambda values, width 1, n 500: pass\n" in text
    assert "\nall lambda values, width 0.5, n 500: fail\n" in text
    assert "\n| dial    | fail      | what dial rests on |\n" in text
    assert "dial: no lambda is worse than another in both SA and RA." in text


@pytest.mark.parametrize("width", [60, 120])
def test_a_terminal_gets_colours_and_evidence_that_is_folded(report, width):
    words = " ".join(["evidence"] * 40)
    point = report.operating_points[1]
    long = [one.model_copy(update={"evidence": words}) for one in point.checks]
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    points = [point.model_copy(update={"checks": long})]
    page(report.model_copy(update={"operating_points": points})).tables[0].draw(console)
    shown = console.file.getvalue()
    for colour, verdict in (("32", "pass"), ("33", "warn"), ("1;31", "fail")):
        assert f"\x1b[{colour}m{verdict}" in shown
    assert shown.count("evidence") == 3 * 40 + 1
