"""Benchmark cards: data set, network, method, recipe, threat model and evaluation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema

from oat_bench import cards
from oat_bench.card_text import literal, number
from oat_bench.cards import Card, ImageSize, Lambdas, Name, Threat, Widths, first
from oat_bench.complaints import explain
from oat_bench.errors import UserError
from oat_bench.files import sha256
from oat_bench.networks.card import NetworkCard
from oat_bench.progress import note
from oat_bench.registry import METHODS
from oat_bench.training.card import TrainingCard

if TYPE_CHECKING:
    from oat_bench.classifier import TunableClassifier

#: keys that make neither another model nor another threat
_DESCRIBES = ("version", "description", "source")


class EvaluationCard(Card):
    """What is measured: lambda against attacks, on the first n of the test set's nested order."""

    first_keys = first("lambdas attacks n_examples batch_size gradients")

    lambdas: Lambdas = Field(
        default=[0, 0.1, 0.2, 0.3, 0.4, 1], description="Lambda values to attack at"
    )
    widths: Widths | None = Field(
        default=None, description="Shares of the channels; absent: every width of the network"
    )
    attacks: Annotated[str, Field(min_length=1)] = Field(
        default="all", description="Attack cards, as for --attacks"
    )
    n_examples: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Test images, stratified; absent: all"
    )
    fewer_examples: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={},
        description="Survivors of the other attacks, at each lambda, that attacks which take long "
        "run on, by their names",
    )
    precision: Annotated[float, Field(gt=0, lt=50)] | None = Field(
        default=None,
        description="In their place, for attacks in [[parts]]: half-width of the 95% interval of "
        "RA, in points",
    )
    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Images attacked at a time; absent: what fills the device"
    )
    gradients: Literal["float32", "bf16"] = Field(
        default="float32", description="Precision that attacks differentiate in"
    )
    compile: bool | None = Field(
        default=None, description="Whether torch.compile is used; absent: where it pays"
    )


class BenchmarkCard(Card):
    """A benchmark; reading one does not import its method, `checked` does."""

    kind = "benchmark"
    first_keys = first(
        "name version description source dataset method network threat training evaluation"
    )

    name: Name = Field(description="Name of the card, and of the folders of its runs")
    version: int = Field(default=1, description="Raised when a card changes under its name")
    description: str = Field(default="", description="What it is, in a line")
    source: str = Field(default="", description="Where its numbers are from")
    dataset: str = Field(description="Data set, by name, or a folder of images")
    image_size: ImageSize | None = Field(
        default=None,
        description="Of a folder's images: what the shorter side is resized to; the centre is kept",
    )
    method: Annotated[str, AfterValidator(METHODS.known)] = Field(
        default="oat",
        description="Method that makes the classifier; or a table of its name and its own keys",
        json_schema_extra={"additionalProperties": True},
    )
    options: SkipJsonSchema[dict[str, Any]] = Field(default_factory=dict)  #: the method's own
    network: NetworkCard = Field(description="The network, and how it is conditioned on lambda")
    threat: Threat = Field(
        default=Threat(), description="What the adversary may do, in training and in evaluation"
    )
    training: TrainingCard = Field(description="The recipe")
    evaluation: EvaluationCard = Field(default=EvaluationCard(), description="What is measured")

    def for_folder(self, folder: str, *, named: bool, label: str | None = None) -> "BenchmarkCard":
        """Return the card for a folder, called by ``label`` or its name, and ours if ``named``."""
        name = cards.publishable(label or Path(folder).resolve().name)[:32]
        name = f"{name}-{self.name}"[:64] if named else name
        return self.model_copy(update={"dataset": folder, "name": name})

    def for_images(self, height: int, width: int) -> Self:
        """Return the card with the stem that ``-auto`` is for images of so many pixels."""
        return self.model_copy(update={"network": self.network.for_images(height, width)})

    @model_validator(mode="before")
    @classmethod
    def _method_is_a_name_or_a_table(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("method"), dict):
            options = dict(values["method"])
            return values | {"method": options.pop("name", "oat"), "options": options}
        return values

    def checked(self) -> Self:
        """Ask the method whether the card goes with it, and return the card."""
        from oat_bench.methods.trainable import TrainableClassifier

        kind: type[TrainableClassifier] = METHODS[self.method]
        if not issubclass(kind, TrainableClassifier):
            raise UserError(
                f"benchmark {self.name!r}: method {self.method!r} is of models that there are "
                "already; evaluate one with --model"
            )
        where = f"benchmark {self.name!r} by method {self.method!r}"
        network = self.network
        if len(network.widths) > 1 and not kind.slims:
            slimming = " or ".join(repr(name) for name in METHODS if METHODS[name].slims)
            raise UserError(
                f"{where}: network.widths has several widths; expected one, or method {slimming}"
            )
        try:
            kind.Options.model_validate(self.options)
            kind.check_card(network, self.training)
        except ValidationError as error:
            raise UserError(f"{where}: [method] {explain(error, kind.Options)}") from error
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        return self

    def stated(self) -> dict[str, Any]:
        """Return the values as a file has them, the method's own in a table with its name."""
        values = super().stated()
        options = values.pop("options", {})
        return values | {"method": {"name": self.method, **options} if options else self.method}

    def with_method(self, method: str) -> Self:
        """Return the card with another method; its name then ends in the method's."""
        return self if method == self.method else self.with_changes({"method": method}).checked()

    def starting_from(self, model: "TunableClassifier", method: str | None = None) -> Self:
        """Return the card of a training that starts from a model's weights.

        Network, method (if None) and its options are the model's; so are the lambda values, but for
        a method that has networks of its own for each.
        """
        from oat_bench.methods.trainable import TrainableClassifier

        info = model.info
        if not (isinstance(model, TrainableClassifier) and model.members()):
            raise UserError(
                f"--from: a model of method {info.method!r} is not trained by oat-bench, so no "
                "training can start from it; expected a checkpoint that `oat-bench train` wrote"
            )
        method, options = method or info.method, {}
        if method == info.method:
            options = info.options | (self.options if self.method == method else {})
        values: dict[str, Any] = {"method": {"name": method, **options} if options else method}
        if info.network is not None:
            values["network"] = info.network.model_dump()
        if METHODS[method].continuous:
            values["training.lambdas"] = info.trained_lambdas
        try:
            card = cards.changed(self, values).checked()
        except UserError as error:
            raise UserError(f"--from, a model of method {info.method!r}: {error}") from error
        ours, theirs = (one.training.lambdas for one in (card, self))
        if ours != theirs:
            told = (", ".join(f"{lam:g}" for lam in lambdas) for lambdas in (ours, theirs))
            note("lambda values stay {}, the weights know no others; not {}".format(*told))
        return card

    def with_widths(self, widths: list[float]) -> Self:
        """Return the card with a network of other widths, all evaluated; they end its name."""
        if widths == (METHODS[self.method].network_card(self.network) or self.network).widths:
            return self
        return self.with_changes({"network.widths": widths, "evaluation.widths": None}).checked()

    def with_changes(self, changes: Mapping[str, object]) -> Self:
        """Return the card with other values by dotted key, as `cards.settings` reads them.

        The name then ends in all of them that are not of the evaluation. With another eps the step
        size keeps its share of it, unless it is given.
        """
        if not changes:
            return self
        try:
            values = cards.settings(type(self), changes)
            card = cards.changed(self, values)
            card = card.model_copy(update={"threat": self._threat(card.threat, values)})
        except UserError as error:
            raise UserError(f"benchmark {self.name!r}: {error}") from error
        training = card.training
        for key in ("lr_warmup_epochs", "eps_warmup_epochs"):
            given = getattr(training, key)
            if "training.epochs" in values and given > training.epochs:
                raise UserError(
                    f"training.{key} of benchmark {self.name!r} is {given:g}, more than the "
                    f"{training.epochs} epochs asked for; lower it too, by --set training.{key}=..."
                )
        name = card.name if "name" in values else self._name(card, values)
        return card.model_copy(update={"name": name})

    def _threat(self, threat: Threat, values: Mapping[str, Any]) -> Threat:
        before = self.threat
        if threat.norm != before.norm and "threat.eps" not in values:
            raise UserError(
                f"eps {number(before.eps)} is for {before.norm}; give one for {threat.norm} too, "
                "such as --eps 0.5"
            )
        if "threat.eps" not in values:
            return threat
        if threat.norm == "Linf" and threat.eps > 1:
            raise UserError(
                f"eps {threat.eps:g} is more than images in [0, 1] can change; did you mean "
                f"--eps {threat.eps:g}/255?"
            )
        if "threat.step_size" in values or not before.eps:
            return threat
        step = threat.eps * (before.step_size / before.eps)
        return threat.model_copy(update={"step_size": step})

    def _name(self, card: Self, values: Mapping[str, Any]) -> str:
        """Return the name with what makes another model, or another threat, of the card."""
        before, after, words = self.stated(), card.stated(), []
        for key in sorted(values):
            now = _at(after, key)
            if key in _DESCRIBES or key.startswith("evaluation.") or now == _at(before, key):
                continue
            text = "" if now is None else literal(now)
            words.append(text if key == "method" else f"{key.rpartition('.')[2]}-{text}")
        ending = re.sub(r"[^A-Za-z0-9._+]+", "-", "-".join(["", *words])).rstrip("-")
        if len(self.name + ending) > 64:
            return f"{self.name[:55]}-{sha256(ending)[:8]}"
        return self.name + ending


def _at(stated: Any, key: str) -> Any:
    for part in key.split("."):
        stated = stated.get(part) if isinstance(stated, dict) else None
    return stated


def benchmark_card(name_or_path: str) -> BenchmarkCard:
    """Read a benchmark card by name or by path."""
    return cards.find(name_or_path, BenchmarkCard)


def card_for(dataset: str) -> BenchmarkCard:
    """Return the card of a data set; where it has none, that of a folder of images."""
    if dataset in cards.names("benchmarks"):
        return benchmark_card(dataset)
    return benchmark_card("image-folder").for_folder(dataset, named=False)
