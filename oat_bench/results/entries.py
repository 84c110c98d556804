"""Entries: one reviewable JSON file for each evaluated model; see ``docs/entry.schema.json``.

Names and meaning are those of RobustBench's ``model_info`` (accuracies are percentages), with
lambda, width, intervals and provenance on top. A key that came later has a default, which means
what was done before there was the key; so ``format_version`` stays while entries grow.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar, Literal

from pydantic import Field

from oat_bench import __version__
from oat_bench.acceleration import Precision
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import Attack
from oat_bench.cards import Name, Norm, Targeted, format_eps, names
from oat_bench.classifier import Ancestor, ModelInfo
from oat_bench.registry import METHODS
from oat_bench.results.checks import Verdict
from oat_bench.results.points import PointResult
from oat_bench.statistics.frontier import Summary
from oat_bench.statistics.phases import Design
from oat_bench.written import Written

SCHEMA_VERSION = "1.8"  # the format, and how often keys were added to it


class EntryPart(Written):
    """One of the attacks that an attack runs in turn, each on what the last left standing."""

    name: Name
    class_: str = Field(alias="class")
    parameters: dict[str, object]


class EntryAttack(Written):
    """An attack behind the numbers, as it was run: one class of a library, or several in turn."""

    name: Name
    engine: str
    class_: str = Field(alias="class", description="empty where there are parts")
    eps: float = Field(ge=0)
    parameters: dict[str, object]
    parts: list[EntryPart] = Field(default=[])
    targeted: Targeted | None = Field(
        default=None, description="the class that images are to be taken for; RA: all but those"
    )
    card: str = Field(description="fingerprint of the card")
    after: list[Name] | None = Field(
        default=None,
        description="attacks whose survivors it was run on, a random sample of them at each "
        "operating point; absent: the first n examples",
    )

    @classmethod
    def of(cls, attack: Attack, after: Sequence[str] | None = None) -> "EntryAttack":
        """Write down what was run; ``after`` is its first phase, if it has one."""
        runs: list[dict[str, object]] = [
            {"name": run.name, "class": run.class_, "parameters": run.parameters}
            for run in attack.chain
        ]
        card = attack.card
        whole: dict[str, object] = {"class": "", "parameters": {}, "parts": runs}
        own = whole if card.parts else runs[0]
        own |= {"name": attack.label, "engine": attack.engine, "targeted": card.targeted}
        own |= {"eps": attack.threat.eps, "card": card.fingerprint(), "after": after}
        return cls.model_validate(own)

    def within(self, eps: float) -> bool:
        """Whether it counts for the worst case: no ball larger than that of eps, and no target."""
        return self.eps <= eps * (1 + 1e-5) and self.targeted is None

    def shipped(self) -> AttackCard | None:
        """Return the card that ships, where it has not changed since."""
        card = attack_card(self.name) if self.name in names("attacks") else None
        return card if card is not None and card.fingerprint() == self.card else None

    def chain(self) -> list[EntryPart]:
        """Return what it runs in turn; of most attacks one, itself."""
        own = {"name": self.name, "class": self.class_, "parameters": self.parameters}
        return self.parts or [EntryPart.model_validate(own)]


class FlagPoint(Written):
    """An operating point at which a flag was raised."""

    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)


class EntryFlag(Written):
    """What an evaluation doubts of its own numbers; see `oat_bench.evaluation.flags`."""

    name: str = Field(description="of the check that did not pass")
    attack: str = Field(description="that it is of; empty where it is of the network")
    text: str = Field(description="what was found, where it is worst, and what to do")
    points: list[FlagPoint] = Field(min_length=1)


class Entry(Written):
    """One model on a leaderboard."""

    what: ClassVar[str] = "an entry of oat-bench"
    max_bytes: ClassVar[int] = 1 << 22

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
        default=False,
        description="answers are drawn: two passes of the network on the same images differ",
    )
    flags: list[EntryFlag] | None = Field(
        default=None, description="what the evaluation doubts of its numbers; absent: not checked"
    )
    integrity: Verdict | None = Field(
        default=None, description="of oat-bench integrity, in the report beside; absent: not said"
    )
    method: str
    seed: int = Field(description="of training")
    attack_seed: int | None = Field(None, description="of the attacks' draws; absent: not recorded")
    data_fingerprint: str = Field(
        default="", description="of every image and label of the data set; empty: not recorded"
    )
    operating_points: list[PointResult]
    frontiers: list[Summary] | None = Field(
        default=None, description="summary numbers, by width and attack"
    )
    attacks: list[EntryAttack]
    predictions: Literal["float32"] = "float32"
    gradients: Precision = Field(description="precision of what the attacks differentiated")
    command: str = Field(description="what made these numbers")
    benchmark_card: str = Field(description="fingerprint of the card the model was trained by")
    model_fingerprint: str
    selection: str
    ancestors: list[Ancestor] = Field(
        default=[], description="whose weights training started from, the nearest first"
    )
    interpolation: str = Field(description="how a lambda between trained ones is encoded")
    bridge: str | None = Field(
        default=None,
        description="rule between lambda 0 and the first trained one above it; absent: that of "
        "interpolation",
    )
    versions: dict[str, str]

    @property
    def widths(self) -> list[float]:
        """Shares of the channels that were evaluated, the widest first."""
        return sorted({point.width for point in self.operating_points}, reverse=True)

    @property
    def ancestry(self) -> str:
        """What training started from, in words; empty if from fresh weights."""
        if not self.ancestors:
            return ""
        before = ", which started from ".join(map(str, self.ancestors))
        seen = "; some of these test images may have been among its training images"
        seen *= self.additional_data
        return f"started from the weights of {before}{seen}"


def make_entry(
    info: ModelInfo,
    results: list[PointResult],
    run: list[Attack],
    *,
    eps: float,
    norm: Norm,
    design: Design | None = None,
    **fields: Any,
) -> Entry:
    """Build the entry of an evaluation; ``fields`` are those that the model does not tell."""
    after = {} if design is None else design.after
    known: dict[str, Any] = {
        "name": METHODS[info.method].label(info),
        "dataset": info.dataset,
        "attack_seed": run[0].seed if run else None,
        "attacks": [EntryAttack.of(attack, after.get(attack.label)) for attack in run],
        "gradients": "float32",
        "bridge": info.with_bridge().bridge,
        "versions": versions(),
    }
    same = ["architecture", "method", "seed", "benchmark_card", "selection", "interpolation"]
    known |= {key: getattr(info, key) for key in [*same, "ancestors"]} | fields
    return Entry(threat_model=norm, eps=format_eps(eps), operating_points=results, **known)


def default_name(method: str, architecture: str) -> str:
    """Return what an entry is called that nobody has named."""
    return f"{method.upper()} {architecture}"


def versions() -> dict[str, str]:
    """Return the versions of what numbers come from."""
    libraries = ("torch", "torchattacks", "pyautoattack", "adversarial-robustness-toolbox")
    return {"oat-bench": __version__} | {name: version(name) for name in libraries}


def schema() -> dict[str, Any]:
    """Return the JSON schema of an entry (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:oat-bench:entry:{SCHEMA_VERSION}",
    } | Entry.model_json_schema(by_alias=True)


def threat_of(entry: Entry) -> str:
    """Return data set and threat model, as titles have them."""
    return f"{entry.dataset}, {entry.threat_model} eps {entry.eps}"
