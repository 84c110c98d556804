"""What checks of attacks come to: a verdict each, with its evidence."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict

from oat_bench.written import Written

Verdict = Literal["pass", "warn", "fail"]

LADDER = ("fgsm", "fgm", "pgd-7", "pgd-20", "pgd-50-10", "autoattack")  # the weakest first


class Check(Written):
    """What one check found; ``fail``: attacks cannot be trusted, ``warn``: may be too weak."""

    model_config = ConfigDict(allow_inf_nan=True)

    name: str
    verdict: Verdict
    evidence: str
    numbers: Mapping[str, int | float | list[float]]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of the verdicts: fail before warn before pass."""
    return max(verdicts, key=("pass", "warn", "fail").index, default="pass")
