"""`run`, `evaluate` and `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli.context import data_of, load_data, load_model
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    ATTACKS,
    BATCH_SIZE,
    BENCHMARK,
    DATA_DIR,
    DATASET,
    DATASET_NAME,
    DEFAULT_BENCHMARK,
    DEVICE,
    GRADIENTS,
    IMAGE_SIZE,
    INTERPOLATION,
    LAMBDAS,
    METHOD,
    MODEL,
    N_EXAMPLES,
    OUT,
    SAVE_IMAGES,
    SEED,
    SKIP_BROKEN,
    WIDTHS,
    example,
)
from oat_bench.cli.printing import command_line, plain_console, print_whole
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.benchmark import BenchmarkCard
    from oat_bench.networks.card import Interpolation
    from oat_bench.result import Result


@cli.command(epilog=example("oat-bench run --dataset digits --attacks pgd-20 --lambda 0,0.5,1"))
@DATASET
@BENCHMARK
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@DATASET_NAME
@METHOD
@ATTACKS
@LAMBDAS
@WIDTHS
@MODEL
@N_EXAMPLES
@BATCH_SIZE
@GRADIENTS
@SAVE_IMAGES
@SEED
@DEVICE
@OUT
def run(**options: Any) -> None:
    """Train if there is no checkpoint, attack at every lambda, print the table.

    What a run finished is kept: the same command goes on from there.
    """
    _evaluate(**options)


@cli.command(
    epilog=example("oat-bench evaluate --model runs/fashion-12x12-seed0 --lambda 0,0.15,0.5")
)
@click.argument("named", metavar="MODEL", required=False)
@click.option(
    "--model", metavar="MODEL", help="A checkpoint, a run's folder or an exported file, likewise."
)
@DATASET
@BENCHMARK
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@ATTACKS
@LAMBDAS
@INTERPOLATION
@WIDTHS
@N_EXAMPLES
@BATCH_SIZE
@GRADIENTS
@SAVE_IMAGES
@SEED
@DEVICE
@OUT
def evaluate(named: str | None, model: str | None, **options: Any) -> None:
    """Attack a trained checkpoint at every lambda, print the table.

    MODEL may be a file that `oat-bench export` wrote: attacks are white box, on the network in it;
    what predicts clean and attacked images is the file, by onnxruntime or torch.export.
    """
    if (named is None) == (model is None):
        raise UserError("expected one model: oat-bench evaluate MODEL, or --model MODEL")
    _evaluate(model=named or model, **options)


@cli.command(epilog=example("oat-bench train --dataset digits --seed 1"))
@DATASET
@BENCHMARK
@WIDTHS
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@DATASET_NAME
@METHOD
@SEED
@DEVICE
@OUT
def train(
    dataset: str | None,
    benchmark: str | None,
    widths: list[float] | None,
    data_dir: Path,
    skip_broken: bool,
    image_size: int | None,
    dataset_name: str | None,
    method: str | None,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Train by a benchmark card; go on where a killed run stopped."""
    card = _card(dataset, benchmark, method, dataset_name, image_size)
    if widths is not None:
        card = card.with_widths(widths)
    from oat_bench import datasets
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.files import make_folder
    from oat_bench.progress import note

    keep_freed_memory()
    data = datasets.load(
        card.dataset,
        data_dir,
        label=dataset_name,
        skip_broken=skip_broken,
        image_size=card.image_size,
    )
    folder = make_folder(out or _default_out(card, seed))
    runs.train(card, data, folder, seed=seed, device=runs.choose_device(device))
    note(f"checkpoint and log in {folder}")


def _card(
    dataset: str | None,
    benchmark: str | None,
    method: str | None = None,
    label: str | None = None,
    image_size: int | None = None,
) -> "BenchmarkCard":
    """Read the card named, or that of the data set; a folder of images goes with any card."""
    from oat_bench import datasets
    from oat_bench.benchmark import benchmark_card

    folder = dataset is not None and datasets.is_folder(dataset)
    if dataset is not None and not folder:
        datasets.check_known(dataset)
    named = dataset if benchmark is None else benchmark
    if folder and benchmark is None:
        named = "image-folder"
    card = benchmark_card(DEFAULT_BENCHMARK if named is None else named)
    if folder:
        assert dataset is not None
        card = card.for_folder(dataset, named=benchmark is not None, label=label)
    elif dataset is not None and dataset != card.dataset:
        raise UserError(f"benchmark {card.name!r} is of data set {card.dataset!r}, not {dataset!r}")
    if image_size is not None:
        card = card.model_copy(update={"image_size": image_size})
    return card if method is None else card.with_method(method)


def _default_out(card: "BenchmarkCard", seed: int) -> Path:
    return Path("runs") / f"{card.name}-seed{seed}"


def _evaluate(
    *,
    dataset: str | None,
    benchmark: str | None,
    data_dir: Path,
    skip_broken: bool,
    image_size: int | None,
    attacks: str | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    model: str | None,
    n_examples: dict[str, int] | None,
    batch_size: int | None,
    gradients: str | None,
    images: Literal["safetensors", "png"] | None,
    seed: int,
    device: str,
    out: Path | None,
    method: str | None = None,
    interpolation: "Interpolation | None" = None,
    dataset_name: str | None = None,
) -> None:
    for option, value in (("--method", method), ("--dataset-name", dataset_name)):
        if model is not None and value is not None:
            raise UserError(f"{option} is for training; a checkpoint given by --model has its own")
    named = dataset is not None or benchmark is not None
    card = None
    if named or model is None:
        card = _card(dataset, benchmark, method, dataset_name, image_size)
    from oat_bench import datasets, deployment
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.files import make_folder
    from oat_bench.result import measured

    if widths is not None and model is None:
        assert card is not None
        card, widths = card.with_widths(widths), None
    keep_freed_memory()
    where = runs.choose_device(device)
    trained = load_model(model, where) if model is not None else None
    if isinstance(trained, deployment.Exported):
        lambdas = trained.choose_lambdas(lambdas)
        if interpolation is not None:
            raise UserError(f"{model}: the rule between lambda is in the file; export another")
    if interpolation is not None:
        assert trained is not None
        trained = trained.with_interpolation(interpolation)
    if card is None:
        assert trained is not None
        assert model is not None
        card = _card(data_of(trained, model, None), None, image_size=image_size)
    counts = dict(n_examples or {})
    changes = {
        "lambdas": lambdas,
        "widths": widths,
        "attacks": attacks,
        "n_examples": counts.pop("all", None),
        "fewer_examples": counts or None,
        "batch_size": batch_size,
        "gradients": gradients,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    card = card.model_copy(update={"evaluation": card.evaluation.model_copy(update=given)})
    fit: dict[str, Any] = {"skip_broken": skip_broken, "image_size": card.image_size}
    if trained is not None:
        assert model is not None
        data = load_data(trained, model, card.dataset, data_dir, **fit)
    else:
        data = datasets.load(card.dataset, data_dir, label=dataset_name, **fit)
    if "n_examples" not in given and dataset is not None and datasets.is_folder(dataset):
        # the card may have been written for a larger test set
        limit = min(card.evaluation.n_examples or len(data.test), len(data.test))
        smaller = card.evaluation.model_copy(update={"n_examples": limit})
        card = card.model_copy(update={"evaluation": smaller})
    runs.choose_examples(card, data)
    if trained is not None:
        info = trained.info
        runs.choose_points(card, info.method, info.trained_lambdas, info.widths)
    else:
        runs.choose_points(card, card.method, card.training.lambdas, card.network.widths)
    ready = runs.prepare_attacks(card, len(data.classes), seed)
    card = runs.with_saved(card, data, ready)
    if out is None:
        out = _default_out(card, seed)
        if trained is not None:
            out = Path("runs") / f"{card.name}-{trained.fingerprint()[:8]}"
    folder = make_folder(out)
    if trained is None:
        trained = runs.train(card, data, folder, seed=seed, device=where)
    result = measured(
        trained,
        card,
        data,
        ready,
        command=command_line(),
        device=where,
        out=folder,
        images=images,
    )
    result.save(folder)
    _print(result, folder)


def _print(result: "Result", folder: Path) -> None:
    from oat_bench.reports import flags
    from oat_bench.reports import per_lambda as tables

    console, said = plain_console(), flags.lines(result.flags)
    if console.is_terminal:
        console.print(result.title, style="italic")
        for heading, results in tables.by_width(result.points):
            if heading:
                console.print(heading)
            print_whole(console, tables.terminal(results, result.trained, result.published))
        below = tables.notes(result.published, result.frontiers, result.entry.attacks)
        for note in (tables.NOTE, *below):
            console.print(note, style="dim")
        for line in said:
            console.print(line, style="yellow" if result.flags else "dim")
        console.print(f"table, entry, outcomes and figure in {folder}", soft_wrap=True)
    else:
        shown = (result.points, result.trained, result.title, result.published)
        click.echo(tables.markdown(*shown, result.frontiers, result.entry.attacks))
        for line in said:
            click.echo(line)
