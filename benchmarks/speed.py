"""How fast oat-bench is, side by side with what it replaces, in one process.

    python benchmarks/speed.py                    # training and PGD; writes speed.json, speed.md
    python benchmarks/speed.py --published DIR      # adds a checkout of the OAT authors' code
    python benchmarks/speed.py --only scaling       # cost against batch, width, lambda, and ranks
    python benchmarks/speed.py --only ranks         # of these, ranks alone
    python benchmarks/speed.py --only memory --size 224 --batch 16 --repeats 1   # of large images
    python benchmarks/speed.py --only evaluation --model RUN --data-dir DIR
    python benchmarks/speed.py --only autoattack --model RUN --data-dir DIR     # takes minutes

Every alternative does the same work on the same images; a bound is what the passes alone take, in
a plain network. The alternatives of a part take turns, repeat by repeat, and the ratio is taken
within a repeat, so that a machine whose speed drifts does not favour one. Medians are printed. Peak
memory is that of a process which does nothing else. AutoAttack takes minutes: each alternative runs
once, its seconds are those of the processor, and a row that --out already holds is not run again.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.distributed import TCPStore

import oat_bench  # noqa: F401  (lets torchvision and autoattack import)
from oat_bench import datasets
from oat_bench.acceleration import (
    Accelerated,
    Precision,
    autocast,
    choose_precision,
    keep_freed_memory,
    operations_per_image,
    spending,
)
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Split
from oat_bench.evaluation import cost
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.evaluation.survivors import Sample
from oat_bench.methods.oat import OAT
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.specialize import specialize
from oat_bench.results.points import summarize
from oat_bench.statistics.accuracy import Accuracy
from oat_bench.statistics.phases import Design
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.memory import room
from oat_bench.training.ranks import join

LAMBDAS = [0, 0.1, 0.2, 0.3, 0.4, 1]
THREAT = Threat(eps="8/255", step_size="2/255")
Alternatives = dict[str, Callable[[], object]]
RATIO = "times oat-bench's"


class AtLambda(nn.Module):
    """The conditional network at one lambda, as people attack it today."""

    passes = 0  #: of single images, forward and backward, by all of them in this process

    def __init__(self, network: ConditionalNetwork, lam: float) -> None:
        super().__init__()
        self.network, self.lam = network, lam

    def forward(self, x: Tensor) -> Tensor:
        """Run FiLM and batch norm anew, step by step."""
        AtLambda.passes += len(x)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._count)
        return self.network(x, self.lam)

    def _count(self, gradient: Tensor) -> None:
        AtLambda.passes += len(gradient)


def make_network(
    args: argparse.Namespace, lambdas: Sequence[float] = LAMBDAS
) -> ConditionalNetwork:
    """Build the network; FiLM and statistics are drawn, so that nothing is the identity."""
    network = ConditionalNetwork(
        NetworkCard(architecture=args.architecture), 10, 3, trained_lambdas=list(lambdas)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "film" in name or "bn_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        network.train()
        for lam in (0.0, lambdas[-1]):
            network(torch.rand(64, 3, args.size, args.size, generator=generator), lam)
    return network.eval().to(args.device)


def make_images(args: argparse.Namespace, n: int) -> Tensor:
    """Draw images: speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, args.size, args.size, generator=generator).to(args.device)


def training(args: argparse.Namespace) -> Alternatives:
    """One optimiser step on a batch: PGD-7 at each image's lambda, then the update."""
    images = (255 * make_images(args, args.batch)).to(torch.uint8)
    labels = torch.arange(args.batch, device=args.device) % 10
    data = Split(images, labels)

    def step(**card: object) -> Callable[[], object]:
        trainer = Trainer(
            ConditionalStep(make_network(args)),
            TrainingCard(epochs=1, lr=0.01, batch_size=args.batch, lambdas=LAMBDAS, **card),
            THREAT,
            data,
            data.take(torch.arange(0)),
        )
        if card.get("order") == "published":
            trainer.step.network.to(memory_format=torch.contiguous_format)
        return lambda: trainer._step(torch.arange(args.batch))

    alternatives = {
        "oat-bench": step(precision="auto", compile=args.compile),
        "oat-bench, one loss an image": step(
            precision="auto", compile=args.compile, loss_sampling="one"
        ),
        "oat-bench, float32, not compiled": step(precision="float32", compile=False),
        "published order, float32": step(order="published", precision="float32", compile=False),
    }
    if args.published:
        alternatives["the authors' code"] = authors_step(args)
    alternatives["bound: the passes alone, plain network"] = training_bound(args)
    return alternatives


def oats(args: argparse.Namespace) -> Alternatives:
    """One optimiser step of OAT, of OATS, and of a dedicated network for each width.

    The FLOPs of OATS over OAT's are in its name; what it costs beside the dedicated networks
    together is what slimming itself costs.
    """
    data = Split(
        (255 * make_images(args, args.batch)).to(torch.uint8), torch.arange(args.batch) % 10
    )
    data = data.to(args.device)
    card = TrainingCard(
        epochs=1, lr=0.01, batch_size=args.batch, lambdas=LAMBDAS, compile=args.compile
    )

    def step(widths: list[float]) -> Callable[[], object]:
        network_card = NetworkCard(architecture=args.architecture, widths=widths)
        network = ConditionalNetwork(network_card, 10, 3, LAMBDAS).to(args.device)
        trainer = Trainer(ConditionalStep(network), card, THREAT, data, data.take(torch.arange(0)))
        return lambda: trainer._step(torch.arange(args.batch))

    network_card = NetworkCard(architecture=args.architecture, widths=args.widths)
    network = ConditionalNetwork(network_card, 10, 3, trained_lambdas=[1])
    image = make_images(args, 1).cpu()
    flops = [operations_per_image(specialize(network, 1, width), image) for width in args.widths]
    named = ", ".join(f"{width:g}" for width in args.widths)
    dedicated = [step([width]) for width in args.widths]
    return {
        "OAT": step([1]),
        f"OATS, widths {named}: {sum(flops) / flops[0]:.2f} times the FLOPs": step(args.widths),
        "OAT, a dedicated network for each width": lambda: [run() for run in dedicated],
    }


def training_bound(args: argparse.Namespace) -> Callable[[], object]:
    """The passes of a step, and nothing else, in the precision that auto chooses.

    Seven times forward and backward to the images that are attacked, once forward and backward to
    the weights for clean and attacked images together; one plain network, no attack, no update.
    """
    x = make_images(args, args.batch).contiguous(memory_format=torch.channels_last)
    precision = choose_precision("auto", args.device, x[0].numel())
    plain = specialize(make_network(args), 0.1).to(memory_format=torch.channels_last)
    trained = copy.deepcopy(plain).requires_grad_()
    attacked = x[: args.batch - math.ceil(args.batch / len(LAMBDAS))]
    both = torch.cat([x, attacked])

    def step() -> None:
        for _ in range(7):
            images = attacked.detach().requires_grad_()
            with autocast(args.device, precision):
                logits = plain(images)
            torch.autograd.grad(logits.float().logsumexp(1).sum(), images)
        with autocast(args.device, precision):
            logits = trained(both)
        logits.float().logsumexp(1).sum().backward()
        trained.zero_grad()

    return step


def scaling(args: argparse.Namespace) -> Alternatives:
    """One optimiser step at other batch sizes, widths and numbers of lambda; the first is usual."""

    def step(batch: int, architecture: str, n_lambdas: int) -> Callable[[], object]:
        other = argparse.Namespace(**(vars(args) | {"batch": batch, "architecture": architecture}))
        lambdas = LAMBDAS if n_lambdas == 6 else [k / n_lambdas for k in range(n_lambdas)]
        data = Split(
            (255 * make_images(other, batch)).to(torch.uint8),
            (torch.arange(batch) % 10).to(args.device),
        )
        card = TrainingCard(
            epochs=1, lr=0.01, batch_size=batch, lambdas=lambdas, compile=args.compile
        )
        trainer = Trainer(
            ConditionalStep(make_network(other, lambdas)),
            card,
            THREAT,
            data,
            data.take(torch.arange(0)),
        )
        return lambda: trainer._step(torch.arange(batch))

    batch, architecture = args.batch, args.architecture
    family, depth, widen = architecture.split("-")
    cases = [(batch, architecture, 6)]
    cases += [(size, architecture, 6) for size in (batch // 4, batch // 2, 2 * batch)]
    cases += [(batch, f"{family}-{depth}-{factor * int(widen)}", 6) for factor in (2, 4)]
    cases += [(batch, architecture, count) for count in (2, 32, 128)]
    alone = {
        f"batch {size}, {name}, {count} lambda": step(size, name, count)
        for size, name, count in cases
    }
    return alone | ranks(args)


def ranks(args: argparse.Namespace) -> Alternatives:
    """The usual step by one rank with one thread, and with two, and by two with one each."""
    cases = {"1 rank of 1 thread": (1, 1), "1 rank of 2 threads": (1, 2)}
    cases |= {"2 ranks of 1 thread": (2, 1)}
    norm = "2 ranks of 1 thread, batch norm per rank"
    shared = {name: Together(args, *how) for name, how in cases.items()}
    return shared | {norm: Together(args, 2, 1, batch_norm="per-rank")}


class Together:
    """A step that processes of their own share; they start with the first, and wait between."""

    def __init__(self, args: argparse.Namespace, size: int, threads: int, **card: object) -> None:
        self.given = (args, size, threads, card)
        self.pipes: list[Connection] = []

    def start(self) -> None:
        """Start the processes, and wait until all are ready."""
        context = multiprocessing.get_context("spawn")
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(self.given[1]):
            ours, theirs = context.Pipe()
            values = (rank, self.store.port, theirs, *self.given)
            context.Process(target=steps_of_rank, args=values, daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self) -> None:
        """Take a step."""
        if not self.pipes:
            self.start()
        for pipe in self.pipes:
            pipe.send(None)
        for pipe in self.pipes:
            pipe.recv()


def steps_of_rank(
    rank: int,
    port: int,
    pipe: Connection,
    args: argparse.Namespace,
    size: int,
    threads: int,
    card: dict[str, object],
) -> None:
    """In a process of its own, as of torchrun: take a step whenever the pipe says so."""
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given |= {"TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in given.items()})
    torch.set_num_threads(threads)
    keep_freed_memory()
    images = (255 * make_images(args, args.batch)).to(torch.uint8)
    data = Split(images, (torch.arange(args.batch) % 10).to(args.device))
    trainer = Trainer(
        ConditionalStep(make_network(args)),
        TrainingCard(epochs=1, lr=0.01, batch_size=args.batch, lambdas=LAMBDAS, **card),
        THREAT,
        data,
        data.take(torch.arange(0)),
        ranks=join(args.device),
    )
    trainer._settle_split()
    pipe.send(None)
    with contextlib.suppress(EOFError):  # the other end is closed: all is timed
        while True:
            pipe.recv()
            trainer._step(torch.arange(args.batch))
            pipe.send(None)


def memory(args: argparse.Namespace) -> Alternatives:
    """One optimiser step: whole, in the micro-batches that fit into a bound, and with stems."""
    images = (255 * make_images(args, args.batch)).to(torch.uint8)
    data = Split(images, (torch.arange(args.batch) % 10).to(args.device))

    def step(stem: str, bound: str | None) -> tuple[str, Callable[[], object]]:
        other = argparse.Namespace(**(vars(args) | {"architecture": args.architecture + stem}))
        values = {"epochs": 1, "lr": 0.01, "batch_size": args.batch, "lambdas": LAMBDAS}
        card = TrainingCard(**values, compile=args.compile, memory=bound)
        trainer = Trainer(
            ConditionalStep(make_network(other)),
            card,
            THREAT,
            data,
            data.take(torch.arange(0)),
            room=room(card, args.device, data) if bound else None,
        )
        trainer._settle_split()
        at_once = trainer.progress.micro_batch or args.batch
        name = f"{other.architecture}, {at_once} of {args.batch} images at once"
        named = f"{name}, memory = {bound}" if bound else name
        return named, lambda: trainer._step(torch.arange(args.batch))

    bounds = {"": (None, "4GiB"), "-stride2": (None,), "-stem7": (None, "1GiB")}
    return dict(step(stem, bound) for stem, several in bounds.items() for bound in several)


def authors_step(args: argparse.Namespace) -> Callable[[], object]:
    """The step of a checkout of the authors' code (OAT.py); without a GPU, .cuda() does nothing.

    Their network of the same depth and width is built from their own modules.
    """
    sys.path.insert(0, str(args.published))
    if args.device.type == "cpu":
        Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    import numpy as np

    np.Inf = np.inf  # their code was written for an older numpy
    with contextlib.redirect_stdout(io.StringIO()):
        from attacks.pgd import PGD
        from models.svhn.wide_resnet_OAT import WideResNetOAT
        from utils.context import ctx_noparamgrad_and_eval
        from utils.sample_lambda import element_wise_sample_lambda

    _, depth, widen = args.architecture.split("-")
    model = WideResNetOAT(int(depth), 10, int(widen), FiLM_in_channels=128, use2BN=True)
    model = model.to(args.device).train()
    matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))
    attacker = PGD(eps=8 / 255, steps=7, use_FiLM=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x = make_images(args, args.batch)
    y = torch.arange(args.batch, device=args.device) % 10

    def step() -> float:
        flat, lam, zeros = element_wise_sample_lambda("disc", LAMBDAS, matrix, args.batch)
        flat, lam = flat.to(args.device), lam.to(args.device)
        losses = nn.functional.cross_entropy(model(x, lam, zeros), y, reduction="none")
        with ctx_noparamgrad_and_eval(model):
            x_adv = attacker.attack(
                model, x[zeros:], labels=y[zeros:], _lambda=lam[zeros:], idx2BN=0
            )
        attacked = model(x_adv.detach(), lam[zeros:], idx2BN=0)
        adversarial = nn.functional.cross_entropy(attacked, y[zeros:], reduction="none")
        adversarial = torch.cat([torch.zeros(zeros, device=x.device), adversarial])
        loss = torch.mean((1 - flat) * losses + flat * adversarial)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def pgd(args: argparse.Namespace, steps: int) -> Alternatives:
    """PGD at lambda 0.1 on a batch."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    network = make_network(args)
    x = make_images(args, args.batch)
    conditional = AtLambda(network, 0.1).eval().to(args.device)
    y = conditional(x).argmax(1)
    plain = specialize(network, 0.1)
    ready = prepare(attack_card(f"pgd-{steps}"), THREAT, n_classes=10, seed=0)
    ids = torch.arange(args.batch, device=args.device)
    fast = Accelerated(plain, compile_it=args.compile)
    rough = Accelerated(plain, precision="bf16", compile_it=args.compile)
    theirs = torchattacks.PGD(conditional, eps=8 / 255, alpha=2 / 255, steps=steps)
    estimator = PyTorchClassifier(
        conditional,
        nn.CrossEntropyLoss(),
        (3, args.size, args.size),
        10,
        clip_values=(0, 1),
        device_type="cpu" if args.device.type == "cpu" else "gpu",
    )
    art = ProjectedGradientDescentPyTorch(
        estimator,
        eps=8 / 255,
        eps_step=2 / 255,
        max_iter=steps,
        num_random_init=1,
        verbose=False,
        batch_size=args.batch,
    )
    images, labels = x.cpu().numpy(), y.cpu().numpy()
    bound = foolbox.PyTorchModel(conditional, bounds=(0, 1), device=args.device)
    fool = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=steps)
    return {
        "oat-bench": lambda: ready(fast, x, y, ids),
        "oat-bench, attack in bfloat16": lambda: ready(rough, x, y, ids),
        "torchattacks": lambda: theirs(x, y),
        "ART": lambda: art.generate(x=images, y=labels),
        "foolbox": lambda: fool(bound, x, y, epsilons=[8 / 255]),
    }


def of_model(part: str, n_examples: int, args: argparse.Namespace) -> tuple[OAT, Split]:
    """Load ``--model`` and the first test images of its data set, in nested order."""
    if args.model is None:
        raise SystemExit(f"speed.py: the part {part} needs --model, a checkpoint of method oat")
    classifier = load(args.model, args.device)
    assert isinstance(classifier, OAT)
    test = datasets.load(classifier.info.dataset, args.data_dir).test
    return classifier, test.take(datasets.nested_order(test.labels)[:n_examples]).to(args.device)


def robust_table(
    classifier: OAT,
    data: Split,
    names: Sequence[str],
    gradients: Precision,
    args: argparse.Namespace,
    sampled: int = 0,
) -> Callable[[], None]:
    """Return oat-bench's evaluation: the robust accuracies at six lambda under the last attack.

    It attacks all images, or at each lambda so many of those that the other attacks leave standing.
    """
    info = classifier.info
    given = {"n_classes": info.num_classes, "seed": 0}
    attacks = [prepare(attack_card(name), info.threat, **given) for name in names]
    *first, last = (attack.label for attack in attacks)
    samples = {last: Sample(first, sampled)} if sampled else {}
    design = Design(after={label: sample.after for label, sample in samples.items()})

    def run() -> None:
        options = {"gradients": gradients, "compile_it": args.compile, "samples": samples}
        subject = Subject(classifier, data, "", **options)
        frame = evaluate(subject, [OperatingPoint(lam) for lam in LAMBDAS], attacks, show=False)
        points = summarize(frame, design)
        report(f"oat-bench, {gradients}", [point.robust[last] for point in points])

    return run


def by_hand(
    classifier: OAT, data: Split, name: str, attacked: Callable[[nn.Module], Tensor]
) -> Callable[[], None]:
    """Return what people write today: a loop over lambda on the conditional network."""
    models = [AtLambda(classifier.network, lam).eval() for lam in LAMBDAS]

    def run() -> None:
        right = [int((m(attacked(m)).argmax(1) == data.labels).sum()) for m in models]
        report(name, [Accuracy.counted(hits, len(data)) for hits in right])

    return run


def report(name: str, robust: Sequence[Accuracy]) -> None:
    """Print the robust accuracies that an alternative found, with their intervals."""
    print(f"{name}: RA {', '.join(map(format, robust))}", file=sys.stderr, flush=True)


def evaluation(args: argparse.Namespace) -> Alternatives:
    """PGD-20: the robust accuracies at six lambda, of as many test images as `--evaluated` says.

    What is wrong already is not attacked here; the loop over torchattacks attacks every image.
    """
    import torchattacks

    classifier, data = of_model("evaluation", args.evaluated, args)
    x, labels, threat = data.inputs(), data.labels, classifier.info.threat

    def attacked(model: nn.Module) -> Tensor:
        adversary = torchattacks.PGD(model, eps=threat.eps, alpha=threat.step_size, steps=20)
        pairs = zip(x.split(args.batch), labels.split(args.batch), strict=True)
        return torch.cat([adversary(images, targets) for images, targets in pairs])

    return {
        "oat-bench": robust_table(classifier, data, ["pgd-20"], "float32", args),
        "oat-bench, attacks in bfloat16": robust_table(classifier, data, ["pgd-20"], "bf16", args),
        "torchattacks": by_hand(classifier, data, "torchattacks", attacked),
    }


def autoattack(args: argparse.Namespace) -> Alternatives:
    """AutoAttack, standard: robust accuracies at six lambda, of as many test images as asked for.

    `--model` is attacked, a trained one: of an untrained network all images fall or all stand. The
    last alternative attacks other images, `--two-phase`: what APGD-CE leaves of many is sampled.
    """
    import pyautoattack
    import torchattacks

    classifier, data = of_model("autoattack", args.autoattack, args)
    n, sampled = args.two_phase
    _, more = of_model("autoattack", n, args)
    x, labels, eps = data.inputs(), data.labels, classifier.info.threat.eps
    n_classes = classifier.info.num_classes
    ready = prepare(attack_card("autoattack"), classifier.info.threat, n_classes=n_classes, seed=0)

    def with_torchattacks(model: nn.Module) -> Tensor:
        # its own AutoAttack makes 10 iterations; these are the attacks and numbers of the card
        parts = [getattr(torchattacks, r.class_)(model, **r.parameters) for r in ready.chain]
        return torchattacks.MultiAttack(parts)(x, labels)

    def with_pyautoattack(model: nn.Module) -> Tensor:
        adversary = pyautoattack.AutoAttack(model, eps=eps, seed=0, device=args.device)
        return adversary.run_standard_evaluation(x, labels, batch_size=len(x))[0]

    return {
        "oat-bench": robust_table(classifier, data, ["autoattack"], "float32", args),
        "oat-bench, attacks in bfloat16": robust_table(
            classifier, data, ["autoattack"], "bf16", args
        ),
        "torchattacks": by_hand(classifier, data, "torchattacks", with_torchattacks),
        "pyautoattack": by_hand(classifier, data, "pyautoattack", with_pyautoattack),
        f"oat-bench, bfloat16, {sampled} survivors of {n}": robust_table(
            classifier, more, ["apgd-ce", "autoattack"], "bf16", args, sampled
        ),
    }


def in_turns(alternatives: Alternatives, repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Time each alternative in turn, repeat by repeat, after rounds that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for repeat in range(-warm_up, repeats):
        for name, run in alternatives.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def resident(field: str) -> float:
    """Return this process's resident memory in MiB: VmRSS, now, or VmHWM, its peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def measure(part: str, name: str, args: argparse.Namespace, pipe: Connection) -> None:
    """In a process of its own: run one alternative, send by how many MiB it grew, and its cost.

    The cost is seconds, on a CPU those of the process alone, and passes of single images.
    """
    torch.set_num_threads(args.threads)
    run = PARTS[part](args)[name]
    cuda = args.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (man 5 proc)
    clock = time.perf_counter if cuda else time.process_time
    with spending() as spent:
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        seconds = clock() - start
    grown = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident("VmHWM") - before
    pipe.send((grown, seconds, AtLambda.passes + spent.forward + spent.backward))


def alone(part: str, name: str, args: argparse.Namespace) -> tuple[float, float, int]:
    """Start `measure` and wait for its answer."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(part, name, args, send))
    process.start()
    send.close()  # or a process that dies would be waited for
    found: tuple[float, float, int] = receive.recv()
    process.join()
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Alternatives]] = {
    "training": training,
    "oats": oats,
    "scaling": scaling,
    "ranks": ranks,
    "memory": memory,
    "pgd-7": lambda args: pgd(args, 7),
    "pgd-20": lambda args: pgd(args, 20),
    "evaluation": evaluation,
    "autoattack": autoattack,
}


def machine(args: argparse.Namespace) -> str:
    """Name the processor or the GPU, and what a processor multiplies bfloat16 with."""
    flags = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX-512 BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    having = [name for name, has in flags.items() if has and args.device.type == "cpu"]
    return ", ".join([cost.machine(args.device), *having])


def described(part: str, args: argparse.Namespace) -> str:
    """Name a part; two have a network of their own."""
    images = {"autoattack": args.autoattack, "evaluation": args.evaluated}
    if part not in images:
        return part
    network = load(args.model).info.network.architecture
    return f"{part}: {network}, {images[part]} images, {len(LAMBDAS)} lambda"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="wrn-16-2")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--autoattack", type=int, default=32, help="images for AutoAttack")
    parser.add_argument(
        "--two-phase",
        type=int,
        nargs=2,
        default=[1000, 16],
        metavar=("N", "M"),
        help="M survivors of N images, in the part autoattack",
    )
    parser.add_argument("--evaluated", type=int, default=256, help="images for evaluation")
    parser.add_argument("--model", type=Path, help="checkpoint for autoattack and evaluation")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="its data set")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="training,pgd-7,pgd-20", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--widths",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[1, 0.75, 0.5],
        help="of the part oats, widest first",
    )
    parser.add_argument("--compile", action="store_true", help="compile oat-bench's side")
    parser.add_argument("--published", type=Path, help="a checkout of the OAT authors' code")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("speed"), help="without ending")
    args = parser.parse_args()
    args.device = torch.device(args.device)
    return args


def rows_of(part: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the alternatives of a part, the first of them what the others are compared with."""
    alternatives = PARTS[part](args)
    what = {"part": described(part, args)}
    if part == "autoattack":
        first = 0.0
        for name in alternatives:
            named = what | {"what": name}
            known = [row for row in args.earlier if named.items() <= row.items()]
            if not known:
                grown, seconds, passes = alone(part, name, args)
                ratio = {RATIO: round(seconds / (first or seconds), 2)}
                cost = {"seconds": round(seconds, 1)} | ratio | {"passes": passes}
                known = [named | cost | {"peak memory, MiB": round(grown)}]
            first = first or known[0]["seconds"]
            yield known[0]
        return
    times_of = in_turns(alternatives, args.repeats, int(part != "memory"))
    reference = next(iter(times_of.values()))
    for name, times in times_of.items():
        ratios = [b / a for a, b in zip(reference, times, strict=True)]
        # ranks are processes of their own
        grown = None if " rank" in name else round(alone(part, name, args)[0])
        yield what | {
            "what": name,
            "seconds": round(statistics.median(times), 3),
            RATIO: round(statistics.median(ratios), 2),
            "peak memory, MiB": grown,
            "all seconds": [round(t, 4) for t in times],
        }


def main() -> None:
    """Measure, print and write, row by row."""
    args = parse()
    torch.set_num_threads(args.threads)
    title = f"{args.architecture}, {args.size}x{args.size}, batch {args.batch}, {machine(args)}"
    about = {"machine": machine(args), "torch": str(torch.__version__), "title": title}
    about |= {"threads": args.threads, "model": str(args.model)}
    out, rows = args.out.with_suffix(".json"), []
    earlier = json.loads(out.read_text()) if out.exists() else {}
    args.earlier = earlier["rows"] if about.items() <= earlier.items() else []
    for part in args.only.split(","):
        for row in rows_of(part, args):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
            out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")
    table = pd.DataFrame(rows).drop(columns="all seconds", errors="ignore").to_markdown(index=False)
    text = f"**{title}**\n\n{table}\n"
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
