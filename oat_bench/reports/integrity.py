"""The report of attack integrity: a table for each operating point, then one for each dial."""

from math import comb

from oat_bench.evaluation.integrity import CLOSE, FAR, LEVEL, MISSED, NEGLIGIBLE, fewest
from oat_bench.reports.table import Cell, Page, Row, Table
from oat_bench.results.checks import Verdict
from oat_bench.results.integrity import Integrity, IntegrityDial, IntegrityPoint

_COLUMNS = ("check", "verdict", "evidence")
_STYLES: dict[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def page(report: Integrity) -> Page:
    """Return the report."""
    title = (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}, "
        f"{report.threat_model} eps {report.eps}: attack integrity: {report.verdict}"
    )
    tables = []
    for part in report.parts:
        rows: list[Row] = []
        for check in part.checks:
            verdict = Cell(check.verdict, _STYLES[check.verdict])
            rows.append({"check": check.name, "verdict": verdict, "evidence": check.evidence})
        tables.append(Table(rows, _COLUMNS, _heading(report, part), foreign=False))
    return Page(title, tables, _notes(report))


def _heading(report: Integrity, point: IntegrityPoint | IntegrityDial) -> str:
    several = len({other.width for other in report.operating_points}) > 1
    width = f", width {point.width:g}" if several else ""
    if isinstance(point, IntegrityDial):
        return f"all lambda values{width}, n {point.n}: {point.verdict}"
    return f"lambda {point.lam:g}{width}: {point.verdict}"


def _notes(report: Integrity) -> list[str]:
    fewer = "".join(f", {name} {n}" for name, n in report.fewer_examples.items())
    unseen = ""
    if (n_attacks := len(report.attacks)) > 1:
        unseen = (
            f" It takes {fewest(comb(n_attacks, 2))} examples, all to one side, for two attacks to "
            "be out of order; less is not seen."
        )
    whole = " dial: no lambda is worse than another in both SA and RA." if report.dials else ""
    return [
        f"n {report.n}{fewer}. fail: the attacks cannot be trusted; warn: they may be too weak. "
        f"What chance explains is no violation: exact paired tests on the same examples, level "
        f"{LEVEL:g} a check, Holm. Up to {100 * NEGLIGIBLE:g}% of the examples are negligible."
        f"{unseen}",
        "order: no attack breaks more than a stronger one. estimate: RA under PGD-20 is at most "
        f"{100 * CLOSE:g} points above RA under the strongest attack; it fails beyond "
        f"{100 * FAR:g}. eps sweep: RA is SA at eps 0, never rises, and vanishes. steps: twice as "
        "many break no more. noise: breaks no more than PGD. gradient-free: breaks no more than "
        f"gradients, nor over {100 * MISSED:g}% that they miss. loss: PGD raises it. batch, "
        f"repeat: the logits of an image do not depend on its batch, nor on chance.{whole}",
    ]
