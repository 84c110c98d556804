"""What a command will compute, and what it will take: passes, operations, time, memory, disk.

Nothing is computed but a few passes of images that are drawn, to see how long they take.
"""

import heapq
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from oat_bench.acceleration import operations_per_image
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.benchmark import BenchmarkCard
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Dataset, Split
from oat_bench.evaluation import stages
from oat_bench.evaluation.cost import machine
from oat_bench.evaluation.stages import Stage
from oat_bench.evaluation.subject import Subject
from oat_bench.methods.trainable import Member, TrainableClassifier
from oat_bench.networks.drawn import steady
from oat_bench.reports.table import Page, Row, Table, short
from oat_bench.training.card import TrainingCard
from oat_bench.training.loop import Trainer
from oat_bench.training.memory import LEAST, PROCESS, per_image
from oat_bench.training.sampling import passes
from oat_bench.training.step import Setting

START_UP = 5.0  #: seconds until a worker computes: imports, model and data (docs/scale.md)
_MEASURED = 2e10  # operations of a measurement: less than a second
#: what an attack is shortened to while it is timed
_SHORT: dict[str, Any] = {"steps": 3, "max_iter": 3, "n_queries": 20, "draws": 3, "n_classes": 3}
_SHORT |= {"restarts": 1, "n_restarts": 1}
_ROW = 32  # bytes of an outcome on disk, most of them of its small file


@dataclass(frozen=True)
class Step:
    """A stage of a command, at most: in most runs images break before."""

    name: str
    images: int  # times operating points or epochs
    passes: float
    operations: float
    seconds: float  # on this machine
    usual: float = 1.0  # the share of it that is made where nothing is known of a model


@dataclass
class Plan:
    """What a command computes; `units` are (seconds, operations) that can be shared out."""

    device: torch.device
    rate: float | None = None  # operations a second, if nothing is to be timed
    steps: list[Step] = field(default_factory=list)
    units: list[tuple[float, float]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)  # bytes, by what takes them
    disk: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # on attacks, by name

    @property
    def seconds(self) -> float:
        """The time that it takes here where nothing is known of the model."""
        return sum(step.seconds * step.usual for step in self.steps)

    @property
    def most(self) -> float:
        """The time that it takes here at most."""
        return sum(step.seconds for step in self.steps)

    def shared(self, workers: int, tflops: float | None = None) -> float:
        """Return the seconds on workers like this machine, or that reach so many TFLOP/s each.

        Training is taken to be split evenly over them, which is the best that can be.
        """
        rate = 0.0 if tflops is None else 1e12 * tflops
        units = [operations / rate if rate else seconds for seconds, operations in self.units]
        whole = sum(s.usual * (s.operations / rate if rate else s.seconds) for s in self.steps)
        return START_UP + (whole - sum(units)) / workers + makespan(units, workers)


def makespan(units: Iterable[float], workers: int) -> float:
    """Return when the last unit ends, if the longest are begun first, by who is free first."""
    loads = [0.0] * workers
    for seconds in sorted(units, reverse=True):
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)


class Meter:
    """Times passes of a classifier's networks under attacks, each kind once."""

    def __init__(self, subject: Subject, rate: float | None = None) -> None:
        self._subject, self._rate = subject, rate
        self._known: dict[object, float] = {}

    def operations(self, point: OperatingPoint) -> float:
        """Return the operations of a forward pass of an image."""
        if (key := ("operations", point.width)) not in self._known:
            network = self._subject.classifier.at(point.lam, point.width)
            self._known[key] = operations_per_image(network, self._images(1))
        return self._known[key]

    def seconds(self, point: OperatingPoint, part: Attack) -> float:
        """Return the seconds of a pass of an image under an attack."""
        if self._rate is not None:
            return self.operations(point) / self._rate
        run = part.chain[-1]
        key = (point.width, part.engine, run.class_, part.threat.norm)
        if key not in self._known:
            at = self._subject.at(point)
            model = at.searched
            changes = {k: v for k, v in _SHORT.items() if k in run.parameters}
            if (eps := run.parameters.get("eps")) is not None:
                changes["eps"] = 1e-3 * eps  # so that all images stand
            short_run = run.model_copy(update={"parameters": run.parameters | changes})
            short_part = replace(part, chain=(*part.chain[:-1], short_run))
            each = short_part.passes_on(model).total
            if not each:
                return 0.0
            n = int(_MEASURED / max(1.0, each * self.operations(point)))
            x = self._images(max(4, min(at.batch_size, n)))
            with torch.no_grad():
                y = model(x).argmax(1)
            spent = self._time(short_part, model, x, y)
            if spent < 1:  # else what is done once in a process takes no part in it
                spent = min(spent, self._time(short_part, model, x, y))
            self._known[key] = spent / (each * len(x))
        return self._known[key]

    def _images(self, n: int) -> Tensor:
        data = self._subject.data
        return torch.rand(n, *data.images.shape[1:], device=data.labels.device)

    @staticmethod
    def _time(attack: Attack, model: Any, x: Tensor, y: Tensor) -> float:
        started = time.perf_counter()
        attack(model, x, y, torch.arange(len(x), device=x.device)).sum().item()
        return time.perf_counter() - started


def add_attacks(plan: Plan, subject: Subject, work: Iterable[Stage]) -> None:
    """Add attacks, of which blocks of images can be shared out, and what their outcomes take."""
    meter, rows, outcomes = Meter(subject, plan.rate), dict[str, Step](), 0
    units = dict[tuple[OperatingPoint, str, int], list[float]]()
    for stage in work:
        point, made, usual = stage.point, stage.most.total, stage.usual
        outcomes += stage.images
        if not made:  # attacked along with another
            continue
        if stage.part.label in subject.samples:
            plan.notes[stage.part.label] = _on_survivors(subject, stage)
        takes = made * meter.operations(point), made * meter.seconds(point, stage.part)
        step = Step(stage.kind, stage.images, made, *takes, usual)
        rows[step.name] = _sum(rows[step.name], step) if step.name in rows else step
        unit = units.setdefault((point, stage.part.label, stage.images), [0.0, 0.0])
        unit[0] += usual * takes[1]
        unit[1] += usual * takes[0]
    for (_, _, images), (seconds, operations) in units.items():
        plan.units += [(seconds * n / images, operations * n / images) for n in _blocks(images)]
    plan.steps += rows.values()
    plan.disk["outcomes"] = _ROW * outcomes
    if plan.rate is None:
        plan.memory["evaluation"] = _memory(subject, plan.device)


def _on_survivors(subject: Subject, stage: Stage) -> str:
    label, most = stage.part.label, subject.samples[stage.part.label].most(len(subject.ids))
    said = f"{label}: at each point on at most {most} of the images that the other attacks leave"
    if not stage.part.per_example:
        return f"{said}, and on those in blocks with them, {stage.images} in all"
    return f"{said}, usually {round(stage.usual * stage.images)}"


def _memory(subject: Subject, device: torch.device) -> float:
    """Return the bytes of an evaluation: of the process, the images and the passes of a batch."""
    info = subject.classifier.info
    at = subject.at(OperatingPoint(info.trained_lambdas[-1], max(info.widths)))
    x = torch.rand(LEAST, *subject.data.images.shape[1:], device=device)

    def once() -> None:
        steady(at.exact)(x.clone().requires_grad_()).sum().backward()

    each = per_image(once, LEAST, 0, device)
    return PROCESS + subject.data.images.numel() + each * max(at.batch_size, 256)


def add_predictions(
    plan: Plan, subject: Subject, points: Sequence[OperatingPoint], times: int
) -> None:
    """Add that all images are classified so many times at each point."""
    info, meter, images = subject.classifier.info, Meter(subject), len(subject.ids)
    noise = prepare(attack_card("noise"), info.threat, n_classes=info.num_classes, seed=0)
    made = float(images * times)
    each = [(made * meter.operations(one), made * meter.seconds(one, noise)) for one in points]
    total = [sum(values) for values in zip(*each, strict=True)]
    n = len(points)
    plan.steps.append(Step("predictions", n * images, n * made, total[0], total[1]))


def _blocks(images: int) -> list[int]:
    """Return the sizes of the blocks that the first images of a data set fill."""
    edges = {0, min(128, images), *range(256, images, 256), images}
    return [high - low for low, high in pairwise(sorted(edges))]


def _sum(one: Step, other: Step) -> Step:
    added = ("images", "passes", "operations", "seconds")
    return replace(one, **{key: getattr(one, key) + getattr(other, key) for key in added})


def add_training(
    plan: Plan,
    card: BenchmarkCard,
    data: Dataset,
    classifier: TrainableClassifier,
    seed: int,
    done: Callable[[Member], int] = lambda _member: 0,
) -> None:
    """Add the training of each of a classifier's networks, validation included.

    Epochs that a member has ``done`` are left out.
    """
    training, validation = [], []
    n_validation = min(len(data.validation), card.training.validation_examples or 10**9)
    for member in classifier.members():
        recipe = member.recipe(card.training)
        operations = member.step.operations(torch.zeros(1, *data.input_shape, device=plan.device))
        if plan.rate is not None:
            each, memory = passes(recipe) * operations / plan.rate, 0.0
        else:
            each, memory = _timed(member, recipe, card, data, seed, plan.device)
        epochs = max(0, recipe.epochs - done(member))
        images = len(data.train) * epochs
        made = passes(recipe) * images
        training.append(Step("training", images, made, made * operations, each * images))
        member.step.ready(Setting(recipe, card.threat, seed, plan.device, "float32", False))
        points = member.step.points()
        times = math.ceil(epochs / recipe.validate_every) * len(points)
        made = 2.0 * (1 + recipe.attack_steps) * n_validation * times
        work = made * operations / len({width for _, width in points})  # a step passes all widths
        seconds = work * each / max(1.0, passes(recipe) * operations)
        validation.append(Step("validation", n_validation * times, made, work, seconds))
        held = sum(split.images.numel() for split in data.splits.values()) + PROCESS
        plan.memory["training"] = max(plan.memory.get("training", 0.0), held + memory)
    plan.steps += [reduce(_sum, steps) for steps in (training, validation) if steps]
    weights = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    plan.disk["checkpoint and the training's state"] = 3.0 * weights


def _timed(
    member: Member,
    recipe: TrainingCard,
    card: BenchmarkCard,
    data: Dataset,
    seed: int,
    device: torch.device,
) -> tuple[float, float]:
    """Train for a few steps; return the seconds of an image, and the bytes beside images."""
    shape, whole = data.input_shape, min(recipe.batch_size, len(data.train))
    operations = member.step.operations(torch.zeros(1, *shape, device=device)) * passes(recipe)
    n = max(LEAST, min(whole, int(_MEASURED / max(1.0, operations))))
    fixed = {"epochs": 1, "batch_size": n, "compile": False, "memory": None}
    brief = recipe.model_copy(update=fixed | {"lr_warmup_epochs": 0.0, "selection": "last"})
    for steps in (1, 2):  # the first is to warm up
        images = torch.randint(256, (steps * n, *shape), dtype=torch.uint8, device=device)
        split = Split(images, torch.arange(steps * n, device=device) % len(data.classes))
        none = split.take(slice(0))
        trainer = Trainer(member.step, brief, card.threat, split, none, seed=seed, room=1 << 60)
        seconds = trainer.train(show=False).seconds / (steps * n)
    return seconds, trainer.cost.fixed + trainer.cost.step * whole


def page(plan: Plan, command: str, workers: int, tflops: float | None) -> Page:
    """Return the plan as a table, with what it comes to."""
    rows: list[Row] = []
    for step in plan.steps:
        row = {
            "stage": step.name,
            "images": short(step.images),
            "passes": short(round(step.passes)),
        }
        row |= {"FLOPs": f"{step.operations:.2g}", "time": duration(step.usual * step.seconds)}
        rows.append(row | {"at most": duration(step.seconds)})
    rate = sum(step.operations for step in plan.steps) / max(1e-9, plan.most)
    if not rows:
        said = ["Nothing is left to compute; the command reports what is there."]
        return Page(command, [], [f"{text}." for text in plan.notes.values()], said)
    said = [
        f"About {duration(plan.seconds)}, at most {duration(plan.most)}, on "
        f"{machine(plan.device)}, which reaches {rate / 1e12:.2g} TFLOP/s."
    ]
    if workers > 1 or tflops is not None:
        each = "like this one" if tflops is None else f"that reaches {tflops:g} TFLOP/s"
        who = f"a worker {each}" if workers == 1 else f"{workers} workers, each {each}"
        said.append(f"On {who}: about {duration(plan.shared(workers, tflops))}.")
    takes = [
        f"{what}: {', '.join(f'{short(round(size))}B for {name}' for name, size in sizes.items())}."
        for what, sizes in (("Memory", plan.memory), ("Disk", plan.disk))
        if sizes
    ]
    notes = [
        "images: times operating points or epochs. passes: forward and backward, of one image. "
        f"time: where {100 * stages.RIGHT:.0f}% of images are right and "
        f"{100 * stages.STANDING:.0f}% survive an attack's first part; at most: where all do.",
        *(f"{text}." for text in plan.notes.values()),
        *takes,
    ]
    return Page(command, [Table(rows, words=("stage",))], notes, said)


def duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
