"""Reports of attack integrity: one JSON file, read back, and shown as a table a lambda."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.complaints import explain
from oat_bench.errors import UserError
from oat_bench.evaluation.integrity import (
    CLOSE,
    FAR,
    LEVEL,
    MISSED,
    NEGLIGIBLE,
    Check,
    Verdict,
    detectable,
    worst,
)
from oat_bench.files import read_bounded
from oat_bench.results.entries import Written, format_eps, versions

#: reports are small; a larger file is a mistake
_MAX_BYTES = 1 << 26
_STYLES: dict[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


class IntegrityPoint(Written):
    """What was found at one operating point."""

    lam: float
    width: float
    verdict: Verdict = Field(description="the worst of the checks'")
    checks: list[Check] = Field(min_length=1)

    @classmethod
    def of(cls, point: OperatingPoint, checks: list[Check]) -> "IntegrityPoint":
        """Sum up the checks of an operating point."""
        verdict = worst([check.verdict for check in checks])
        return cls(lam=point.lam, width=point.width, verdict=verdict, checks=checks)


class IntegrityDial(Written):
    """What was found of all lambda of one width together."""

    width: float
    n: int = Field(description="number of examples")
    verdict: Verdict = Field(description="the worst of the checks'")
    checks: list[Check] = Field(min_length=1)


class Integrity(Written):
    """Whether the attacks on one model can be trusted."""

    format_version: Literal[1] = 1
    dataset: str
    architecture: str
    method: str
    threat_model: str = Field(description="norm of the perturbation")
    eps: str
    verdict: Verdict = Field(description="the worst of the operating points' and dials'")
    n: int = Field(description="number of examples")
    fewer_examples: dict[str, int] = Field(description="of the same order, the first, by attack")
    seed: int = Field(description="of the attacks")
    attacks: list[str] = Field(description="those put in order, the weakest first")
    operating_points: list[IntegrityPoint] = Field(min_length=1)
    dials: list[IntegrityDial] = Field(default=[], description="by width; absent: not looked at")
    model_fingerprint: str
    data_fingerprint: str
    command: str = Field(description="what made this report")
    versions: dict[str, str]

    @property
    def parts(self) -> list[IntegrityPoint | IntegrityDial]:
        """What has a table of its own: the operating points, then the dials."""
        return [*self.operating_points, *self.dials]


def make_report(
    info: ModelInfo,
    points: Sequence[IntegrityPoint],
    *,
    dials: Sequence[IntegrityDial] = (),
    attacks: Sequence[str],
    n: int,
    fewer: dict[str, int],
    seed: int,
    model_fingerprint: str,
    data_fingerprint: str,
    command: str,
) -> Integrity:
    """Build the report of an examination."""
    return Integrity(
        dataset=info.dataset,
        architecture=info.architecture,
        method=info.method,
        threat_model=info.threat.norm,
        eps=format_eps(info.threat.eps),
        verdict=worst([*(point.verdict for point in points), *(dial.verdict for dial in dials)]),
        n=n,
        fewer_examples=fewer,
        seed=seed,
        attacks=list(attacks),
        operating_points=list(points),
        dials=list(dials),
        model_fingerprint=model_fingerprint,
        data_fingerprint=data_fingerprint,
        command=command,
        versions=versions(),
    )


def read(path: Path) -> Integrity:
    """Read an ``integrity.json``.

    Raises:
        UserError: if it cannot be read, or is damaged.
    """
    content = read_bounded(path, _MAX_BYTES, "a report")
    try:
        report = Integrity.model_validate_json(content)
        Threat.model_validate({"eps": report.eps})
    except ValidationError as error:
        reason = explain(error, Integrity)
        raise UserError(f"{path}: not a report of oat-bench integrity: {reason}") from error
    return report


# --- as text


def title(report: Integrity) -> str:
    """Return what stands above the tables."""
    return (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}, "
        f"{report.threat_model} eps {report.eps}: attack integrity: {report.verdict}"
    )


def heading(report: Integrity, point: IntegrityPoint | IntegrityDial) -> str:
    """Return what stands above the table of an operating point or a dial."""
    several = len({other.width for other in report.operating_points}) > 1
    width = f", width {point.width:g}" if several else ""
    if isinstance(point, IntegrityDial):
        return f"all lambda{width}, n {point.n}: {point.verdict}"
    return f"lambda {point.lam:g}{width}: {point.verdict}"


def notes(report: Integrity) -> list[str]:
    """Return the paragraphs below the tables."""
    fewer = "".join(f", {name} {n}" for name, n in report.fewer_examples.items())
    unseen = ""
    if len(report.attacks) > 1:
        unseen = (
            f" It takes {detectable(len(report.attacks))} examples, all to one side, for two "
            "attacks to be out of order; less is not seen."
        )
    whole = " dial: no lambda is worse than another in both SA and RA." if report.dials else ""
    return [
        f"n {report.n}{fewer}. fail: the attacks cannot be trusted; warn: they may be too weak. "
        f"What chance explains is no violation: exact paired tests on the same examples, level "
        f"{LEVEL:g} a check, Holm. Up to {100 * NEGLIGIBLE:g}% of the examples are of no account."
        f"{unseen}",
        "order: no attack breaks more than a stronger one. estimate: RA under PGD-20 is at most "
        f"{100 * CLOSE:g} points above RA under the strongest attack; it fails beyond "
        f"{100 * FAR:g}. eps sweep: RA is SA at eps 0, never rises, and vanishes. steps: twice as "
        "many break no more. noise: breaks no more than PGD. gradient-free: breaks no more than "
        f"gradients, nor over {100 * MISSED:g}% that they miss. "
        "loss: PGD raises it. batch, repeat: the logits of an image "
        f"do not depend on its batch, nor on chance.{whole}",
    ]


def markdown(report: Integrity) -> str:
    """Write the report as Markdown: a table an operating point, then one a dial."""
    parts = [f"**{title(report)}**"]
    for point in report.parts:
        rows = [(check.name, check.verdict, check.evidence) for check in point.checks]
        frame = pd.DataFrame(rows, columns=["check", "verdict", "evidence"])
        table = frame.to_markdown(index=False, disable_numparse=True)
        parts += [heading(report, point), table]
    return "\n\n".join([*parts, *notes(report)]) + "\n"


def terminal(point: IntegrityPoint | IntegrityDial) -> Table:
    """Draw the table of an operating point or a dial for a terminal; evidence is folded."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for name in ("check", "verdict"):
        table.add_column(name, no_wrap=True)
    table.add_column("evidence", overflow="fold")
    for check in point.checks:
        table.add_row(check.name, Text(check.verdict, style=_STYLES[check.verdict]), check.evidence)
    return table
