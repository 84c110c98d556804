"""Entries: one reviewable JSON file for each evaluated model.

The fields that describe the model, and the accuracies at each operating point, have the names and
the meaning of RobustBench's ``model_info`` files (accuracies are percentages); lambda, width,
intervals and the provenance of the numbers come on top.
"""

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from oat_bench import __version__
from oat_bench.acceleration import Precision
from oat_bench.attacks import Attack
from oat_bench.cards import Lambda, Name, NonNegative, Norm, Width
from oat_bench.classifier import ModelInfo
from oat_bench.evaluation.frontier import Summary
from oat_bench.evaluation.statistics import WORST, Accuracy, PointResult


class _Model(BaseModel):
    # only the parameters of attacks may be infinite
    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=False
    )


Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1)]


class Interval(_Model):
    """An accuracy in percent with its 95% Wilson interval."""

    value: Percent
    low: Percent
    high: Percent
    n: Count | None = Field(default=None, description="examples, where fewer than the point's n")

    @classmethod
    def of(cls, accuracy: Accuracy, usual_n: int | None = None) -> "Interval":
        """Round to two decimals, as RobustBench does; say n where it is not the usual one."""
        rounded = {k: round(getattr(accuracy, k), 2) for k in ("value", "low", "high")}
        return cls(**rounded, n=None if usual_n in (None, accuracy.n) else accuracy.n)


class EntryCost(_Model):
    """What the plain network of an operating point costs."""

    parameters: int
    flops: int = Field(description="of one image, by torch's counter: a multiply-add is two")
    latency_ms: float = Field(description="of one image alone, float32: the median of passes")
    machine: str = Field(description="where the passes were timed")


class EntryPoint(_Model):
    """What was measured at one operating point."""

    lam: Lambda
    width: Width
    trained: bool = Field(description="whether training sampled this lambda")
    n: Count = Field(description="number of examples")
    clean_acc: Percent = Field(description="SA")
    clean_acc_interval: Interval
    autoattack_acc: Percent | None = Field(description="RA under AutoAttack, if it was run")
    robust_acc: dict[Name, Interval] = Field(description="RA per attack")
    worst_case_acc: Interval | None = Field(description="right under every attack of the threat")
    cost: EntryCost | None = None


class EntryAttack(_Model):
    """An attack behind the numbers, as it was run."""

    name: Name
    engine: str
    class_: str = Field(alias="class")
    eps: NonNegative
    parameters: dict[str, object]
    card: str = Field(description="fingerprint of the card")


class EntryHole(_Model):
    """What lies between lambda = 0 and the first lambda above it, in points."""

    lam: float = Field(description="the first lambda above 0 that was evaluated")
    sa: float
    ra: float
    distance: float = Field(description="Euclidean")


class EntryFrontier(_Model):
    """What the frontier of SA and RA comes down to; see `oat_bench.evaluation.frontier`."""

    attack: str = Field(description="whose RA it is, or worst: the worst case over attacks")
    width: float
    pareto: list[float] = Field(description="lambda that no other beats in SA and RA")
    reference: tuple[float, float] = Field(description="SA, RA that the hypervolume begins at")
    hypervolume: Interval = Field(description="percent of the box from there to (100, 100)")
    hole: EntryHole | None

    @classmethod
    def of(cls, summary: Summary) -> "EntryFrontier":
        """Round to two decimals."""
        value, low, high = (
            round(number, 2) for number in (summary.hypervolume, summary.low, summary.high)
        )
        hole = None
        if summary.hole is not None:
            points = {k: round(getattr(summary.hole, k), 2) for k in ("sa", "ra", "distance")}
            hole = EntryHole(lam=summary.hole.lam, **points)
        return cls(
            attack=summary.attack,
            width=summary.width,
            pareto=summary.pareto,
            reference=summary.reference,
            hypervolume=Interval(value=value, low=low, high=high),
            hole=hole,
        )


class Entry(_Model):
    """One model on a leaderboard."""

    format_version: Literal[1] = 1
    name: str
    authors: str = ""
    venue: str = ""
    link: str = ""
    dataset: str
    architecture: str
    additional_data: bool = False
    number_forward_passes: int = 1
    threat_model: Norm = Field(description="norm of the perturbation")
    eps: str
    reported: str | None = None
    method: str
    seed: int
    operating_points: list[EntryPoint]
    frontiers: list[EntryFrontier] | None = Field(
        default=None, description="summary numbers, by width and attack"
    )
    attacks: list[EntryAttack]
    predictions: Literal["float32"] = "float32"
    gradients: Precision = Field(description="precision of what the attacks differentiated")
    command: str = Field(description="what made these numbers")
    benchmark_card: str = Field(description="fingerprint of the card the model was trained by")
    model_fingerprint: str
    selection: str
    interpolation: str = Field(description="how a lambda between trained ones is encoded")
    versions: dict[str, str]


def make_entry(
    info: ModelInfo,
    results: list[PointResult],
    attacks: list[Attack],
    *,
    model_fingerprint: str,
    command: str,
    eps: float,
    norm: Norm,
    gradients: Precision = "float32",
    frontiers: list[Summary] | None = None,
) -> Entry:
    """Build the entry of an evaluation."""
    return Entry(
        name=f"{info.method.upper()} {info.network.architecture}",
        dataset=info.dataset,
        architecture=info.network.architecture,
        threat_model=norm,
        eps=_eps(eps),
        method=info.method,
        seed=info.seed,
        operating_points=[_point(result, info) for result in results],
        frontiers=None if frontiers is None else [EntryFrontier.of(s) for s in frontiers],
        attacks=[
            EntryAttack.model_validate(
                {
                    "name": attack.card.name,
                    "engine": attack.card.engine,
                    "class": attack.card.class_,
                    "eps": attack.threat.eps,
                    "parameters": attack.parameters,
                    "card": attack.card.fingerprint(),
                }
            )
            for attack in attacks
        ],
        gradients=gradients,
        command=command,
        benchmark_card=info.benchmark_card,
        model_fingerprint=model_fingerprint,
        selection=info.selection,
        interpolation=info.interpolation,
        versions={"oat-bench": __version__}
        | {name: version(name) for name in ("torch", "torchattacks", "pyautoattack")}
        | {"adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")},
    )


def _point(result: PointResult, info: ModelInfo) -> EntryPoint:
    robust = {k: Interval.of(v, result.clean.n) for k, v in result.robust.items() if k != WORST}
    autoattack = robust.get("autoattack")
    worst = result.robust.get(WORST)
    return EntryPoint(
        lam=result.lam,
        width=result.width,
        trained=info.trained_at(result.lam),
        n=result.clean.n,
        clean_acc=round(result.clean.value, 2),
        clean_acc_interval=Interval.of(result.clean),
        autoattack_acc=autoattack.value if autoattack else None,
        robust_acc=robust,
        worst_case_acc=Interval.of(worst, result.clean.n) if worst else None,
        cost=EntryCost(**asdict(result.cost)) if result.cost else None,
    )


def _eps(eps: float) -> str:
    """Write eps as the field does: 8/255, but 0.2."""
    levels = eps * 255
    whole = levels >= 1 and abs(levels - round(levels)) < 1e-9
    return f"{levels:.0f}/255" if whole and float(f"{eps:g}") != eps else f"{eps:g}"
