"""`run`, `evaluate` and `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context
from oat_bench.cli.group import command, command_line, plain_console, show
from oat_bench.cli.options import in_context, option
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.benchmark import BenchmarkCard
    from oat_bench.networks.card import Interpolation


@command("run --dataset digits --attacks pgd-20 --lambda 0,0.5,1")
@shared.BENCHMARK_OPTIONS
@shared.TRAINING_OPTIONS
@shared.ATTACK_OPTIONS
@option("--model", "MODEL", "Evaluate this one; do not train.")
@shared.RUN_OPTIONS
@in_context
def run(context: Context, **options: Any) -> None:
    """Train if there is no checkpoint, attack at every lambda, print the table.

    What a run finished is kept: the same command goes on from there.
    """
    _evaluate(context, **options)


@command("evaluate --model runs/fashion-12x12-seed0 --lambda 0,0.15,0.5")
@click.argument("named", metavar="MODEL", required=False)
@option("--model", "MODEL", "A checkpoint, a run's folder, an exported file or a name, likewise.")
@shared.BENCHMARK_OPTIONS
@shared.ATTACK_OPTIONS
@option(
    "--interpolation",
    ["linear-codes", "spherical-codes", "film"],
    "Rule for lambda that were not trained. [default: the checkpoint's]",
)
@shared.RUN_OPTIONS
@in_context
def evaluate(context: Context, named: str | None, **options: Any) -> None:
    """Attack a trained checkpoint at every lambda, print the table.

    MODEL may be a file that `oat-bench export` wrote: attacks are white box, on the network in it;
    what predicts clean and attacked images is the file, by onnxruntime or torch.export. Or it is
    your own, ./mine.py:build, with --dataset: build() is run, and returns the network. Or a name:
    of a published model, see oat-bench list models; hf:owner/name, of the Hugging Face hub; or
    robustbench:cifar10/Linf/Carmon2019Unlabeled, of RobustBench's zoo.
    """
    if (named is None) == (context.model is None):
        raise UserError("expected one model: oat-bench evaluate MODEL, or --model MODEL")
    context.model = context.model or named
    _evaluate(context, **options)


@command("train --dataset digits --seed 1")
@shared.BENCHMARK_OPTIONS
@shared.TRAINING_OPTIONS
@shared.CARD_WIDTHS
@shared.RUN_OPTIONS
@in_context
def train(context: Context, widths: list[float] | None, seed: int, **named: str | None) -> None:
    """Train by a benchmark card; go on where a killed run stopped."""
    card = _card(context, context.dataset, **named)
    card = card.checked() if widths is None else card.with_widths(widths)
    from oat_bench import run as runs
    from oat_bench.files import make_folder
    from oat_bench.progress import note

    device = context.where
    data = context.load(card.dataset, card.image_size, named["dataset_name"])
    folder = make_folder(context.out or Path("runs") / f"{card.name}-seed{seed}")
    runs.train(card, data, folder, seed=seed, device=device)
    note(f"checkpoint and log in {folder}")


def _card(
    context: Context,
    dataset: str | None,
    benchmark: str | None,
    method: str | None = None,
    dataset_name: str | None = None,
) -> "BenchmarkCard":
    """Read the card named, or that of the data set; a folder of images goes with any card."""
    from oat_bench import datasets
    from oat_bench.benchmark import benchmark_card, card_for

    folder = dataset is not None and datasets.is_folder(dataset)
    if dataset is not None and not folder:
        datasets.check_known(dataset)
    if benchmark is not None:
        card = benchmark_card(benchmark)
    elif dataset is not None and not folder:
        card = card_for(dataset)
    else:
        card = benchmark_card("image-folder" if folder else shared.DEFAULT_BENCHMARK)
    if folder and dataset:
        card = card.for_folder(dataset, named=benchmark is not None, label=dataset_name)
    elif dataset is not None and dataset != card.dataset:
        raise UserError(f"benchmark {card.name!r} is of data set {card.dataset!r}, not {dataset!r}")
    if context.image_size is not None:
        card = card.model_copy(update={"image_size": context.image_size})
    return card if method is None else card.with_method(method)


def _evaluate(
    context: Context,
    *,
    benchmark: str | None,
    n_examples: dict[str, int] | None,
    images: Literal["safetensors", "png"] | None,
    seed: int,
    widths: list[float] | None,
    lambdas: list[float] | None,
    method: str | None = None,
    dataset_name: str | None = None,
    interpolation: "Interpolation | None" = None,
    **changes: Any,
) -> None:
    """Attack the model, or the one that is trained first, by a card that options change."""
    model, dataset = context.model, context.dataset
    for only, value in (("--method", method), ("--dataset-name", dataset_name)):
        if model is not None and value is not None:
            raise UserError(f"{only} is for training; a checkpoint given by --model has its own")
    card = None
    if model is None or dataset is not None or benchmark is not None:
        card = _card(context, dataset, benchmark, method, dataset_name)
    from oat_bench import datasets, deployment
    from oat_bench import run as runs
    from oat_bench.files import make_folder
    from oat_bench.reports import flags
    from oat_bench.result import measured

    if card is not None and model is None:
        card, widths = card.checked() if widths is None else card.with_widths(widths), None
    device, trained = context.where, None
    if model is not None:
        trained = context.trained
        if isinstance(trained, deployment.Exported):
            lambdas = trained.choose_lambdas(lambdas)
            if interpolation is not None:
                raise UserError(f"{model}: the rule between lambda is in the file; export another")
        if interpolation is not None:
            trained = context.trained = trained.with_interpolation(interpolation)
        card = card or _card(context, context.dataset_name, None)
        if trained.info.network is None:  # no card knows its lambda values
            lambdas = lambdas or trained.info.trained_lambdas
            if benchmark is None:
                card = card.model_copy(update={"threat": trained.info.threat})
    assert card is not None
    counts = dict(n_examples or {})
    n = counts.pop("all", None)
    if dataset is None or not datasets.is_folder(dataset):
        n = n or card.evaluation.n_examples  # a card of any folder may be of a larger test set
    changes |= {"lambdas": lambdas, "widths": widths}
    changes |= {"n_examples": n, "fewer_examples": counts or None}
    place = card.dataset, card.image_size
    data = context.load(*place, dataset_name) if trained is None else context.fitting(*place)
    card = runs.with_evaluation(card, data, **changes)
    runs.choose_examples(data, card.evaluation.n_examples)
    known = card.method, card.training.lambdas, card.network.widths
    own = f"seed{seed}"
    if trained is not None:
        known = trained.info.method, trained.info.trained_lambdas, trained.info.widths
        own = trained.fingerprint()[:8]
    runs.choose_points(card, *known)
    ready = runs.prepare_attacks(card, len(data.classes), seed)
    card = runs.with_saved(card, data, ready)
    folder = make_folder(context.out or Path("runs") / f"{card.name}-{own}")
    if trained is None:
        trained = runs.train(card, data, folder, seed=seed, device=device)
    result = measured(
        trained, card, data, ready, command=command_line(), device=device, out=folder, images=images
    )
    result.save(folder)
    show(result.page)
    console, raised = plain_console(), result.entry.flags or ()
    console.print()
    for line in flags.lines(raised):
        console.print(line, style="yellow" if raised else "dim", soft_wrap=not console.is_terminal)
    if console.is_terminal:
        console.print(f"table, entry, outcomes and figure in {folder}", soft_wrap=True)
