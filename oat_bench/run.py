"""A benchmark from its card to its report: train, evaluate, write."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from oat_bench import cards, datasets
from oat_bench.attacks import saved
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.attacks.selection import for_random, select_attacks
from oat_bench.benchmark import BenchmarkCard
from oat_bench.card_text import as_toml
from oat_bench.checkpoint import load, save
from oat_bench.classifier import (
    Ancestor,
    ModelInfo,
    OperatingPoint,
    TunableClassifier,
    check_lambdas,
    check_widths,
)
from oat_bench.datasets import Dataset
from oat_bench.datasets.splits import stratified
from oat_bench.errors import UserError, unknown
from oat_bench.evaluation import survivors
from oat_bench.files import atomic_write, sha256
from oat_bench.launch import launch
from oat_bench.methods.trainable import Member, TrainableClassifier
from oat_bench.progress import note
from oat_bench.registry import METHODS
from oat_bench.run_folder import CARD, CHECKPOINT, LOG, SPLITS, STATE
from oat_bench.training import state
from oat_bench.training.loop import Trainer
from oat_bench.training.memory import room
from oat_bench.training.ranks import Ranks
from oat_bench.training.sampling import describe_lambdas
from oat_bench.training.tracking import Track


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available; use --device cpu or auto")
    if name == "cuda" and (own := launch()).size > 1:  # torchrun: a GPU for each process
        return torch.device("cuda", own.local_rank % torch.cuda.device_count())
    return torch.device(name)


def with_evaluation(card: BenchmarkCard, data: Dataset, **changes: Any) -> BenchmarkCard:
    """Return the card with what is not None changed in its evaluation, and examples that exist.

    A precision replaces the card's numbers of examples of single attacks, and they it.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if given.keys() & {"precision", "fewer_examples"}:
        given = {"precision": None, "fewer_examples": {}} | given
    if "n_examples" not in given and card.evaluation.n_examples:
        given["n_examples"] = min(card.evaluation.n_examples, len(data.test))
    return card.model_copy(update={"evaluation": card.evaluation.model_copy(update=given)})


def prepare_attacks(
    card: BenchmarkCard, n_classes: int, seed: int, *, random: str | None = None
) -> list[Attack]:
    """Make the attacks of a card ready, before anything costly begins; ``random`` names a method.

    That is one whose models are random, see `for_random`.
    """
    chosen = select_attacks(card.evaluation.attacks, card.threat.norm, n_classes)
    if random is not None:
        chosen = for_random(chosen, random)
    names = [attack.name for attack in chosen]
    for name in card.evaluation.fewer_examples:
        if name not in names and name not in cards.names("attacks"):
            raise unknown("attack with fewer examples", name, names)
    ready = [prepare(attack, card.threat, n_classes=n_classes, seed=seed) for attack in chosen]
    label, count = Counter(attack.label for attack in ready).most_common(1)[0]
    if count > 1:
        raise UserError(f"two attacks have one column, {label!r}; rename a card")
    survivors.check(card, ready)
    return ready


def with_saved(card: BenchmarkCard, data: Dataset, attacks: list[Attack]) -> BenchmarkCard:
    """Return the card with fewer examples for attacked images that were saved of fewer."""
    examples = choose_examples(data, card.evaluation.n_examples)
    fewer = dict(card.evaluation.fewer_examples)
    for name, attack in ((a.card.name, a) for a in attacks if a.card.engine == "file"):
        fewer[name] = saved.count(attack, data, examples[: fewer.get(name)])
    precision = card.evaluation.precision
    return with_evaluation(card, data, fewer_examples=fewer, precision=precision)


def train(
    card: BenchmarkCard,
    data: Dataset,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    start: TunableClassifier | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
    track: Track = lambda _network, _row: None,
) -> TunableClassifier:
    """Train by a card into ``out``; continue what it holds, or load that if it is finished.

    Weights are those of ``start``, for which the card is made by `BenchmarkCard.starting_from`. Of
    several ``ranks`` the first writes, all return the classifier. ``track`` takes the log's rows.
    """
    write = atomic_write if ranks.first else _write_nothing
    ancestors = _lineage(start)
    checkpoint = out / CHECKPOINT
    if (done := finished(card, data, out, seed=seed, device=device, start=start)) is not None:
        classifier, card = done
        write(out / CARD, as_toml(card))
        note(f"{checkpoint}: trained already")
        return classifier
    _, *size = data.input_shape
    card, without_stem = card.checked().for_images(*size), card.for_images(1, 1)
    if card.network != without_stem.network:
        names = card.network.architecture, without_stem.network.architecture
        note(f"images of {'x'.join(map(str, size))}: {names[0]} in the place of {names[1]}")
    identity = training_identity(card, data, seed, ancestors)
    classifier = fresh(card, data, seed=seed, start=start, identity=identity)
    info = classifier.info
    classifier.to(device)
    selections, logs, seconds, micro_batches, rates = [], [], 0.0, [], []
    train_split, validation = data.train.to(device), data.validation
    if card.training.validation_examples is not None:
        chosen, _ = stratified(validation.labels, card.training.validation_examples)
        validation = validation.take(chosen)
    validation = validation.to(device)
    bytes_free = room(card.training, device, *data.splits.values())
    if bytes_free is not None and card.training.memory is None:
        bytes_free //= ranks.beside
    members = classifier.members()
    if not any((out / member.name / STATE).exists() for member in members):  # or it is refused
        write(out / CARD, as_toml(card))
    for member in members:
        recipe = member.recipe(card.training)
        trainer = Trainer(
            member.step,
            recipe,
            card.threat,
            train_split,
            validation,
            seed=seed,
            identity=f"{identity} {member.name}".rstrip(),
            folder=out / member.name,
            room=bytes_free,
            ranks=ranks,
            track=partial(track, member.name),
        )
        loss = recipe.objective.loss
        by = card.method.upper() + ("" if loss == "cross-entropy" else f" with {loss}")
        epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
        parts = [f"{len(data.train)} images", epochs, describe_lambdas(recipe)]
        widths = sorted({width for _, width in member.step.points()}, reverse=True)
        if len(widths) > 1:
            parts.append(f"width {', '.join(f'{width:g}' for width in widths)}")
        parts += [f"on {ranks.names or device}", trainer.computation]
        parts += [f"at {card.threat}, from {one}" for one in ancestors[:1]]
        note(f"training {info.architecture} on {data.name} by {by}: {', '.join(parts)}")
        progress = trainer.train()
        selections.append((member, trainer.selection))
        seconds += progress.seconds
        rates += [trainer.rate] if trainer.rate else []
        micro_batches += [progress.micro_batch] if progress.micro_batch else []
        if member.name:
            log = pd.DataFrame(progress.history)
            log.insert(0, "network", member.name)
            logs.append(log)
            whole = pd.concat(logs)
            whole["seconds"] = whole.pop("seconds")
            write(out / LOG, whole.to_csv(index=False, float_format="%.6g"))
    write(out / SPLITS, data.describe_splits())
    write(out / CARD, as_toml(card))
    selection = "; ".join(f"{member.name}: {rule}" for member, rule in selections)
    if len({rule for _, rule in selections}) <= 1:  # said once if it holds of all networks
        selection = selections[0][1] if selections else ""
    selection = "; ".join(filter(None, [selection, classifier.fit(data)])) or "none: not trained"
    changes: dict[str, Any] = {"selection": selection}
    if micro_batches:
        least = min(micro_batches)
        changes |= {"micro_batch": least}
        changes |= {"benchmark_card": training_identity(card, data, seed, ancestors, least)}
    classifier.info = classifier.info.model_copy(update=changes)
    if ranks.first:
        save(classifier, checkpoint)
    if selections:
        speed = f", {rates[-1]:,.0f} images a second" if rates else ""
        note(f"trained in {seconds:.0f} s{speed}; weights: {selection}")
    return classifier


def finished(
    card: BenchmarkCard,
    data: Dataset,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    start: TunableClassifier | None = None,
) -> tuple[TunableClassifier, BenchmarkCard] | None:
    """Return what `train` left in a folder, and its card; refuse what is of another training."""
    checkpoint = out / CHECKPOINT
    if not checkpoint.exists():
        return None
    ancestors = _lineage(start)
    card, without_stem = card.checked().for_images(*data.input_shape[1:]), card.for_images(1, 1)
    classifier = load(checkpoint, device)
    info, method = classifier.info, METHODS[card.method]
    # once no stem was chosen
    card = without_stem if info.network == method.network_card(without_stem.network) else card
    identity = training_identity(card, data, seed, ancestors, info.micro_batch)
    # and a folder's name counted
    called = data.called(info.dataset)
    before = training_identity(card, called, seed, ancestors, named=True)
    if info.benchmark_card not in (identity, before):
        raise UserError(
            f"{checkpoint} was trained by another card, on other data, with another seed or "
            "from another model; choose another folder with --out, or evaluate it with --model"
        )
    return classifier, card


def epochs_done(
    card: BenchmarkCard,
    data: Dataset,
    out: Path,
    member: Member,
    *,
    seed: int,
    start: TunableClassifier | None = None,
) -> int:
    """Return how many epochs `train` has trained a member in a folder, by a card for the images."""
    path = out / member.name / STATE
    if not path.exists():
        return 0
    identity = training_identity(card, data, seed, _lineage(start))
    return state.epochs_done(path, f"{identity} {member.name}".rstrip())


def _lineage(start: TunableClassifier | None) -> list[Ancestor]:
    return [] if start is None else start.lineage()


def fresh(
    card: BenchmarkCard,
    data: Dataset,
    *,
    seed: int,
    start: TunableClassifier | None = None,
    identity: str = "",
) -> TrainableClassifier:
    """Build the classifier that `train` trains by a card for images of this size."""
    method: type[TrainableClassifier] = METHODS[card.method]
    network = method.network_card(card.network)
    info = ModelInfo(
        method=card.method,
        dataset=data.name,
        classes=list(data.classes),
        input_shape=data.input_shape,
        network=network,
        own_name="" if network else card.method,
        options=card.options,
        trained_lambdas=card.training.lambdas,
        interpolation=network.interpolation if network and method.continuous else "none",
        lambda_sampling=card.training.lambda_sampling if method.continuous else "list",
        threat=card.threat,
        seed=seed,
        epochs=card.training.epochs,
        selection="",
        benchmark_card=identity,
        data_fingerprint=data.fingerprint() if identity else "",
        image_size=data.image_size,
        ancestors=_lineage(start),
    ).with_bridge()
    return method.build(info) if start is None else method.start(info, start)


def _write_nothing(_path: Path, _text: str) -> None:
    """Stand in for `atomic_write` on ranks that leave it to the first."""


def training_identity(
    card: BenchmarkCard,
    data: Dataset,
    seed: int,
    ancestors: Sequence[Ancestor] = (),
    micro_batch: int | None = None,
    *,
    named: bool = False,
) -> str:
    """Hash all that decides the weights; the name of a folder does not, unless ``named``."""
    if not (named or data.name in datasets.DATASETS):
        data = data.called("")
    card = card.for_images(*data.input_shape[1:])
    used = (METHODS[card.method].network_card(card.network), card.training, card.threat)
    parts = [part.fingerprint() for part in used if part is not None]
    if card.options:
        parts.append(json.dumps(card.options, sort_keys=True))
    parts += [f"from {one.fingerprint}" for one in ancestors[:1]]
    parts += [] if micro_batch is None else [f"micro_batch {micro_batch}"]
    return sha256(card.method, data.fingerprint(), str(seed), *parts)


def choose_points(
    card: BenchmarkCard, method: str, trained: Sequence[float], widths: Sequence[float]
) -> list[OperatingPoint]:
    """Return the points that a card evaluates of a classifier, by width and lambda."""
    lambdas, chosen = card.evaluation.lambdas, card.evaluation.widths or widths
    check_widths(widths, chosen)
    check_lambdas(method, trained, lambdas)
    return [OperatingPoint(lam, width) for width in chosen for lam in lambdas]


def choose_examples(data: Dataset, n: int | None) -> Tensor:
    """Return the ids of n test images, stratified, or of all; those of fewer come first in more."""
    n = len(data.test) if n is None else n
    if not 1 <= n <= len(data.test):
        raise UserError(f"{n} examples asked for; the test set of {data.name} has {len(data.test)}")
    return datasets.nested_order(data.test.labels)[:n]
