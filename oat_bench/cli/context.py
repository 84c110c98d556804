"""What commands that look at a model are told of it, and what they load of it.

A command asks in the order in which mistakes are to be reported; nothing is loaded twice.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from oat_bench.cli.group import command_line, show
from oat_bench.errors import UserError
from oat_bench.launch import launch
from oat_bench.run_folder import STORE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from oat_bench.attacks.engines import Attack
    from oat_bench.classifier import OperatingPoint, TunableClassifier
    from oat_bench.datasets import Dataset
    from oat_bench.evaluation.sharing import Executor
    from oat_bench.evaluation.subject import Subject
    from oat_bench.planning import Plan
    from oat_bench.reports.table import Page
    from oat_bench.results.outcomes import OutcomeStore
    from oat_bench.training.ranks import Ranks
    from oat_bench.written import Written


@dataclass(frozen=True)
class Planned:
    """That a command is to say what it would take, and on what."""

    command: str
    workers: int = 1
    tflops: float | None = None  # that each worker reaches; None: as much as this machine

    def show(self, plan: "Plan") -> NoReturn:
        """Print the plan, and end the command."""
        from oat_bench import planning

        show(planning.page(plan, self.command, self.workers, self.tflops))
        click.get_current_context().exit()


@dataclass
class Context:
    """A model, its data, where to compute, and the folder for results.

    Whatever does not exist or does not fit is a UserError.
    """

    model: str | None  # see `oat_bench.load`; None: to be trained
    dataset: str | None = None  # a name, or a folder of images; None: the model's
    data_dir: Path = Path("data")
    skip_broken: bool = False
    image_size: int | None = None  # of a folder's images; None: as for the training
    device: str = "auto"
    out: Path | None = None  # None: `default_out`
    planned: Planned | None = None  # set: nothing is computed, and data need not be there
    store: str | None = None  # None: in the folder for results
    shard: tuple[int, int] | None = None
    ray: str | None = None  # an address; of a cluster started here if empty
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    loaded: "dict[tuple[object, ...], Dataset]" = field(default_factory=dict)  # by what was asked
    load_again: "Callable[[], Dataset] | None" = None  # what was loaded last, by absolute paths

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
    def ranks(self) -> "Ranks":
        """The processes that train together, which meet here."""
        from oat_bench.training import ranks

        return ranks.join(self.where)

    @cached_property
    def trained(self) -> "TunableClassifier":
        """The model, loaded."""
        from oat_bench import zoo

        where = self.where  # a device that is not there is said before anything is loaded
        named = self.dataset
        images = None if named is None else partial(self.load, named, self.image_size)
        return zoo.load(self.name, where, dataset=images)

    @property
    def checkpoint(self) -> "TunableClassifier":
        """The model, unless it is an exported file, which is of a checkpoint."""
        from oat_bench.deployment import Exported

        if isinstance(self.trained, Exported):
            raise UserError(f"{self.model} is an exported file; expected a checkpoint or a run")
        return self.trained

    @property
    def dataset_name(self) -> str:
        """The data set of the model, or the folder named for it, which one of a folder needs."""
        from oat_bench import datasets

        name = self.trained.info.dataset
        # a checkpoint must not choose what is read here
        if self.dataset is None and name not in datasets.DATASETS:
            raise UserError(f"{self.name} is of data set {name!r}; name its folder with --dataset")
        return self.dataset or name

    @cached_property
    def data(self) -> "Dataset":
        """The data set of the model, or what was named for it."""
        return self.fitting(self.dataset_name, self.image_size)

    def load(self, name: str, image_size: int | None, label: str | None = None) -> "Dataset":
        """Load a data set, once; or a folder, which results call ``label``."""
        from oat_bench import datasets
        from oat_bench.datasets.sizes import stand_in

        options: dict[str, Any] = {"skip_broken": self.skip_broken, "image_size": image_size}
        asked = (name, self.data_dir, label, *options.values())
        path = Path(name).absolute() if datasets.is_folder(name) else name
        again = partial(datasets.load, str(path), self.data_dir.absolute(), label=label)
        self.load_again = partial(again, **options)
        if self.planned is not None and not datasets.is_folder(name):
            datasets.check_known(name)
            self.loaded[asked] = stand_in(name, self.data_dir)
        if asked not in self.loaded:
            load = partial(datasets.load, name, self.data_dir, label=label, **options)
            self.loaded[asked] = self.ranks.in_turn(load) if launch().size > 1 else load()
        return self.loaded[asked]

    def fitting(self, name: str, image_size: int | None) -> "Dataset":
        """Load a data set or a folder, and check that it fits the model."""
        from oat_bench import classifier
        from oat_bench.progress import note

        info, model = self.trained.info, self.name
        data = self.load(name, classifier.image_size(info, name, image_size))
        if self.planned is not None:
            return data
        fitting = classifier.check_fits(info, data)
        own = classifier.trained_on(info, data)
        if own is False:
            note(
                f"{name}: not the images, or not the splits, that {model} was trained on; it "
                "may have been trained on some of these test images"
            )
        elif foreign := classifier.foreign_ancestors(info, data):
            note(
                f"{name}: {model} started from {' and '.join(map(str, foreign))}, which may have "
                "been trained on some of these test images"
            )
        elif own is None and fitting is not data:
            note(f"{name}: taken for {fitting.name}; {model} does not say which images those are")
        return fitting

    def lambdas(self, asked: list[float] | None, option: str = "--lambda") -> list[float]:
        """Return the lambda values asked for, or those of training; of a file of one that one."""
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

    def subject(self, examples: "torch.Tensor", **options: Any) -> "Subject":
        """Return the model and some test images on the device, to be attacked."""
        from oat_bench.evaluation.subject import Subject

        data, images = self.data, self.data.test.to(self.where)
        return Subject(self.trained, images, data.fingerprint(), examples, **options)

    def outcomes(self, folder: Path) -> "OutcomeStore":
        """Return the outcomes that --store names, or a folder of results holds."""
        from oat_bench.files import make_folder
        from oat_bench.results.outcomes import OutcomeStore
        from oat_bench.results.places import Place

        if self.store is not None:
            return OutcomeStore(Place(self.store).checked().address)
        return OutcomeStore(make_folder(folder / STORE))

    def executor(self) -> "Executor | None":
        """Return who computes, if not this process alone; a cluster is left with the command."""
        workers = self.cpus_per_worker, self.gpus_per_worker
        if self.ray is None and workers != (None, None):
            raise UserError("--cpus-per-worker and --gpus-per-worker are for --ray")
        if self.shard is not None:
            if self.ray is not None:
                raise UserError("--shard and --ray each share the work out; give one of them")
            from oat_bench.evaluation.sharing import Shard

            return Shard(*self.shard, command_line())
        if self.ray is None:
            return None
        from oat_bench.evaluation.on_ray import Cluster

        assert self.load_again is not None
        gpus = float(self.device != "cpu" and self.where.type == "cuda")
        gpus = gpus if self.gpus_per_worker is None else self.gpus_per_worker
        cluster = Cluster(self.ray or None, self.load_again, cpus=workers[0] or 1, gpus=gpus)
        click.get_current_context().call_on_close(cluster.close)
        return cluster

    def provenance(self) -> dict[str, str]:
        """Return what a report says of the model, its data and the command."""
        return {
            "model_fingerprint": self.trained.fingerprint(),
            "data_fingerprint": self.data.fingerprint(),
            "command": command_line(),
        }

    def default_out(self, name: str | None = None) -> Path:
        """Return the run's folder, or runs/NAME-FINGERPRINT; the name is the data set's if None."""
        from oat_bench.cards import publishable

        if Path(self.name).is_dir():
            return Path(self.name)
        name = name or publishable(self.trained.info.dataset)
        return Path("runs") / f"{name}-{self.trained.fingerprint()[:8]}"

    def folder(self, name: str | None = None) -> Path:
        """Make the folder for results."""
        from oat_bench.files import make_folder

        return make_folder(self.out or self.default_out(name))

    def plan(
        self, subject: "Subject", runs: "Iterable[tuple[OperatingPoint, Attack, int]]"
    ) -> NoReturn:
        """Say what attacks on so many images each would take, and end the command."""
        from oat_bench import planning
        from oat_bench.evaluation import stages

        assert self.planned is not None
        plan = planning.Plan(self.where)
        planning.add_attacks(plan, subject, stages.apart(subject, runs))
        self.planned.show(plan)


def hand_in(place: Path, report: "Written", page: "Page", what: str, **texts: str) -> None:
    """Write ``place.json``, ``place.md`` and further texts by their endings; show the page.

    That the report of another command is replaced is said.
    """
    from oat_bench.files import atomic_write
    from oat_bench.progress import note

    path = place.with_name(f"{place.name}.json")
    with suppress(UserError):  # there is none, or none that can be read
        before = getattr(type(report).read(path), "command", "")
        if before != getattr(report, "command", ""):
            note(f"{path}: replaced; the earlier one was of {before}")
    for ending, text in {"json": report.as_json(), "md": page.markdown(), **texts}.items():
        atomic_write(place.with_name(f"{place.name}.{ending}"), text)
    show(page, f"{what} in {place.parent}")
