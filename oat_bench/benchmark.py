"""Benchmark cards: data set, network, method, recipe, threat model and evaluation."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from oat_bench import cards
from oat_bench.cards import Card, ImageSize, Lambdas, Name, Threat, Widths, first
from oat_bench.complaints import explain
from oat_bench.errors import UserError
from oat_bench.networks.card import NetworkCard
from oat_bench.registry import METHODS
from oat_bench.training.card import TrainingCard


class EvaluationCard(Card):
    """What is measured: lambda against attacks, on the first n of the test set's nested order."""

    first_keys = first("lambdas attacks n_examples batch_size gradients")

    lambdas: Lambdas = Field(default=[0, 0.1, 0.2, 0.3, 0.4, 1])
    widths: Widths | None = Field(default=None, description="absent: every width of the network")
    attacks: Annotated[str, Field(min_length=1)] = "all"
    n_examples: Annotated[int, Field(ge=1)] | None = None
    fewer_examples: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})  #: of slow attacks
    batch_size: Annotated[int, Field(ge=1)] | None = None  # what fills the device
    gradients: Literal["float32", "bf16"] = "float32"
    compile: bool | None = Field(default=None, description="absent: where it pays")


class BenchmarkCard(Card):
    """A benchmark; reading one does not import its method, `checked` does."""

    kind = "benchmark"
    first_keys = first(
        "name version description source dataset method network threat training evaluation"
    )

    name: Name
    version: int = 1
    description: str = ""
    source: str = ""
    dataset: str
    image_size: ImageSize | None = None  #: a folder's: of the shorter side; the centre is kept
    method: Annotated[str, AfterValidator(METHODS.known)] = "oat"
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own")
    network: NetworkCard
    threat: Threat = Threat()
    training: TrainingCard
    evaluation: EvaluationCard = EvaluationCard()

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

    def with_method(self, method: str) -> "BenchmarkCard":
        """Return the card with another method; its name then ends in the method's."""
        if method == self.method:
            return self
        return self._changed(method=method, options={}, name=f"{self.name}-{method}")

    def _changed(self, **changes: Any) -> Self:
        try:
            return type(self).model_validate(self.model_dump() | changes).checked()
        except ValidationError as error:
            raise UserError(f"benchmark {self.name!r}: {explain(error, type(self))}") from error

    def with_widths(self, widths: list[float]) -> Self:
        """Return the card with a network of other widths, all evaluated; they end its name."""
        if widths == (METHODS[self.method].network_card(self.network) or self.network).widths:
            return self
        name = f"{self.name}-widths-" + "-".join(f"{width:g}" for width in widths)
        network = self.network.model_dump() | {"widths": widths}
        evaluation = self.evaluation.model_dump() | {"widths": None}
        return self._changed(name=name, network=network, evaluation=evaluation)


def benchmark_card(name_or_path: str) -> BenchmarkCard:
    """Read a benchmark card by name or by path."""
    return cards.find(name_or_path, BenchmarkCard)


def card_for(dataset: str) -> BenchmarkCard:
    """Return the card of a data set; where it has none, that of a folder of images."""
    if dataset in cards.names("benchmarks"):
        return benchmark_card(dataset)
    return benchmark_card("image-folder").for_folder(dataset, named=False)
