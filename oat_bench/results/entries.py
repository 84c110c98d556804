"""Entries: one reviewable JSON file for each evaluated model.

The fields that describe the model, and the accuracies at each operating point, have the names and
the meaning of RobustBench's ``model_info`` files (accuracies are percentages); lambda, width,
intervals and the provenance of the numbers come on top. `oat_bench.results.robustbench` writes
an operating point as such a file. ``docs/entry.schema.json`` is the schema.

A key that came later has a default, which means what was done before there was the key; so
``format_version`` stays while entries grow.
"""

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oat_bench import __version__
from oat_bench.acceleration import Precision
from oat_bench.attacks.engines import Attack, Run
from oat_bench.cards import Name, Norm, Targeted
from oat_bench.classifier import ModelInfo
from oat_bench.evaluation.cost import Cost
from oat_bench.evaluation.integrity import Verdict
from oat_bench.registry import METHODS
from oat_bench.statistics.accuracy import WORST, Accuracy, PointResult
from oat_bench.statistics.frontier import Hole, Summary

#: of the schema: the format, and how often keys were added to it
SCHEMA_VERSION = "1.3"

Percent = Annotated[float, Field(ge=0, le=100)]
#: a number of examples, parameters or operations, as files of other programs hold it too
Count = Annotated[int, Field(lt=2**63)]
#: of numbers in an entry: so many that tables of one decimal, made from it, are not rounded twice
DECIMALS = 4


class Written(BaseModel):
    """Base of results that are written as JSON and read back: no unknown keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class _Model(Written):
    # only the parameters of attacks may be infinite
    model_config = ConfigDict(allow_inf_nan=False)


class Interval(_Model):
    """An accuracy in percent with its 95% Wilson interval."""

    value: Percent
    low: Percent
    high: Percent
    n: Count | None = Field(
        default=None, ge=1, description="examples, where fewer than the point's n"
    )

    @classmethod
    def of(cls, accuracy: Accuracy, usual_n: int | None = None) -> "Interval":
        """Round to `DECIMALS`; say n where it is not the usual one."""
        rounded = {k: round(getattr(accuracy, k), DECIMALS) for k in ("value", "low", "high")}
        return cls(**rounded, n=None if usual_n in (None, accuracy.n) else accuracy.n)


class EntryCost(_Model):
    """What the plain network of an operating point costs."""

    parameters: Count = Field(ge=0)
    flops: Count = Field(
        ge=0, description="of one image, by torch's counter: a multiply-add is two"
    )
    latency_ms: float = Field(ge=0, description="of one image alone, float32: the median of passes")
    machine: str = Field(description="where the passes were timed")


class EntryPoint(_Model):
    """What was measured at one operating point."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    trained: bool = Field(description="whether training sampled this lambda")
    n: Count = Field(ge=1, description="number of examples")
    clean_acc: Percent = Field(description="SA")
    clean_acc_interval: Interval
    autoattack_acc: Percent | None = Field(description="RA under AutoAttack, if it was run")
    robust_acc: dict[Name, Interval] = Field(description="RA per attack")
    worst_case_acc: Interval | None = Field(description="right under every attack of the threat")
    cost: EntryCost | None = None


class EntryPart(_Model):
    """One of the attacks that an attack runs in turn, each on what the last left standing."""

    name: Name
    class_: str = Field(alias="class")
    parameters: dict[str, object]

    @classmethod
    def of(cls, run: Run) -> "EntryPart":
        """Write down what was run."""
        return cls.model_validate(
            {"name": run.name, "class": run.class_, "parameters": run.parameters}
        )


class EntryAttack(_Model):
    """An attack behind the numbers, as it was run: one class of a library, or several in turn."""

    name: Name
    engine: str
    class_: str = Field(alias="class", description="empty where there are parts")
    eps: float = Field(ge=0)
    parameters: dict[str, object]
    parts: list[EntryPart] = []
    targeted: Targeted | None = Field(
        default=None, description="the class that images are to be taken for; RA: all but those"
    )
    card: str = Field(description="fingerprint of the card")

    @classmethod
    def of(cls, attack: Attack) -> "EntryAttack":
        """Write down what was run."""
        runs = [EntryPart.of(run) for run in attack.chain]
        own = runs[0].model_dump(by_alias=True)
        if attack.card.parts:
            own = {"class": "", "parameters": {}, "parts": runs}
        return cls.model_validate(
            own
            | {
                "name": attack.label,
                "engine": attack.card.engine,
                "targeted": attack.card.targeted,
                "eps": attack.threat.eps,
                "card": attack.card.fingerprint(),
            }
        )

    def chain(self) -> list[EntryPart]:
        """Return what it runs in turn; of most attacks one, itself."""
        own = {"name": self.name, "class": self.class_, "parameters": self.parameters}
        return self.parts or [EntryPart.model_validate(own)]


class EntryHole(_Model):
    """What lies between lambda = 0 and the first lambda above it, in points."""

    lam: float = Field(description="the first lambda above 0 that was evaluated")
    sa: float
    ra: float
    distance: float = Field(description="Euclidean")


class EntryFrontier(_Model):
    """What the frontier of SA and RA comes down to; see `oat_bench.statistics.frontier`."""

    attack: Name | Literal["worst"] = Field(
        description="whose RA it is, or worst: the worst case over attacks"
    )
    width: float
    pareto: list[float] = Field(description="lambda that no other beats in SA and RA")
    reference: tuple[float, float] = Field(description="SA, RA that the hypervolume begins at")
    hypervolume: Interval = Field(description="percent of the box from there to (100, 100)")
    hole: EntryHole | None

    @classmethod
    def of(cls, summary: Summary) -> "EntryFrontier":
        """Round to `DECIMALS`."""
        value, low, high = (
            round(number, DECIMALS) for number in (summary.hypervolume, summary.low, summary.high)
        )
        hole = None
        if summary.hole is not None:
            points = {
                k: round(getattr(summary.hole, k), DECIMALS) for k in ("sa", "ra", "distance")
            }
            hole = EntryHole(lam=summary.hole.lam, **points)
        return cls(
            attack=summary.attack,
            width=summary.width,
            pareto=summary.pareto,
            reference=summary.reference,
            hypervolume=Interval(value=value, low=low, high=high),
            hole=hole,
        )


class FlagPoint(_Model):
    """An operating point at which a flag was raised."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)


class EntryFlag(_Model):
    """What an evaluation doubts of its own numbers; see `oat_bench.evaluation.flags`."""

    name: str = Field(description="of the check that did not pass")
    attack: str = Field(description="that it is of; empty where it is of the network")
    text: str = Field(description="what was found, where it is worst, and what to do")
    points: list[FlagPoint] = Field(min_length=1)


class Entry(_Model):
    """One model on a leaderboard."""

    format_version: Literal[1] = 1
    name: str = Field(description="in RobustBench the title of the paper")
    authors: str = ""
    venue: str = Field(default="", description="such as: NeurIPS 2020")
    link: str = Field(default="", description="to the paper or the code")
    dataset: str
    architecture: str
    additional_data: bool = Field(default=False, description="trained on other data too")
    number_forward_passes: int = Field(default=1, ge=1, description="of one classification")
    threat_model: Norm = Field(description="norm of the perturbation")
    eps: str
    reported: str | None = Field(
        default=None, description="RA in percent that the authors report, by any attack"
    )
    footnote: str | None = None
    unreliable: bool | None = Field(
        default=None,
        description="RobustBench's flag: the accuracies are probably not robust; absent: unknown",
    )
    randomized: bool = Field(
        default=False, description="two passes of the network on the same images differ"
    )
    flags: list[EntryFlag] | None = Field(
        default=None, description="what the evaluation doubts of its numbers; absent: not checked"
    )
    integrity: Verdict | None = Field(
        default=None, description="of oat-bench integrity, in the report beside; absent: not said"
    )
    method: str
    seed: int = Field(description="of training")
    attack_seed: int | None = Field(
        default=None, description="of the attacks' draws; absent: not recorded"
    )
    data_fingerprint: str = Field(
        default="", description="of every image and label of the data set; empty: not recorded"
    )
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
    bridge: str | None = Field(
        default=None,
        description="rule between lambda 0 and the first trained one above it; absent: that of "
        "interpolation",
    )
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
    dataset: str = "",
    data_fingerprint: str = "",
    randomized: bool = False,
    flags: list[EntryFlag] | None = None,
) -> Entry:
    """Build the entry of an evaluation; of the model's data set if ``dataset`` names no other."""
    return Entry(
        name=METHODS[info.method].label(info),
        dataset=dataset or info.dataset,
        architecture=info.architecture,
        threat_model=norm,
        eps=format_eps(eps),
        method=info.method,
        seed=info.seed,
        attack_seed=attacks[0].seed if attacks else None,
        data_fingerprint=data_fingerprint,
        randomized=randomized,
        flags=flags,
        operating_points=[_point(result, info) for result in results],
        frontiers=None if frontiers is None else [EntryFrontier.of(s) for s in frontiers],
        attacks=[EntryAttack.of(attack) for attack in attacks],
        gradients=gradients,
        command=command,
        benchmark_card=info.benchmark_card,
        model_fingerprint=model_fingerprint,
        selection=info.selection,
        interpolation=info.interpolation,
        bridge=info.with_bridge().bridge,
        versions=versions(),
    )


def default_name(method: str, architecture: str) -> str:
    """Return what an entry is called that nobody has named."""
    return f"{method.upper()} {architecture}"


def versions() -> dict[str, str]:
    """Return the versions of what numbers come from."""
    libraries = ("torch", "torchattacks", "pyautoattack", "adversarial-robustness-toolbox")
    return {"oat-bench": __version__} | {name: version(name) for name in libraries}


def _point(result: PointResult, info: ModelInfo) -> EntryPoint:
    clean = Interval.of(result.clean)
    robust = {k: Interval.of(v, result.clean.n) for k, v in result.robust.items() if k != WORST}
    autoattack = robust.get("autoattack")
    worst = result.robust.get(WORST)
    return EntryPoint(
        lam=result.lam,
        width=result.width,
        trained=info.trained_at(result.lam),
        n=result.clean.n,
        clean_acc=clean.value,
        clean_acc_interval=clean,
        autoattack_acc=autoattack.value if autoattack else None,
        robust_acc=robust,
        worst_case_acc=Interval.of(worst, result.clean.n) if worst else None,
        cost=EntryCost(**asdict(result.cost)) if result.cost else None,
    )


def results(entry: Entry) -> list[PointResult]:
    """Return the accuracies of an entry as an evaluation returns them, worst case last."""

    def accuracy(interval: Interval, n: int) -> Accuracy:
        return Accuracy(interval.value, interval.low, interval.high, interval.n or n)

    return [
        PointResult(
            point.lam,
            point.width,
            accuracy(point.clean_acc_interval, point.n),
            {name: accuracy(one, point.n) for name, one in point.robust_acc.items()}
            | ({WORST: accuracy(point.worst_case_acc, point.n)} if point.worst_case_acc else {}),
            Cost(**point.cost.model_dump()) if point.cost else None,
        )
        for point in entry.operating_points
    ]


def summaries(entry: Entry) -> list[Summary]:
    """Return the summary numbers of an entry as `oat_bench.statistics.frontier` returns them."""
    return [
        Summary(
            one.attack,
            one.width,
            one.pareto,
            one.reference,
            one.hypervolume.value,
            one.hypervolume.low,
            one.hypervolume.high,
            Hole(**one.hole.model_dump()) if one.hole else None,
        )
        for one in entry.frontiers or ()
    ]


def schema() -> dict[str, Any]:
    """Return the JSON schema of an entry (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:oat-bench:entry:{SCHEMA_VERSION}",
    } | Entry.model_json_schema(by_alias=True)


def format_eps(eps: float) -> str:
    """Write eps as the field does: 8/255, but 0.2."""
    levels = eps * 255
    whole = levels >= 1 and abs(levels - round(levels)) < 1e-9
    return f"{levels:.0f}/255" if whole and float(f"{eps:g}") != eps else f"{eps:g}"
