"""What a calibration found: one JSON file, read back, and shown as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, ValidationError

from oat_bench.attacks.engines import Attack
from oat_bench.calibration.guarantee import Count, lower_bound
from oat_bench.calibration.procedure import Estimate, Outcome
from oat_bench.calibration.search import Candidate, Goal
from oat_bench.calibration.strength import caution
from oat_bench.classifier import ModelInfo
from oat_bench.complaints import explain
from oat_bench.errors import UserError
from oat_bench.evaluation.cost import Cost
from oat_bench.files import read_bounded
from oat_bench.results.entries import Written, format_eps, versions

#: reports are small; a larger file is a mistake
_MAX_BYTES = 1 << 26


class Counted(Written):
    """An accuracy as it was counted."""

    value: float = Field(description="percent")
    right: int
    n: int

    @classmethod
    def of(cls, count: Count) -> "Counted":
        """Take a count of at least one example."""
        return cls(value=round(100 * count.share, 2), right=count.right, n=count.n)


class Bounded(Written):
    """An accuracy in percent on the examples of the tests, with its exact interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> "Bounded":
        """Round to two decimals, the interval outwards no further than to them."""
        return cls(**{k: round(100 * getattr(estimate, k), 2) for k in ("value", "low", "high")})


class BarTest(Written):
    """The test of an operating point against the bar."""

    place: int = Field(description="in the sequence, from 1")
    counted: Counted = Field(description="the accuracy that has the bar; cut short where it failed")
    p_value: float = Field(description="exact, one-sided, of the accuracy being below the bar")
    bound: float = Field(description="exact one-sided lower bound of this point alone, percent")
    holds: bool


class CalibrationPoint(Written):
    """An operating point that was looked at."""

    lam: float
    width: float
    trained: bool = Field(description="whether training sampled this lambda")
    sa: Counted = Field(description="on the examples of the search")
    ra: Counted | None = Field(
        description="on the first of them, under the attack of the search; None: not attacked"
    )
    dropped: str = Field(description="why it was not attacked on more of them; empty if it was")
    planned: int | None = Field(description="its place in the sequence of tests, from 1")
    test: BarTest | None = None


class ChosenPoint(Written):
    """The operating point that was chosen."""

    lam: float
    width: float
    sa: Bounded
    ra: Bounded = Field(description="under `attack`")
    weighted: Bounded | None = Field(description="of a goal without a bar: W SA + (1 - W) RA")


class Passes(Written):
    """What was computed, whether now or before."""

    predicted: int = Field(description="clean images, each at each operating point")
    attacked: int = Field(description="attacked images; those wrong when clean are not")
    passes: float = Field(description="forward and backward passes of an image, about")


class WidthCost(Written):
    """What the plain network of a width costs."""

    width: float
    flops: int
    latency_ms: float
    machine: str
    fits: bool = Field(description="whether it keeps to the limits")

    @classmethod
    def of(cls, width: float, cost: Cost, fits: bool) -> "WidthCost":
        """Take what was measured."""
        measured = {k: getattr(cost, k) for k in ("flops", "latency_ms", "machine")}
        return cls(width=width, fits=fits, **measured)


class Calibration(Written):
    """Where to run a model, and what is guaranteed there."""

    format_version: Literal[1] = 1
    dataset: str
    held_out: str = Field(description="the images that were calibrated on")
    architecture: str
    method: str
    selection: str = Field(description="the rule that chose the weights")
    threat_model: str = Field(description="norm of the perturbation")
    eps: str
    attack: str = Field(description="that RA of the tests and of the choice is under")
    search_attack: str = Field(default="", description="that of the search; empty: `attack`")
    caution: str = Field(default="", description="why RA under `attack` may be too high")
    card: str = Field(description="fingerprint of the attack card")
    seed: int = Field(description="of the attack")
    gradients: str
    goal: Literal["min-sa", "min-ra", "sa-weight"]
    value: float = Field(description="the bar, or the weight of SA: a share")
    confidence: float = Field(gt=0, lt=1)
    n_search: int = Field(description="examples of the search")
    n_test: int = Field(description="other examples, of the tests and of the choice")
    needed: int | None = Field(description="right answers of n_test that pass the test")
    widths: list[float] = Field(min_length=1, description="that were looked at")
    costs: list[WidthCost] = Field(description="of the widths, where there was a limit")
    points: list[CalibrationPoint] = Field(min_length=1)
    choice: ChosenPoint | None = Field(description="None: no point passed")
    spent: Passes
    grid: Passes = Field(description="of every example at every point of a grid of lambda")
    grid_points: int
    model_fingerprint: str
    data_fingerprint: str
    command: str = Field(description="what made this report; empty: a call from Python")
    versions: dict[str, str]

    @property
    def barred(self) -> Literal["SA", "RA"] | None:
        """The accuracy that has a bar."""
        kinds: dict[str, Literal["SA", "RA"] | None] = {"min-sa": "SA", "min-ra": "RA"}
        return kinds.get(self.goal)

    @property
    def searched_under(self) -> str:
        """The attack of the search."""
        return self.search_attack or self.attack

    @property
    def nearest(self) -> CalibrationPoint:
        """The point that came nearest to passing a test, or the first of the sequence."""
        tested = [point for point in self.points if point.test is not None]
        if not tested:
            return min(self.points, key=lambda point: point.planned or len(self.points) + 1)
        return max(tested, key=lambda point: point.test.bound if point.test is not None else 0.0)


def make_report(
    info: ModelInfo,
    outcome: Outcome,
    goal: Goal,
    attack: Attack,
    *,
    search_attack: Attack,
    confidence: float,
    held_out: str,
    gradients: str,
    widths: Sequence[float],
    costs: Sequence[WidthCost],
    spent: Passes,
    grid: Passes,
    grid_points: int,
    model_fingerprint: str,
    data_fingerprint: str,
    command: str,
) -> Calibration:
    """Build the report of a calibration."""
    tests = {
        id(test.candidate): BarTest(
            place=place,
            counted=Counted.of(test.count),
            p_value=test.p_value,
            bound=round(100 * lower_bound(test.count, confidence), 2),
            holds=test.holds,
        )
        for place, test in enumerate(outcome.tested, 1)
    }
    planned = {id(one): place for place, one in enumerate(outcome.sequence, 1)}

    def point(one: Candidate) -> CalibrationPoint:
        return CalibrationPoint(
            lam=one.point.lam,
            width=one.point.width,
            trained=info.trained_at(one.point.lam),
            sa=Counted.of(one.sa),
            ra=Counted.of(one.ra) if one.ra is not None else None,
            dropped=one.dropped,
            planned=planned.get(id(one)),
            test=tests.get(id(one)),
        )

    choice = None
    if outcome.choice is not None:
        chosen = outcome.choice
        choice = ChosenPoint(
            lam=chosen.candidate.point.lam,
            width=chosen.candidate.point.width,
            sa=Bounded.of(chosen.sa),
            ra=Bounded.of(chosen.ra),
            weighted=Bounded.of(chosen.weighted) if chosen.weighted is not None else None,
        )
    return Calibration(
        dataset=info.dataset,
        held_out=held_out,
        architecture=info.architecture,
        method=info.method,
        selection=info.selection,
        threat_model=attack.threat.norm,
        eps=format_eps(attack.threat.eps),
        attack=attack.label,
        search_attack=search_attack.label,
        caution=caution(attack),
        card=attack.card.fingerprint(),
        seed=attack.seed,
        gradients=gradients,
        goal=goal.kind,
        value=goal.value,
        confidence=confidence,
        n_search=outcome.n_search,
        n_test=outcome.n_test,
        needed=outcome.needed,
        widths=list(widths),
        costs=list(costs),
        points=[point(one) for one in outcome.found],
        choice=choice,
        spent=spent,
        grid=grid,
        grid_points=grid_points,
        model_fingerprint=model_fingerprint,
        data_fingerprint=data_fingerprint,
        command=command,
        versions=versions(),
    )


def read(path: Path) -> Calibration:
    """Read a ``calibration.json``.

    Raises:
        UserError: if it cannot be read, or is damaged.
    """
    content = read_bounded(path, _MAX_BYTES, "a report")
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        reason = explain(error, Calibration)
        raise UserError(f"{path}: not a report of oat-bench calibrate: {reason}") from error


# --- as text


def title(report: Calibration) -> str:
    """Name the model, the goal and the examples."""
    ra = f"RA under {report.attack}"
    aim = {
        "min-sa": f"the highest {ra} whose SA is at least {percent(report.value)}",
        "min-ra": f"the highest SA whose {ra} is at least {percent(report.value)}",
        "sa-weight": f"the highest {report.value:g} SA + {1 - report.value:g} {ra}",
    }[report.goal]
    return (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}: {aim}, "
        f"{report.threat_model} eps {report.eps}"
    )


def percent(share: float) -> str:
    """Write a share as a percentage, with no more digits than it has."""
    return f"{round(100 * share, 6):g}%"


def table(report: Calibration) -> pd.DataFrame:
    """Return the points that were not dropped, or were to be tested, as text."""
    several = len(report.widths) > 1
    best = report.choice
    rows = []
    for point in _shown(report):
        row = {"lambda": f"{point.lam:g}" + ("" if point.trained else " *")}
        if several:
            row["width"] = f"{point.width:g}"
        row |= {"SA": _counted(point.sa), f"RA ({report.searched_under})": _counted(point.ra)}
        test = point.test
        if report.barred is not None:
            under = f" ({report.attack})" if report.barred == "RA" else ""
            row[f"test: {report.barred}{under}"] = _counted(test.counted) if test else ""
            row["at least"] = f"{test.bound:.1f}" if test else ""
        verdict = ""
        if test is not None:
            verdict = "holds" if test.holds else "open"
        elif point.planned is not None and report.barred is not None:
            verdict = "not tested: one before it is open"
        if best is not None and (point.lam, point.width) == (best.lam, best.width):
            verdict = f"{verdict}, chosen".removeprefix(", ")
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def _shown(report: Calibration) -> list[CalibrationPoint]:
    return [point for point in report.points if not point.dropped or point.planned is not None]


def _counted(counted: Counted | None) -> str:
    return "" if counted is None else f"{counted.value:.1f} ({counted.right}/{counted.n})"


def sentence(report: Calibration) -> str:
    """Say in one sentence what was chosen and what is guaranteed of it."""
    sure, choice, ra = percent(report.confidence), report.choice, f"RA under {report.attack}"
    own_name, other_name = ("SA", ra) if report.barred == "SA" else (ra, "SA")
    several = len(report.widths) > 1
    if choice is None:
        near = report.nearest
        assert near.test is not None
        at = f"lambda {near.lam:g}" + (f", width {near.width:g}" if several else "")
        return (
            f"No operating point can be guaranteed, with confidence {sure}, to have an {own_name} "
            f"of at least {percent(report.value)}: the nearest, {at}, has "
            f"{near.test.counted.value:.1f}% on {near.test.counted.n} images, at least "
            f"{near.test.bound:.1f}%; lower the bar, or take more images."
        )
    at = f"lambda {choice.lam:g}" + (f" and width {choice.width:g}" if several else "")
    if report.barred is None:
        assert choice.weighted is not None
        return (
            f"Run it at {at}: {report.value:g} SA + {1 - report.value:g} RA is "
            f"{_bounded(choice.weighted)}, SA {_bounded(choice.sa)}, {ra} {_bounded(choice.ra)}."
        )
    own, other = (choice.sa, choice.ra) if report.barred == "SA" else (choice.ra, choice.sa)
    return (
        f"Run it at {at}: with confidence {sure} {own_name} is at least {percent(report.value)} "
        f"({own.value:.1f}% on {report.n_test} images), and {other_name} is {_bounded(other)}."
    )


def _bounded(bounded: Bounded) -> str:
    return f"{bounded.value:.1f} [{bounded.low:.1f}, {bounded.high:.1f}]%"


def snippet(report: Calibration) -> str:
    """Return the Python that makes the chosen classifier; empty without a choice."""
    if report.choice is None:
        return ""
    named = len(report.widths) > 1 or report.choice.width != 1
    width = f", width={report.choice.width!r}" if named else ""
    ra = f"RA under {report.attack}: {report.choice.ra.value:.1f}%"
    if report.barred == "RA":
        ra = f"RA under {report.attack}: at least {percent(report.value)}"
    return f"model = classifier.at(lam={report.choice.lam!r}{width})  # {ra}"


def notes(report: Calibration) -> list[str]:
    """Return the paragraphs below the table."""
    parts = [f"Warning: {report.caution}"] if report.caution else []
    parts.append(_cost(report))
    if dropped := len(report.points) - len(_shown(report)):
        parts.append(
            f"{dropped} more point{'s were' if dropped > 1 else ' was'} dropped early, beaten by "
            "another or below the bar beyond chance: see calibration.json."
        )
    if report.costs:
        known = "; ".join(
            f"width {cost.width:g}: {cost.flops:.3g} FLOPs and {cost.latency_ms:g} ms an image"
            f"{'' if cost.fits else ' (too much)'}"
            for cost in report.costs
        )
        parts.append(f"{known} ({report.costs[0].machine}).")
    if report.searched_under != report.attack:
        parts.append(
            f"The search attacks with {report.searched_under} alone, the tests and the choice rest "
            f"on {report.attack}."
        )
    held = (
        f"{report.n_search + report.n_test} images of {report.held_out}: SA and RA of the table "
        f"are of the {report.n_search} that the search saw"
    )
    if report.barred is None:
        parts.append(
            f"{held}, the choice is measured on the {report.n_test} others, with exact "
            f"{percent(report.confidence)} intervals."
        )
    else:
        parts.append(
            f"{held}, tests and choice of the {report.n_test} others. Tested in turn, up to the "
            f"first that stays open, so that the confidence holds over all points (Learn then "
            f"Test); to hold the bar takes {report.needed} right of {report.n_test}. at least: "
            "exact one-sided bound of a point alone. The interval of the choice holds for all "
            "points of the sequence at once. * lambda was not trained."
        )
    if report.held_out == "the validation split" and report.selection.startswith("best"):
        parts.append(
            "The weights were chosen on the validation split: accuracies on it are a little too "
            "high, and so is what they guarantee. Take --split test."
        )
    return parts


def _cost(report: Calibration) -> str:
    spent, grid = report.spent, report.grid
    return (
        f"It took {spent.attacked:,} attacked images and {spent.predicted:,} clean ones; a grid of "
        f"{report.grid_points // len(report.widths)} lambda on all images would take about "
        f"{grid.attacked:,} and {grid.predicted:,}: {100 * spent.passes / grid.passes:.0f}% of the "
        "passes."
    )


def markdown(report: Calibration) -> str:
    """Write the report as Markdown."""
    code = snippet(report)
    parts = [
        f"**{title(report)}**",
        table(report).to_markdown(index=False, disable_numparse=True, stralign="right"),
        sentence(report),
        *([f"```py\n{code}\n```"] if code else []),
        *notes(report),
    ]
    return "\n\n".join(parts) + "\n"
