"""A check as text: for a terminal, as Markdown, JSON, JUnit XML, and for GitHub Actions."""

import json
import math
import secrets
from dataclasses import asdict, dataclass, replace
from functools import partial
from xml.etree import ElementTree

from oat_bench import escape
from oat_bench.errors import one_line
from oat_bench.regression.check import Check
from oat_bench.regression.comparison import RETRAINED, Comparison, Row
from oat_bench.reports.table import Cell, Page, Table, span
from oat_bench.statistics.pairs import POWER

_STYLES = {"worse": "bold red", "not excluded": "yellow", "better": "green", "ok": ""}
#: names come from files of strangers
printable = partial(one_line, limit=None)


@dataclass(frozen=True)
class Report:
    """What there is to say of a check; model and baseline are as the user called them."""

    check: Check
    model: str
    baseline: str
    update: str | None = None  # the command that makes the model the baseline, if there is one
    updated: tuple[str, ...] = ()  # files of the baseline that were rewritten

    @property
    def comparison(self) -> Comparison:
        """The rows and their verdicts."""
        return self.check.comparison

    @property
    def title(self) -> str:
        """Data set, threat model, model and baseline."""
        title, model, baseline = map(printable, (self.check.title, self.model, self.baseline))
        return f"{title}: {model} against {baseline}"


def verdict(report: Report) -> str:
    """Say in one line what the check came to."""
    comparison = report.comparison
    count, allowed = len(comparison.rows), _points(comparison.max_drop)
    total = f"{count} accurac{'y' if count == 1 else 'ies'}"
    confidence = f"{100 * comparison.confidence:g}% confidence"
    worse, better = comparison.of("worse"), comparison.of("better")
    if worse:
        said = f"worse: {len(worse)} of {total} dropped by more than {allowed} ({confidence}): "
        return said + _listed(worse)
    unsupported = f"no drop of more than {allowed} is supported ({confidence})"
    if open_ := comparison.of("not excluded"):
        shown = f"not shown to have dropped by at most {allowed}"
        what = shown if comparison.strict else "dropped"
        return f"not excluded: {len(open_)} of {total} {what}, {unsupported}: {_listed(open_)}"
    if better:
        return f"better: {len(better)} of {total} rose, {unsupported}: {_listed(better)}"
    return f"ok: in {total} {unsupported}"


def _listed(rows: list[Row]) -> str:
    named = [f"{_place(row)} {row.accuracy} {row.change:+z.1f}" for row in rows]
    return ", ".join([*named[:5], *([f"and {len(rows) - 5} more"] if len(rows) > 5 else [])])


def _place(row: Row) -> str:
    if row.lam is None:
        return "mean over lambda values"
    width = "" if row.width in (None, 1.0) else f", width {row.width:g}"
    return f"lambda {row.lam:g}{width}"


def _at(row: Row) -> str:
    return f"{row.accuracy} {'in the' if row.lam is None else 'at'} {_place(row)}"


def _points(value: float) -> str:
    return f"{value:g} point" + ("" if value == 1 else "s")


def offer(report: Report) -> list[str]:
    """Say how the model becomes the baseline, or that it has; nothing where it may not."""
    if report.updated:
        return [f"baseline updated: {', '.join(map(printable, report.updated))}"]
    if report.update is not None and report.comparison.verdict == "better":
        return [f"to make it the baseline: {printable(report.update)}"]
    return []


def _notes(comparison: Comparison) -> list[str]:
    confidence, allowed = f"{100 * comparison.confidence:g}%", _points(comparison.max_drop)
    paragraphs = [
        "Accuracies in percent, changes in points, on the same examples. SA: clean images. RA: "
        "right both clean and attacked; worst: under every attack; mean: over the operating "
        f"points. {confidence} intervals, each of its row alone (Agresti and Min; means: all that "
        f"their test does not reject). Verdicts hold of all rows together at {confidence} (Holm): "
        f"worse, a drop of more than {allowed} is supported (exact test by Tango's score; means: "
        "Gaffke's test); better, a rise is. not excluded: the interval "
        + ("" if comparison.strict else "is of a drop, and ")
        + f"reaches beyond a drop of {allowed}. detectable: the true drop that is found "
        f"{100 * POWER:.0f} times in 100."
    ]
    if any(row.sampled for row in comparison.rows):
        paragraphs.append(
            "m: how many of the examples that the cheaper attacks left standing were attacked, in "
            "the baseline and now. These rows are two-phase estimates, with tests and intervals of "
            "the differences of their shares."
        )
    numbers = sorted({row.n for row in comparison.rows})
    n = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    exact = [row for row in comparison.rows if row.changed is not None]
    at_points = [row for row in exact if row.lam is not None]
    in_means = [row.detectable for row in exact if row.lam is None]
    means = f" (in the means: of {span(in_means)})" if in_means else ""
    paragraphs.append(
        f"With {n} examples a true drop of {span([row.detectable for row in at_points])} points is "
        f"found {100 * POWER:.0f} times in 100{means} if as many outcomes change as here, "
        f"{span([row.changed or 0.0 for row in at_points])}%. If {100 * RETRAINED:.0f}% change, as "
        "between two trainings on the digits, it takes a drop of "
        f"{span(comparison.between_trainings())} points."
    )
    if comparison.too_fine:
        best = min(exact, key=lambda row: row.detectable)
        about = float(f"{best.needed:.2g}")  # two digits: it is an estimate
        paragraphs.append(
            f"Warning: a tolerance of {_points(comparison.max_drop)} is finer than {n} examples "
            f"support: no drop below {best.detectable:.1f} points is found as often. For drops of "
            f"{2 * comparison.max_drop:g} points it takes about {about:,.0f} examples."
        )
    return paragraphs


def page(report: Report) -> Page:
    """Return title, table and notes: a row for each accuracy."""
    found, rows = report.comparison.rows, []
    several = len({row.width for row in found if row.width is not None}) > 1
    for row in found:
        cells = {
            "lambda": "mean" if row.lam is None else f"{row.lam:g}",
            "width": f"{row.width:g}" if several and row.width is not None else "",
            "accuracy": row.accuracy,
            "n": str(row.n),
            "m": "" if row.sampled is None else " / ".join(map(str, row.sampled)),
            "baseline": f"{row.baseline:.1f}",
            "now": f"{row.now:.1f}",
            "change": f"{row.change:+z.1f} [{row.low:+z.1f}, {row.high:+z.1f}]",
            "detectable": f"{row.detectable:.1f}",
        }
        style = _STYLES[row.verdict]
        verdict = Cell(row.verdict, style, strong=row in report.comparison.failures)
        rows.append({k: Cell(text, style) for k, text in cells.items()} | {"verdict": verdict})
    places = [_place(row) for row in found]
    gaps = [i for i in range(1, len(places)) if places[i] != places[i - 1]]
    keys = ("lambda", "width", "accuracy", "detectable", "verdict")
    table = Table(rows, ("accuracy", "verdict"), keys=keys, gaps=gaps)
    return Page(report.title, [table], _notes(report.comparison))


def markdown(report: Report) -> str:
    """Write title, verdict, table and notes as Markdown."""
    said = [escape.markdown(line) for line in (verdict(report), *offer(report))]
    return replace(page(report), said=said).markdown()


def plain(report: Report) -> str:
    """Write title, verdict and the rows that changed for worse or better as plain text."""
    comparison = report.comparison
    rows = [row for row in comparison.rows if row.verdict != "ok"]
    said = [report.title, verdict(report), *(_told(row, comparison) for row in rows)]
    return "\n".join([*said, *_notes(comparison)[1:]])


def as_json(report: Report) -> str:
    """Write the check as JSON: the verdict, every row, what n can tell."""
    comparison, check, rows = report.comparison, report.check, []
    for row in comparison.rows:
        values = asdict(row) | {"change": row.change}
        endless = [k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
        rows.append(values | dict.fromkeys(endless))
    content = {
        "format_version": 1,
        "verdict": comparison.verdict,
        "summary": verdict(report),
        "title": printable(check.title),
        "model": printable(report.model),
        "model_fingerprint": check.classifier.fingerprint(),
        "baseline": printable(report.baseline),
        "baseline_fingerprint": check.baseline.record.entry.model_fingerprint,
        "max_drop": comparison.max_drop,
        "confidence": comparison.confidence,
        "strict": comparison.strict,
        "failed": comparison.failed,
        "tolerance_too_fine": comparison.too_fine,
        "rows": rows,
        "notes": _notes(comparison),
        "update": None if report.update is None else printable(report.update),
        "updated": [printable(path) for path in report.updated],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def junit(report: Report) -> str:
    """Write the check as JUnit XML: a test case for each row, a failure for each that is worse."""
    comparison = report.comparison
    failures = comparison.failures
    counts = {"tests": str(len(comparison.rows)), "failures": str(len(failures))}
    suites = ElementTree.Element("testsuites", counts)
    name = f"oat-bench check {report.title}"
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **counts, "errors": "0"})
    for row in comparison.rows:
        named = {"classname": "oat-bench.check", "name": _at(row)}
        case, told = ElementTree.SubElement(suite, "testcase", named), _told(row, comparison)
        if row in failures:
            ElementTree.SubElement(case, "failure", message=told).text = told
        else:
            ElementTree.SubElement(case, "system-out").text = told
    output = ElementTree.SubElement(suite, "system-out")
    output.text = "\n".join([verdict(report), *offer(report), *_notes(comparison)])
    ElementTree.indent(suites)
    written = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{written}\n'


def _told(row: Row, comparison: Comparison) -> str:
    return (
        f"{_at(row)}: {row.baseline:.1f} before, {row.now:.1f} now, "
        f"{row.change:+z.1f} [{row.low:+z.1f}, {row.high:+z.1f}] on {row.n} examples; tolerance "
        f"{_points(comparison.max_drop)}, p {row.p_worse:.2g} for all rows together, detectable: "
        f"{row.detectable:.1f}"
    )


def github(report: Report) -> str:
    """Write workflow commands, then the table, in which GitHub is told to read no commands."""
    comparison, name = report.comparison, printable(report.model)
    kind = "error" if comparison.failed else "notice"
    said = "\n".join([f"{name}: {verdict(report)}", *offer(report)])
    lines = [_command(kind, f"oat-bench check: {comparison.verdict}", said)]
    for row in comparison.failures:
        what = "dropped" if row.verdict == "worse" else "may have dropped"
        lines.append(_command("error", f"{_at(row)} {what}", f"{name}: {_told(row, comparison)}"))
    if comparison.too_fine:
        lines.append(_command("warning", "oat-bench check: tolerance", _notes(comparison)[-1]))
    token = secrets.token_hex(16)
    return "\n".join([*lines, f"::stop-commands::{token}", markdown(report), f"::{token}::", ""])


def _command(kind: str, title: str, message: str) -> str:
    """Write one workflow command, as @actions/core escapes it."""
    codes = {ord(mark): f"%{ord(mark):02X}" for mark in "%\r\n"}
    title = title.translate(codes | {ord(":"): "%3A", ord(","): "%2C"})
    return f"::{kind} title={title}::{message.translate(codes)}"
