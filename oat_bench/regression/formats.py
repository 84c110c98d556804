"""What a check prints: for people, for machines, for continuous integration."""

import json
from dataclasses import asdict
from xml.etree import ElementTree

import pandas as pd

from oat_bench.regression.comparison import POWER, Check, Row

FORMATS = ("text", "markdown", "json", "junit", "github")


def table(check: Check) -> pd.DataFrame:
    """Return the table; widths only where there are several."""
    rows = check.rows
    columns = {
        "lambda": [_lam(row) for row in rows],
        "width": ["" if row.width is None else f"{row.width:g}" for row in rows],
        "attack": [row.attack if row.attack == "SA" else f"RA {row.attack}" for row in rows],
        "n": [str(row.n) for row in rows],
        "baseline": [f"{row.baseline:.1f}" for row in rows],
        "now": [f"{row.now:.1f}" for row in rows],
        "change": [f"{row.change:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    if len({row.width for row in rows} - {None}) == 1:
        del columns["width"]
    return pd.DataFrame(columns)


def _lam(row: Row) -> str:
    return "mean" if row.lam is None else f"{row.lam:g}"


def summary(check: Check) -> str:
    """Say the verdict in a sentence."""
    worse = [row for row in check.rows if row.verdict == "worse"]
    tolerated = f"{check.max_drop:g} points"
    certain = f"{100 * check.confidence:g}% confidence over all rows"
    if worse:
        most = min(worse, key=lambda row: row.change)
        return (
            f"WORSE: {len(worse)} of {len(check.rows)} accuracies dropped by more than {tolerated} "
            f"({certain}); the most: {describe(most)}"
        )
    better = sum(row.verdict == "better" for row in check.rows)
    gained = f"; {better} of {len(check.rows)} accuracies rose by more" if better else ""
    return f"PASSED: no drop of more than {tolerated} is supported ({certain}){gained}"


def describe(row: Row) -> str:
    """Say one row in words."""
    where = "the mean over lambda" if row.lam is None else f"lambda {row.lam:g}"
    if row.width not in (None, 1.0):
        where += f", width {row.width:g}"
    name = row.attack if row.attack == "SA" else f"RA under {row.attack}"
    return (
        f"{name} at {where} {row.baseline:.1f} -> {row.now:.1f} "
        f"({row.change:+.1f} [{row.low:+.1f}, {row.high:+.1f}])"
    )


def notes(check: Check) -> list[str]:
    """Return what stands below the table."""
    singles = [row.detectable for row in check.rows if row.lam is not None]
    pooled = [row.detectable for row in check.rows if row.lam is None]
    text = (
        f"The smallest drop that is found with a chance of {100 * POWER:g}%: {_range(singles)} "
        "points at a single lambda"
    )
    if pooled:
        text += f", {_range(pooled)} points in the means"
    text += "; more examples in the baseline find smaller ones."
    interval = f"change: in points, with its paired {100 * check.confidence:g}% interval."
    return [f"Accuracies in percent on the same examples; {interval}", text]


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def markdown(check: Check) -> str:
    """Write the check as Markdown."""
    drawn = table(check).to_markdown(index=False, disable_numparse=True, stralign="right")
    return "\n\n".join([f"**{summary(check)}**", drawn, *notes(check)]) + "\n"


def as_json(check: Check) -> str:
    """Write the check as JSON."""
    content = {
        "format_version": 1,
        "verdict": check.verdict,
        "max_drop": check.max_drop,
        "confidence": check.confidence,
        "rows": [asdict(row) for row in check.rows],
    }
    return json.dumps(content, indent=2) + "\n"


def junit(check: Check) -> str:
    """Write the check as JUnit's XML: a test case a row."""
    worse = [row for row in check.rows if row.verdict == "worse"]
    suite = ElementTree.Element(
        "testsuite", name="oat-bench check", tests=str(len(check.rows)), failures=str(len(worse))
    )
    for row in check.rows:
        width = "" if row.width in (None, 1.0) else f", width {row.width:g}"
        name = f"{row.attack} at lambda {_lam(row)}{width}"
        case = ElementTree.SubElement(suite, "testcase", classname="oat_bench.check", name=name)
        if row.verdict == "worse":
            ElementTree.SubElement(case, "failure", message=describe(row)).text = summary(check)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def github(check: Check) -> str:
    """Write GitHub's workflow commands: an error a row that is worse, else a notice."""
    lines = [
        f"::error title=Less robust::{_escaped(describe(row))}"
        for row in check.rows
        if row.verdict == "worse"
    ]
    return (
        "\n".join(lines or [f"::notice title=Robust accuracy::{_escaped(summary(check))}"]) + "\n"
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
