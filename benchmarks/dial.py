r"""Variants of a dial at equal cost: hypervolume, largest gap and range, as docs/dial.md has them.

    python benchmarks/dial.py --data-dir DIR --method weight-line --set training.epochs=4 NAME

trains by a card (``--benchmark``), attacks at even turns of the dial, and appends a line to
``results.jsonl`` in ``--out``. ``--constant module:NAME=VALUE`` changes a constant of the package.
"""

import argparse
import ast
import json
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from oat_bench import datasets
from oat_bench.acceleration import Accelerated, keep_freed_memory
from oat_bench.benchmark import benchmark_card
from oat_bench.datasets import Split
from oat_bench.run import train
from oat_bench.statistics.frontier import hypervolume
from oat_bench.training.pgd import pgd


def shrunk(split: Split, size: int) -> Split:
    """Return a split of smaller images, each pixel a mean."""
    means = F.adaptive_avg_pool2d(split.images.float(), size)
    return Split(means.round().to(torch.uint8), split.labels, split.levels)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--benchmark", default="cifar10-small")
    parser.add_argument("--method", default="weight-line")
    parser.add_argument("--dataset")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of cards")
    parser.add_argument("--constant", action="append", default=[], metavar="MODULE:NAME=VALUE")
    parser.add_argument("--size", type=int, help="shrink images to so many pixels, by means")
    parser.add_argument("--images", type=int, help="training images; all if left out")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--turns", default=",".join(f"{k / 10:g}" for k in range(11)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/dial"))
    return parser.parse_args()


def main() -> None:
    """Train, attack, write one line."""
    args = parse()
    keep_freed_memory()
    for text in args.constant:
        where, _, value = text.partition("=")
        module, _, name = where.partition(":")
        setattr(import_module(module), name, ast.literal_eval(value))
    card = benchmark_card(args.benchmark)
    if args.dataset:
        card = card.for_folder(args.dataset, named=True)
    if args.method != "oat":
        card = card.with_method(args.method)
    card = card.with_changes(dict(pair.split("=", 1) for pair in args.set))
    data = datasets.load(card.dataset, args.data_dir, image_size=card.image_size)
    if args.images:
        data = replace(
            data, train=data.train.take(datasets.nested_order(data.train.labels)[: args.images])
        )
    if args.size:
        data = replace(data, **{k: shrunk(split, args.size) for k, split in data.splits.items()})
    out = args.out / f"{args.name}-seed{args.seed}"
    began = time.monotonic()
    model = train(card, data, out, seed=args.seed, device=torch.device("cpu"))
    seconds = time.monotonic() - began
    test = data.test.take(datasets.nested_order(data.test.labels)[: args.test_images])
    ids, right = torch.arange(len(test)), []
    lambdas = [float(text) for text in args.turns.split(",")]
    for lam in lambdas:
        plain = Accelerated(model.at(lam), precision="bf16")
        exact = Accelerated(model.at(lam))
        found = []
        for some in ids.split(500):
            x, y, threat = test.inputs(some), test.labels[some], card.threat
            how = {"eps": threat.eps, "step_size": threat.step_size, "norm": threat.norm}
            x_adv = pgd(plain, x, y, steps=20, example_ids=some, seed=0, **how)
            with torch.no_grad():
                clean, attacked = (exact(z).argmax(1) == y for z in (x, x_adv))
            found.append(torch.stack([clean, clean & attacked]))
        right.append(torch.cat(found, 1).numpy())
    np.savez_compressed(out / "right.npz", right=np.array(right), lambdas=lambdas)
    points = 100 * np.array(right).mean(2)
    ordered = points[points[:, 1].argsort()]
    line = {
        "name": args.name,
        "seed": args.seed,
        "hypervolume": round(float(hypervolume(points)), 2),
        "gap": round(float(np.diff(ordered[:, 1]).max()), 1),
        "points": [f"{sa:.1f}/{ra:.1f}" for sa, ra in points],
        "places": [round(model.place(lam), 3) for lam in lambdas]
        if hasattr(model, "place")
        else [],
        "seconds": round(seconds),
        "set": args.set,
        "constant": args.constant,
        "method": args.method,
    }
    with (args.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
