"""What was found of the attacks on a model, as it is written as integrity.json."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from oat_bench.cards import format_eps
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.results.checks import Check, Verdict, worst
from oat_bench.results.entries import versions
from oat_bench.written import Written


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
    """What was found of all lambda values of one width together."""

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
        """What has a table of its own."""
        return [*self.operating_points, *self.dials]


def make_report(
    info: ModelInfo,
    points: Sequence[IntegrityPoint],
    dials: Sequence[IntegrityDial] = (),
    **fields: Any,
) -> Integrity:
    """Build the report of an examination; ``fields`` are those that these do not tell."""
    return Integrity(
        dataset=info.dataset,
        architecture=info.architecture,
        method=info.method,
        threat_model=info.threat.norm,
        eps=format_eps(info.threat.eps),
        verdict=worst([*(point.verdict for point in points), *(dial.verdict for dial in dials)]),
        operating_points=list(points),
        dials=list(dials),
        versions=versions(),
        **fields,
    )
