"""What commands that look at a model are told of it, and what they load of it.

A command asks in the order in which mistakes are to be reported; nothing is loaded twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oat_bench.errors import UserError

if TYPE_CHECKING:
    import torch

    from oat_bench.classifier import OperatingPoint, TunableClassifier
    from oat_bench.datasets import Dataset
    from oat_bench.results.outcomes import OutcomeStore
    from oat_bench.written import Written


def load_model(
    model: str, device: "torch.device | str", data: "Callable[[], Dataset] | None" = None
) -> "TunableClassifier":
    """Return the classifier that a command's argument names; every command asks here.

    Args:
        model: a checkpoint, a run's folder, an exported file, or a function in a Python file, such
            as ``./mine.py:build``.
        device: where it goes.
        data: loads what a model that does not say so itself classifies.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    from oat_bench import checkpoint, deployment, wrapping

    if wrapping.is_source(model):
        if data is None:
            raise UserError(f"{model}: expected a checkpoint, which says what it classifies")
        return wrapping.from_source(model, data()).to(device)
    if deployment.is_exported(model):
        return deployment.load(model).to(device)
    return checkpoint.load(model, device)


def data_of(trained: "TunableClassifier", model: str, dataset: str | None) -> str:
    """Return the data set of a model, or the folder that was named for it.

    Raises:
        UserError: if it is a folder of images, and none was named.
    """
    from oat_bench import datasets

    name = trained.info.dataset
    # a checkpoint must not choose what is read here
    if dataset is None and name not in datasets.DATASETS:
        raise UserError(f"{model} is of data set {name!r}; name its folder with --dataset")
    return dataset or name


@dataclass
class Context:
    """A model, its data, where to compute, and the folder for results.

    Whatever does not exist or does not fit is a UserError.

    Attributes:
        model: as `load_model` takes it; None for a command that trains one.
        dataset: a data set or a folder of images; the model's if None.
        data_dir: where data sets are looked for.
        skip_broken: leave out images of a folder that cannot be read or do not fit.
        image_size: to which a folder's images are resized; as for the training if None.
        device: auto, cpu or cuda.
        out: folder for results; `default_out` if None.
    """

    model: str | None
    dataset: str | None = None
    data_dir: Path = Path("data")
    skip_broken: bool = False
    image_size: int | None = None
    device: str = "auto"
    out: Path | None = None

    @property
    def name(self) -> str:
        """The model, as it was named."""
        assert self.model is not None
        return self.model

    @cached_property
    def where(self) -> "torch.device":
        """The device."""
        from oat_bench import run
        from oat_bench.acceleration import keep_freed_memory

        keep_freed_memory()
        return run.choose_device(self.device)

    @cached_property
    def trained(self) -> "TunableClassifier":
        """The model, loaded."""
        return load_model(self.name, self.where, lambda: self.named_data)

    @cached_property
    def named_data(self) -> "Dataset":
        """The data set that was named, for a model that does not say what it classifies."""
        if self.dataset is None:
            raise UserError(f"{self.name}: name what it classifies with --dataset")
        return self.load(self.dataset, self.image_size)

    @property
    def checkpoint(self) -> "TunableClassifier":
        """The model, unless it is an exported file, which is of a checkpoint."""
        from oat_bench.deployment import Exported

        if isinstance(self.trained, Exported):
            raise UserError(f"{self.model} is an exported file; expected a checkpoint or a run")
        return self.trained

    @property
    def dataset_name(self) -> str:
        """The data set of the model, or the folder that was named for it."""
        return data_of(self.trained, self.name, self.dataset)

    @cached_property
    def data(self) -> "Dataset":
        """The data set of the model, or what was named for it."""
        return self.fitting(self.dataset_name, self.image_size)

    def load(self, name: str, image_size: int | None, label: str | None = None) -> "Dataset":
        """Load a data set; or a folder, which results call ``label``."""
        from oat_bench import datasets

        options: dict[str, Any] = {"skip_broken": self.skip_broken, "image_size": image_size}
        return datasets.load(name, self.data_dir, label=label, **options)

    def fitting(self, name: str, image_size: int | None) -> "Dataset":
        """Load a data set or a folder, and check that it fits the model."""
        from oat_bench import classifier
        from oat_bench.progress import note

        info, model = self.trained.info, self.name
        if "named_data" in vars(self):
            return self.named_data
        data = self.load(name, classifier.image_size(info, name, image_size))
        fitting = classifier.check_fits(info, data)
        own = classifier.trained_on(info, data)
        if own is False:
            note(
                f"{name}: not the images, or not the splits, that {model} was trained on; it "
                "may have been trained on some of these test images"
            )
        elif own is None and fitting is not data:
            note(f"{name}: taken for {fitting.name}; {model} does not say which images those are")
        return fitting

    def lambdas(self, asked: list[float] | None, option: str = "--lambda") -> list[float]:
        """Return the lambda values that an option asks for, or those of training.

        Of a file of one lambda it is that one.
        """
        from oat_bench.classifier import check_lambdas
        from oat_bench.deployment import Exported

        info = self.trained.info
        if isinstance(self.trained, Exported):
            asked = self.trained.choose_lambdas(asked)
        check_lambdas(info.method, info.trained_lambdas, asked or (), option)
        return asked or info.trained_lambdas

    def widths(self, asked: list[float] | None) -> list[float]:
        """Return the widths asked for, or all, the widest first."""
        from oat_bench.classifier import check_widths

        check_widths(self.trained.info.widths, asked or ())
        return asked or self.trained.info.widths

    def points(
        self, lambdas: list[float] | None, widths: list[float] | None
    ) -> "list[OperatingPoint]":
        """Return the operating points of `lambdas` and `widths`, by width and lambda."""
        from oat_bench.classifier import OperatingPoint

        chosen = self.lambdas(lambdas)
        return [OperatingPoint(lam, width) for width in self.widths(widths) for lam in chosen]

    def examples(self, asked: int | None, default: int) -> "torch.Tensor":
        """Return the ids of as many test images as asked for; else ``default``, or all."""
        from oat_bench import datasets

        available = len(self.data.test)
        n = asked or min(default, available)
        if n > available:
            raise UserError(f"{n} examples asked for; the test set has {available}")
        return datasets.nested_order(self.data.test.labels)[:n]

    def default_out(self, name: str | None = None) -> Path:
        """Return the run's folder, if the model is one, else a folder of its own under runs/.

        That begins with ``name``, or with the data set's.
        """
        from oat_bench.cards import publishable

        if Path(self.name).is_dir():
            return Path(self.name)
        name = name or publishable(self.trained.info.dataset)
        return Path("runs") / f"{name}-{self.trained.fingerprint()[:8]}"

    def folder(self, name: str | None = None) -> Path:
        """Make the folder for results."""
        from oat_bench.files import make_folder

        return make_folder(self.out or self.default_out(name))


def store_in(folder: Path) -> "OutcomeStore":
    """Return the outcomes that a folder of results holds."""
    from oat_bench.files import make_folder
    from oat_bench.results.outcomes import OutcomeStore

    return OutcomeStore(make_folder(folder / "outcomes"))


def write_report(place: Path, report: "Written", **texts: str) -> None:
    """Write ``place.json``, and each text beside it under its ending."""
    from oat_bench.files import atomic_write

    for ending, text in {"json": report.as_json(), **texts}.items():
        atomic_write(place.with_name(f"{place.name}.{ending}"), text)
