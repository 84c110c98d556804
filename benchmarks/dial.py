r"""Dials at equal cost: hypervolume, largest gap and ends, as docs/dial.md has them.

    python benchmarks/dial.py --data-dir DIR --method oat-dial --set training.epochs=7 NAME
    python benchmarks/dial.py oat,NAME --table

The first trains by a card (``--benchmark``), attacks at ``--turns`` of lambda by PGD-20, and keeps
what is right in ``--out``. The second compares what is there, seeds averaged, with the first name.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from time_to_frontier import shrunk

from oat_bench import datasets
from oat_bench.acceleration import Accelerated, keep_freed_memory
from oat_bench.benchmark import benchmark_card
from oat_bench.run import train
from oat_bench.statistics.frontier import bootstrapped, hypervolume
from oat_bench.training.pgd import pgd


def measure(args: argparse.Namespace) -> None:
    """Train and attack; keep of each turn and image whether it is right, clean and attacked."""
    keep_freed_memory()
    card = benchmark_card(args.benchmark)
    if args.dataset:
        card = card.for_folder(args.dataset, named=True)
    card = card.with_method(args.method)
    card = card.with_changes(dict(pair.split("=", 1) for pair in args.set))
    data = datasets.load(card.dataset, args.data_dir, image_size=card.image_size)
    if args.images:
        chosen = datasets.nested_order(data.train.labels)[: args.images]
        data = replace(data, train=data.train.take(chosen))
    if args.size:
        data = replace(data, **{k: shrunk(split, args.size) for k, split in data.splits.items()})
    out = args.out / f"{args.names}-seed{args.seed}"
    model = train(card, data, out, seed=args.seed, device=torch.device("cpu"))
    test = data.test.take(datasets.nested_order(data.test.labels)[: args.test_images])
    threat, right = card.threat, []
    how = {"eps": threat.eps, "step_size": threat.step_size, "norm": threat.norm}
    for lam in args.turns:
        attacked, exact = (
            Accelerated(model.at(lam), precision=form) for form in ("bf16", "float32")
        )
        found = []
        for ids in torch.arange(len(test)).split(500):
            x, y = test.inputs(ids), test.labels[ids]
            x_adv = pgd(attacked, x, y, steps=20, example_ids=ids, **how)
            with torch.no_grad():
                clean, robust = (exact(images).argmax(1) == y for images in (x, x_adv))
            found.append(torch.stack([clean, clean & robust]))
        right.append(torch.cat(found, 1).numpy())
    np.savez_compressed(out / "right.npz", right=np.array(right), lambdas=args.turns)


def table(names: list[str], out: Path) -> pd.DataFrame:
    """Compare what was measured; intervals are over test images, which are paired."""
    measured = {
        name: [np.load(path)["right"] for path in sorted(out.glob(f"{name}-seed*/right.npz"))]
        for name in names
    }
    first = measured[names[0]]

    def mean(of: list[np.ndarray], index: np.ndarray) -> float:
        return float(np.mean([hypervolume(100 * one[:, :, index].mean(2)) for one in of]))

    def less_first(of: list[np.ndarray], index: np.ndarray) -> float:
        return mean(of, index) - mean(first, index)

    rows = []
    for name, of in measured.items():
        images = np.arange(of[0].shape[2])
        points = np.mean([100 * one.mean(2) for one in of], axis=0)
        found = bootstrapped(partial(less_first, of), [images], (-100.0, 100.0))
        rows.append(
            {
                "dial": name,
                "seeds": len(of),
                "HV": f"{mean(of, images):.2f}",
                "less the first's": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
                "largest gap in RA": f"{np.diff(np.sort(points[:, 1])).max():.1f}",
                "SA/RA": ", ".join(f"{sa:.1f}/{ra:.1f}" for sa, ra in points),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure one, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", help="of what is measured; with --table several, with commas")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--benchmark", default="cifar10-small")
    parser.add_argument("--method", default="oat-dial")
    parser.add_argument("--dataset", help="a folder of images; the card's if left out")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of cards")
    parser.add_argument("--size", type=int, help="shrink images to so many pixels, by means")
    parser.add_argument("--images", type=int, help="training images; all if left out")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--turns", default="0,0.2,0.4,0.6,0.8,1", help="lambda values")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/dial"))
    args = parser.parse_args()
    args.turns = [float(text) for text in args.turns.split(",")]
    if args.table:
        print(table(args.names.split(","), args.out).to_markdown(index=False))
    else:
        measure(args)


if __name__ == "__main__":
    main()
