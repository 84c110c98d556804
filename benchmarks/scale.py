"""How an evaluation scales over workers: measured at one and two, simulated at more.

    python benchmarks/scale.py                  # minutes; prints what docs/scale.md quotes

A unit of work is a block of images under an attack at an operating point, as in ``--shard``. Each
is timed in CPU seconds of a process with one thread, so that other work on the machine counts
little. The scheduler is simulated with these times: first at two workers, against two real ones,
then on grids too large to run, whose units take the measured seconds of a pass and an operation.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from dataclasses import dataclass

import torch

from oat_bench import datasets, zoo
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import stages
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.planning import Meter, makespan

Unit = tuple[float, str, int]  # lambda, attack, number of the block
Measured = tuple[float, float, list[tuple[Unit, float]]]  # CPU s and s of a start-up, CPU s each
LAMBDAS, ATTACKS, BLOCKS = (0.0, 0.2, 1.0), ("pgd-20", "apgd", "square"), 2
QUERIES = 500  # of Square, which makes ten times as many in AutoAttack
WORKERS = (1, 8, 64, 512)


def worker(model: str, units: list[Unit], out: multiprocessing.Queue, began: float) -> None:
    """Compute units; say how long it took to begin, and the CPU seconds of each."""
    torch.set_num_threads(1)
    subject, attacks = prepared(model)
    start_up = time.process_time()
    wall, found = time.time() - began, []
    for lam, name, block in units:
        ids = subject.blocks.split(subject.ids)[block]
        part = Subject(subject.classifier, subject.data, "", ids, compile_it=False)
        before = time.process_time()
        evaluate(part, [OperatingPoint(lam)], [attacks[name]], show=False)
        found.append(((lam, name, block), time.process_time() - before))
    out.put((start_up, wall, found))


def prepared(model: str) -> tuple[Subject, dict[str, Attack]]:
    """Load the model and its data, and make the attacks ready."""
    classifier = zoo.load(model, torch.device("cpu"))
    data = datasets.load(classifier.info.dataset).test
    first = datasets.nested_order(data.labels)[: 128 * BLOCKS]
    attacks = {}
    for name in ATTACKS:
        card = attack_card(name)
        if name == "square":
            own = card.parameters | {"n_queries": QUERIES}
            card = card.model_copy(update={"parameters": own})
        attacks[name] = prepare(card, classifier.info.threat, n_classes=10, seed=0)
    return Subject(classifier, data, "", first, compile_it=False), attacks


def measured(model: str, shares: list[list[Unit]]) -> list[Measured]:
    """Compute shares side by side; return start-ups and CPU seconds, and each unit's."""
    context = multiprocessing.get_context("spawn")
    out, began = context.Queue(), time.time()
    processes = [context.Process(target=worker, args=(model, s, out, began)) for s in shares]
    for process in processes:
        process.start()
    results = [out.get() for _ in processes]
    for process in processes:
        process.join()
    return results


def greedy(seconds: dict[Unit, float], workers: int) -> list[list[Unit]]:
    """Share units out, the longest first, each to who has the least."""
    loads, shares = [0.0] * workers, [list[Unit]() for _ in range(workers)]
    for unit in sorted(seconds, key=lambda one: -seconds[one]):
        least = loads.index(min(loads))
        loads[least] += seconds[unit]
        shares[least].append(unit)
    return shares


@dataclass(frozen=True)
class Grid:
    """An evaluation that is too large to run here."""

    name: str
    models: int  # networks, each at some points
    points: int
    operations: float  # of a forward pass of an image
    images: int

    def units(self, rate: float, spread: list[float], block: int, split: bool) -> list[float]:
        """Return the seconds of each unit: its passes, at a rate, times a measured deviation."""
        draw, found = random.Random(0), []
        attacks = [attack_card(n) for n in ("fgsm", "mi-fgsm", "pgd-7", "pgd-20", "autoattack")]
        info = zoo.load("leaderboards/digits/Linf/oat-wrn-10-1.safetensors").info
        for card in attacks:
            attack = prepare(card, info.threat, n_classes=10, seed=0)
            each = [
                stages.usual(part) * (part.passes.total + 1) * self.operations / rate
                for part in attack.parts()
            ]
            for cost in each if split else [sum(each)]:
                for _ in range(self.models * self.points * -(-self.images // block)):
                    found.append(cost * block * draw.choice(spread))
        return found


#: five methods on three data sets, WRN-16-8 (STL-10: WRN-40-2 at 96x96); six lambda values and
#: three widths; a ResNet-50 at 224x224 on the 50,000 images that ImageNet is validated on
GRIDS = (
    Grid("the paper's grid, 10,000 images", 15, 18, 3.1e9, 10_000),
    Grid("ResNet-50, ImageNet, 5,000 images", 1, 6, 8.2e9, 5_000),
    Grid("ResNet-50, ImageNet, 50,000 images", 1, 6, 8.2e9, 50_000),
)


def main() -> None:
    """Measure, fit, simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="leaderboards/fashion-12x12/Linf/oat-wrn-10-1")
    parser.add_argument(
        "--tflops", type=float, default=20.0, help="of a worker, in the large grids"
    )
    args = parser.parse_args()
    model = args.model if args.model.endswith(".safetensors") else f"{args.model}.safetensors"
    units = [(lam, name, b) for lam in LAMBDAS for name in ATTACKS for b in range(BLOCKS)]
    ((start_up, wall, found),) = measured(model, [units])
    alone = dict(found)
    print(f"start-up of a worker: {start_up:.1f} CPU s, {wall:.1f} s; units: {len(units)}")
    shares = greedy(alone, 2)
    both = measured(model, shares)
    ends = [sum(seconds for _, seconds in found) for _, _, found in both]
    whole, simulated = sum(alone.values()), makespan(alone.values(), 2)
    print(f"one worker {whole:.1f} CPU s; two {max(ends):.1f}, simulated {simulated:.1f};")
    print(f"efficiency at two: {100 * whole / (2 * max(ends)):.0f}%")

    subject, attacks = prepared(model)
    torch.set_num_threads(1)
    meter = Meter(subject)
    made = {
        unit: sum(
            meter.seconds(OperatingPoint(unit[0]), part) * (part.passes.total + 1) * 128
            for part in attacks[unit[1]].parts()
        )
        for unit in units
    }
    shared = {unit: alone[unit] / made[unit] for unit in units}
    for name in ATTACKS:
        some = [shared[unit] for unit in units if unit[1] == name]
        print(f"{name}: {min(some):.2f} to {max(some):.2f} of the most that plan says")
    right = [shared[unit] for unit in units if unit[1] == "pgd-20"]
    spread = [value / statistics.mean(right) for value in right]

    rate = 1e12 * args.tflops
    print(f"\nworkers of {args.tflops:g} TFLOP/s, start-up {wall:.0f} s; hours, and efficiency")
    print("| grid | units | longest, s | " + " | ".join(map(str, WORKERS)) + " |")
    print("|:--|--:|--:|" + "--:|" * len(WORKERS))
    for grid in GRIDS:
        for split in (False, True):
            seconds = grid.units(rate, spread, 256, split)
            cells, total = [], sum(seconds)
            for workers in WORKERS:
                ends_at = makespan(seconds, workers) + wall
                share = 100 * total / (workers * ends_at)
                cells.append(f"{ends_at / 3600:.2f} h, {share:.0f}%")
            name = f"{grid.name}, parts apart" if split else grid.name
            print(f"| {name} | {len(seconds)} | {max(seconds):.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
