"""The report of the lambda adversary: every threat model under a heading of its own."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from oat_bench import __version__
from oat_bench.classifier import ModelInfo
from oat_bench.evaluation.random_lambda import RandomLambda
from oat_bench.evaluation.statistics import Accuracy
from oat_bench.evaluation.transfer import any_lambda, masked, matrix
from oat_bench.leaderboards.entries import Interval

#: what the attacker knows, in the words of the headings
KNOWN = "Lambda is public: attacked at the lambda that classifies"
UNKNOWN = "Lambda is unknown to the attacker: attacked at one lambda, classified at another"
ANY = "Lambda is public, and the attacker may attack at any lambda: the worst for each image"
DRAWN = "Lambda is drawn at random for each query: the attack on the expectation"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class TransferCell(_Model):
    """RA where images are attacked at one lambda and classified at another."""

    crafted: float
    lam: float
    ra: Interval


class AnyLambda(_Model):
    """RA at one lambda against an attacker who attacks at the worst lambda for each image."""

    lam: float
    ra: Interval
    strongest: float = Field(description="the one lambda that, attacked at, breaks most")


class MaskedGradients(_Model):
    """A lambda at which images attacked elsewhere break more, beyond chance."""

    lam: float
    crafted: float
    only_there: int
    only_here: int
    p_value: float


class Drawn(_Model):
    """A defender who draws lambda uniformly from a set."""

    lams: list[float]
    expected_clean: Interval
    expected: Interval
    worst_clean: Interval
    worst: Interval


class Transfer(_Model):
    """What is written as transfer.json."""

    format_version: Literal[1] = 1
    dataset: str
    method: str
    architecture: str
    norm: str
    eps: float
    width: float
    attack: str
    seed: int
    gradients: str
    n: int
    cells: list[TransferCell]
    any_lambda: list[AnyLambda]
    masked: list[MaskedGradients]
    drawn: Drawn | None
    model_fingerprint: str
    data_fingerprint: str
    command: str
    versions: dict[str, str]


def make_report(
    info: ModelInfo,
    frame: pd.DataFrame,
    drawn: RandomLambda | None,
    *,
    width: float,
    attack: str,
    eps: float,
    seed: int,
    gradients: str,
    model_fingerprint: str,
    data_fingerprint: str,
    command: str,
) -> Transfer:
    """Build the report.

    Args:
        info: the classifier's.
        frame: from `oat_bench.evaluation.transfer.transfer`.
        drawn: from `oat_bench.evaluation.random_lambda.summarize`; None if that was not asked for.
        width: share of the channels.
        attack: name of the card.
        eps: of the attack.
        seed: of the attack.
        gradients: precision that it computed in.
        model_fingerprint: names the weights.
        data_fingerprint: names the data.
        command: what made the numbers.
    """
    cells, worst = matrix(frame), any_lambda(frame)
    sources = sorted({source for source, _ in cells})
    return Transfer(
        dataset=info.dataset,
        method=info.method,
        architecture=info.network.architecture,
        norm=info.threat.norm,
        eps=eps,
        width=width,
        attack=attack,
        seed=seed,
        gradients=gradients,
        n=frame["example"].nunique(),
        cells=[
            TransferCell(crafted=source, lam=lam, ra=Interval.of(accuracy))
            for (source, lam), accuracy in cells.items()
        ],
        any_lambda=[
            AnyLambda(
                lam=lam,
                ra=Interval.of(accuracy),
                strongest=min(sources, key=lambda source: cells[(source, lam)].value),
            )
            for lam, accuracy in worst.items()
        ],
        masked=[MaskedGradients(**asdict(one)) for one in masked(frame)],
        drawn=None if drawn is None else _drawn(drawn),
        model_fingerprint=model_fingerprint,
        data_fingerprint=data_fingerprint,
        command=command,
        versions={"oat-bench": __version__, "torch": version("torch")},
    )


def _drawn(found: RandomLambda) -> Drawn:
    names = ("expected_clean", "expected", "worst_clean", "worst")
    accuracies: dict[str, Accuracy] = {name: getattr(found, name) for name in names}
    return Drawn(lams=found.lams, **{k: Interval.of(v) for k, v in accuracies.items()})


def title(report: Transfer) -> str:
    """Name the model, the attack and the examples."""
    width = f", width {report.width:g}" if report.width != 1 else ""
    return (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}{width}: "
        f"{report.attack}, {report.norm} eps {report.eps:.4g}, {report.n} images"
    )


def tables(report: Transfer) -> dict[str, pd.DataFrame]:
    """Return the tables, by heading; accuracies in percent with 95% intervals."""
    cells = {(cell.crafted, cell.lam): cell.ra for cell in report.cells}
    sources = sorted({source for source, _ in cells})
    lams = sorted({lam for _, lam in cells})
    found: dict[str, pd.DataFrame] = {}
    own = [lam for lam in lams if lam in sources]
    if own:
        found[KNOWN] = pd.DataFrame(
            {"lambda": _g(own), "RA": [_shown(cells[(lam, lam)]) for lam in own]}
        )
    square = {"attacked at": _g(sources)}
    for lam in lams:
        square[f"RA at {lam:g}"] = [f"{cells[(source, lam)].value:.1f}" for source in sources]
    found[UNKNOWN] = pd.DataFrame(square)
    found[ANY] = pd.DataFrame(
        {
            "lambda": _g(lams),
            "RA, any lambda": [_shown(row.ra) for row in report.any_lambda],
            "strongest": _g([row.strongest for row in report.any_lambda]),
        }
    )
    if report.drawn is not None:
        drawn = report.drawn
        found[DRAWN] = pd.DataFrame(
            {
                "drawn from": [", ".join(_g(drawn.lams))],
                "expected SA": [_shown(drawn.expected_clean)],
                "expected RA": [_shown(drawn.expected)],
                "SA at every lambda": [_shown(drawn.worst_clean)],
                "RA at every lambda": [_shown(drawn.worst)],
            }
        )
    return found


def notes(report: Transfer) -> list[str]:
    """Return what stands below the tables: the verdict, and what the columns mean."""
    verdict = (
        "No lambda is broken more, beyond chance, by images attacked at another one: gradients are "
        "not masked from one lambda to the next."
    )
    if report.masked:
        verdict = "Gradients are masked: " + "; ".join(
            f"at lambda {one.lam:g} what was attacked at {one.crafted:g} breaks {one.only_there} "
            f"images that its own attack does not, against {one.only_here} (p = {one.p_value:.2g})"
            for one in report.masked
        )
        verdict += ". RA, any lambda is the honest number there."
    meanings = (
        "Accuracies in percent with 95% intervals. RA: right both clean and attacked. strongest: "
        "the one lambda whose attacked images break most."
    )
    if report.drawn is not None:
        meanings += (
            " expected: the chance that one query is answered right; at every lambda: what is left "
            "to an attacker who asks until one answer is wrong."
        )
    return [verdict, meanings]


def markdown(report: Transfer) -> str:
    """Write the report as Markdown."""
    parts = [f"**{title(report)}**"]
    for heading, table in tables(report).items():
        parts += [
            f"### {heading}",
            table.to_markdown(index=False, disable_numparse=True, stralign="right"),
        ]
    return "\n\n".join([*parts, *notes(report)]) + "\n"


def _g(values: list[float]) -> list[str]:
    return [f"{value:g}" for value in values]


def _shown(interval: Interval) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
