"""`run`, `evaluate` and `train`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context
from oat_bench.cli.group import command, command_line, plain_console, show
from oat_bench.cli.options import in_context, option
from oat_bench.errors import UserError
from oat_bench.run_folder import CHECKPOINT, STORE

if TYPE_CHECKING:
    from oat_bench.attacks.engines import Attack
    from oat_bench.benchmark import BenchmarkCard
    from oat_bench.classifier import TunableClassifier
    from oat_bench.datasets import Dataset
    from oat_bench.networks.card import Interpolation
    from oat_bench.planning import Plan

_LONG = 3600  #: seconds from which on a run on a CPU says first how long it takes
_SLOW = 1e10  #: operations a second that any CPU reaches


@command("run --dataset digits --attacks pgd-20 --lambda 0,0.5,1")
@shared.BENCHMARK_OPTIONS
@shared.TRAINING_OPTIONS
@shared.EPOCHS
@shared.THREAT_OPTIONS
@shared.ATTACK_OPTIONS
@option("--model", "MODEL", "Evaluate this one; do not train.")
@shared.START
@shared.LOG
@shared.SCALE
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
@shared.THREAT_OPTIONS
@shared.ATTACK_OPTIONS
@option(
    "--interpolation",
    ["linear-codes", "spherical-codes", "film"],
    "Rule for lambda values that were not trained. [default: the checkpoint's]",
)
@shared.SCALE
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
@shared.EPOCHS
@shared.TRAINING_BATCH_SIZE
@shared.THREAT_OPTIONS
@shared.START
@shared.LOG
@shared.RUN_OPTIONS
@in_context
def train(
    context: Context, dataset_name: str | None, seed: int, logs: tuple[str, ...], **named: Any
) -> None:
    """Train by a benchmark card; go on where a killed run stopped.

    Several processes share it: torchrun --nproc-per-node 2 -m oat_bench train ...
    """
    card, model = _to_train(context, dataset_name=dataset_name, logs=logs, **named)
    from oat_bench.files import make_folder
    from oat_bench.progress import note

    device = context.where
    data = context.load(card.dataset, card.image_size, dataset_name)
    folder = context.out or _folder(card, seed, model)
    if context.planned is not None:
        context.planned.show(_plan(context, card, data, seed, folder, start=model))
    make_folder(folder)
    how: dict[str, Any] = {"device": device, "start": model, "logs": logs}
    _train(context, card, data, folder, seed, **how)
    context.ranks.leave()
    note(f"checkpoint and log in {folder}")


def _train(
    context: Context,
    card: "BenchmarkCard",
    data: "Dataset",
    folder: Path,
    seed: int,
    *,
    logs: tuple[str, ...],
    **how: Any,
) -> "TunableClassifier":
    """Train, and show the log where it is asked for."""
    from oat_bench import run as runs
    from oat_bench.training.tracking import tracked

    if not context.ranks.first or (folder / CHECKPOINT).exists():
        logs = ()
    settings = card.model_dump(mode="json", exclude={"evaluation"}) | {"seed": seed}
    with tracked(logs, folder, settings) as track:
        how |= {"ranks": context.ranks, "track": track}
        return runs.train(card, data, folder, seed=seed, **how)


def _to_train(
    context: Context,
    *,
    start: str | None,
    logs: tuple[str, ...],
    widths: list[float] | None,
    method: str | None,
    changes: dict[str, object],
    **named: Any,
) -> "tuple[BenchmarkCard, TunableClassifier | None]":
    """Return the card to train by, and the model to start from, which decides some of it."""
    from oat_bench.training import tracking

    tracking.check(logs)
    if start is None:
        card = _card(context, context.dataset, method=method, **named).with_changes(changes)
        return card.checked() if widths is None else card.with_widths(widths), None
    from oat_bench import datasets

    for key in changes:
        if key.partition(".")[0] in ("method", "network"):
            raise UserError(f"--set {key}: method and network are those of --from; leave it out")
    source, dataset = replace(context, model=start), context.dataset
    model = source.checkpoint
    info = model.info
    if widths not in (None, info.widths):
        have = ",".join(f"{width:g}" for width in info.widths)
        raise UserError(f"--widths: {start} has {have}, which stay; leave out --widths")
    if dataset is None and named["benchmark"] is None:
        dataset = source.dataset_name
    card = _card(context, dataset, **named).with_changes(changes).starting_from(model, method)
    if context.image_size is None and dataset is not None and datasets.is_folder(dataset):
        card = card.model_copy(update={"image_size": info.image_size or card.image_size})
    return card, model


def _folder(card: "BenchmarkCard", seed: int, start: "TunableClassifier | None") -> Path:
    """Return where a training goes, unless it is told."""
    began = "" if start is None else f"-from-{start.fingerprint()[:8]}"
    return Path("runs") / f"{card.name}{began}-seed{seed}"


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


def _plan(
    context: Context,
    card: "BenchmarkCard",
    data: "Dataset",
    seed: int,
    folder: Path,
    *,
    start: "TunableClassifier | None" = None,
    trained: "TunableClassifier | None" = None,
    attacks: "list[Attack] | None" = None,
    rate: float | None = None,
) -> "Plan":
    """Plan what a folder lacks: a training, and attacks on the model if there are any."""
    from oat_bench import planning
    from oat_bench import run as runs
    from oat_bench.evaluation import stored, survivors
    from oat_bench.evaluation.subject import Subject
    from oat_bench.results.outcomes import OutcomeStore

    plan, where = planning.Plan(context.where, rate), context.where
    how: dict[str, Any] = {"seed": seed, "start": start}
    if trained is None and (done := runs.finished(card, data, folder, device=where, **how)):
        trained, card = done
        plan.notes["training"] = f"{folder / CHECKPOINT}: trained already"
    fingerprint = "" if trained is None else data.fingerprint()
    if trained is None:
        card = card.checked().for_images(*data.input_shape[1:])
        fresh = runs.fresh(card, data, **how).to(where)
        try:
            fresh.at(card.training.lambdas[-1], max(fresh.info.widths))
        except UserError as error:  # what `fit` finds is not there yet
            raise UserError(
                f"{error}: a run of {card.method} is not planned; once it is fitted, oat-bench "
                "plan evaluate is"
            ) from error
        done_of = partial(runs.epochs_done, card, data, folder, **how)
        planning.add_training(plan, card, data, fresh, seed, done_of)
        trained = fresh
    if attacks is not None:
        info, measures = trained.info, card.evaluation
        points = runs.choose_points(card, info.method, info.trained_lambdas, info.widths)
        examples = runs.choose_examples(data, measures.n_examples)
        how = survivors.shares(card, attacks, len(examples))
        how |= {"batch_size": measures.batch_size, "gradients": measures.gradients}
        how |= {"compile_it": False, "seed": seed}
        how |= {"store": OutcomeStore(context.store or folder / STORE)}
        images = data.test.to(where)
        subject = Subject(trained.to(where), images, fingerprint, examples, **how)
        planning.add_attacks(plan, subject, stored.left(subject, points, attacks))
    return plan


def _warn(card: "BenchmarkCard", plan: "Callable[..., Plan]") -> None:
    """Say of a run, before it begins, that it takes long here."""
    from oat_bench import cards, planning
    from oat_bench.progress import note

    try:  # nothing is timed where even a slow machine is done soon
        if plan(rate=_SLOW).seconds < _LONG or (seconds := plan().seconds) < _LONG:
            return
    except UserError:  # what cannot be planned
        return
    small, shorter = f"{card.dataset}-small", "take fewer --epochs, --attacks or --n-examples"
    if card.name != small and small in cards.names("benchmarks"):
        shorter = f"shorter: oat-bench run --benchmark {small}"
    more = command_line().replace("oat-bench run", "oat-bench plan run", 1)
    note(f"this takes about {planning.duration(seconds)} here; {shorter}; in detail: {more}")


def _evaluate(
    context: Context,
    *,
    benchmark: str | None,
    n_examples: dict[str, int] | None,
    images: Literal["safetensors", "png"] | None,
    seed: int,
    widths: list[float] | None,
    lambdas: list[float] | None,
    changes: dict[str, object],
    method: str | None = None,
    dataset_name: str | None = None,
    interpolation: "Interpolation | None" = None,
    start: str | None = None,
    logs: tuple[str, ...] = (),
    only: bool = False,
    **evaluation: Any,
) -> None:
    """Attack the model, or the one that is trained first, by a card that options change."""
    model, dataset = context.model, context.dataset
    of_training = (
        *(("--method", method), ("--dataset-name", dataset_name)),
        *(("--from", start), ("--log", logs or None)),
    )
    for flag, value in of_training:
        if model is not None and value is not None:
            raise UserError(f"{flag} is for training; a checkpoint given by --model has its own")
    card, begun = None, None
    if model is None:
        of_card: dict[str, Any] = {"benchmark": benchmark, "dataset_name": dataset_name}
        of_card |= {"changes": changes, "method": method, "widths": widths}
        card, begun = _to_train(context, start=start, logs=logs, **of_card)
        widths = None
    else:
        shared.check_trained(changes, "threat", "evaluation")
        if dataset is not None or benchmark is not None:
            card = _card(context, dataset, benchmark)
    from oat_bench import datasets, deployment
    from oat_bench import run as runs
    from oat_bench.files import make_folder
    from oat_bench.progress import note
    from oat_bench.reports import flags
    from oat_bench.result import measured

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
            own_lambdas = {"lambdas": trained.info.trained_lambdas}
            measures = card.evaluation.model_copy(update=own_lambdas)
            card = card.model_copy(update={"evaluation": measures})
        if benchmark is None:
            card = card.model_copy(update={"threat": trained.info.threat})
        card = card.with_changes(changes)
    assert card is not None
    counts = dict(n_examples or {})
    n = counts.pop("all", None)
    asked = "evaluation.n_examples" in changes
    if asked or dataset is None or not datasets.is_folder(dataset):
        n = n or card.evaluation.n_examples  # a card of any folder may be of a larger test set
    evaluation |= {"lambdas": lambdas, "widths": widths}
    evaluation |= {"n_examples": n, "fewer_examples": counts or None}
    place = card.dataset, card.image_size
    data = context.load(*place, dataset_name) if trained is None else context.fitting(*place)
    card = runs.with_evaluation(card, data, **evaluation)
    runs.choose_examples(data, card.evaluation.n_examples)
    known = card.method, card.training.lambdas, card.network.widths
    folder = _folder(card, seed, begun)
    if trained is not None:
        known = trained.info.method, trained.info.trained_lambdas, trained.info.widths
        folder = Path("runs") / f"{card.name}-{trained.fingerprint()[:8]}"
    runs.choose_points(card, *known)
    from oat_bench.registry import METHODS

    random = known[0] if METHODS[known[0]].random else None
    ready = runs.prepare_attacks(card, len(data.classes), seed, random=random)
    card = runs.with_saved(card, data, ready)
    folder = context.out or folder
    of_plan = partial(_plan, context, card, data, seed, folder)
    of_plan = partial(of_plan, start=begun, trained=trained, attacks=ready)
    if context.planned is not None:
        context.planned.show(of_plan())
    make_folder(folder)
    if images is not None and (context.shard is not None or context.ray is not None):
        raise UserError("--save-images is for one process; leave out --shard or --ray")
    if context.shard is not None and trained is None and not (folder / CHECKPOINT).exists():
        raise UserError(f"no checkpoint in {folder}, and a shard trains none; run `train` first")
    store = context.outcomes(folder)
    executor = context.executor() if context.ranks.first else None
    if trained is None:
        if device.type == "cpu" and context.ranks.size == 1 and not (folder / CHECKPOINT).exists():
            _warn(card, of_plan)
        how: dict[str, Any] = {"device": device, "start": begun, "logs": logs}
        trained = _train(context, card, data, folder, seed, **how)
    context.ranks.leave()
    if not context.ranks.first:
        return
    result = measured(
        trained,
        card,
        data,
        ready,
        command=command_line(),
        device=device,
        out=folder,
        store=store,
        executor=executor,
        images=images,
        only=only,
    )
    result.save(folder)
    show(result.page)
    console, raised = plain_console(), result.entry.flags or ()
    console.print()
    for line in flags.lines(raised):
        console.print(line, style="yellow" if raised else "dim", soft_wrap=not console.is_terminal)
    note(f"table, entry, outcomes and figures in {folder}")
