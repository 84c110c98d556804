r"""Whether speed costs quality: the fast way to train and attack beside the slow one, seed by seed.

    python benchmarks/quality.py                                        # digits
    python benchmarks/quality.py --dataset cifar10 --data-dir DIR --architecture wrn-10-1 \
        --images 8000 --epochs 8

The slow way computes in float32, one image batch through plain PyTorch; the fast way trains in
bfloat16, compiled if asked, and attacks in bfloat16. Both train on the same images from the same
seeds and are attacked by PGD-7 on the same test images. For each lambda the table gives the means
over seeds, the 95% t-interval of the slow way's, and whether the fast way's mean lies in it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from oat_bench import datasets
from oat_bench.acceleration import keep_freed_memory
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Dataset
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.results.points import summarize
from oat_bench.run import choose_device, train

WAYS = {"slow": "float32", "fast": "bf16"}


def measure(
    card: BenchmarkCard, data: Dataset, way: str, seed: int, args: argparse.Namespace
) -> list[dict[str, object]]:
    """Train and attack; return a row a lambda."""
    recipe = {"precision": WAYS[way], "compile": args.compile and way == "fast"}
    training = card.training.model_copy(update=recipe)
    card = card.model_copy(update={"training": training})
    device = choose_device(args.device)
    out = args.out / f"{way}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    classifier = train(card, data, out, seed=seed, device=device)
    ready = prepare(
        attack_card("pgd-7"), card.threat, n_classes=classifier.info.num_classes, seed=0
    )
    test = data.test.to(device)
    subject = Subject(classifier, test, "", gradients=WAYS[way], compile_it=False)
    frame = evaluate(subject, [OperatingPoint(lam) for lam in card.training.lambdas], [ready])
    return [
        {
            "way": way,
            "seed": seed,
            "lambda": r.lam,
            "SA": r.clean_acc,
            "RA": r.robust["pgd-7"].value,
        }
        for r in summarize(frame, [])
    ]


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Set the ways beside each other."""
    table = []
    for lam, part in rows.groupby("lambda"):
        line: dict[str, object] = {"lambda": lam}
        for name in ("SA", "RA"):
            slow, fast = (part.loc[part["way"] == way, name].to_numpy() for way in WAYS)
            half = stats.t.ppf(0.975, len(slow) - 1) * slow.std(ddof=1) / np.sqrt(len(slow))
            low, high = slow.mean() - half, slow.mean() + half
            line |= {
                f"{name} slow": f"{slow.mean():.2f} [{low:.2f}, {high:.2f}]",
                f"{name} fast": f"{fast.mean():.2f}",
                f"{name} within": "yes" if low <= fast.mean() <= high else "no",
            }
        table.append(line)
    return pd.DataFrame(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--benchmark", help="card; the data set's small one if left out")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, help="training images; all if left out")
    parser.add_argument("--test-images", type=int, default=800)
    parser.add_argument("--architecture", help="the card's if left out")
    parser.add_argument("--epochs", type=int, help="the card's if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile the fast way")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--out", type=Path, help="resumes from here; runs/quality-DATASET if not said"
    )
    args = parser.parse_args()
    args.out = args.out or Path("runs") / f"quality-{Path(args.dataset).name}"
    return args


def main() -> None:
    """Measure, print and write."""
    args = parse()
    keep_freed_memory()
    default = "digits-large-eps" if args.dataset == "digits" else f"{args.dataset}-small"
    card = benchmark_card(args.benchmark or default)
    if args.epochs:
        training = card.training.model_copy(update={"epochs": args.epochs})
        card = card.model_copy(update={"training": training})
    if args.architecture:
        network = card.network.model_copy(update={"architecture": args.architecture})
        card = card.model_copy(update={"network": network})
    whole = datasets.load(args.dataset, args.data_dir)
    few = datasets.nested_order(whole.train.labels)[: args.images]
    tested = datasets.nested_order(whole.test.labels)[: args.test_images]
    data = Dataset(
        whole.name,
        whole.classes,
        train=whole.train.take(few),
        validation=whole.validation.take(torch.arange(0)),
        test=whole.test.take(tested),
    )
    rows = [
        row
        for seed in range(args.seeds)
        for way in WAYS
        for row in measure(card, data, way, seed, args)
    ]
    table = compare(pd.DataFrame(rows))
    title = (
        f"{whole.name}, {card.network.architecture}, {len(data.train)} training images, "
        f"{card.training.epochs} epochs, {len(data.test)} test images, {args.seeds} seeds"
    )
    text = f"**{title}**\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"
    (args.out / "quality.md").write_text(text)
    (args.out / "quality.json").write_text(json.dumps({"title": title, "rows": rows}, indent=2))
    print(text)


if __name__ == "__main__":
    main()
