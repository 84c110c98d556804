r"""How soon recipes reach one frontier: passes, time and hypervolume, side by side, seed by seed.

    python benchmarks/time_to_frontier.py --benchmark cifar10-small --data-dir DIR \
        --recipe today: --recipe "one loss:loss_sampling=one" \
        --recipe "one loss, 7 epochs:loss_sampling=one,epochs=7"

A recipe changes keys of the card's [training]; the first is what the others are compared with. Each
is trained from the same seeds, on the same images, and attacked by PGD-20 on the same test images.
The table gives passes (a forward pass of an image counts 1, the gradient of an image 1, that of
image and weights 2), training time, and the hypervolume from (0, 0), in percent: the mean over
seeds, and by how much it differs from the first recipe's, with its 95% interval over images. What
is trained or attacked already in --out is not done again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from oat_bench import datasets
from oat_bench.acceleration import keep_freed_memory
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Dataset
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.run import choose_device, train
from oat_bench.run_folder import LOG, STORE
from oat_bench.statistics.frontier import Rightness, combined, hypervolume, rightness
from oat_bench.statistics.phases import Design
from oat_bench.training.sampling import passes


def measure(
    card: BenchmarkCard, data: Dataset, seed: int, out: Path, args: argparse.Namespace
) -> tuple[Rightness, float]:
    """Train and attack; return what is right of each test image, and the seconds of training."""
    device = choose_device(args.device)
    out.mkdir(parents=True, exist_ok=True)
    classifier = train(card, data, out, seed=seed, device=device)
    seconds = float(pd.read_csv(out / LOG)["seconds"].iloc[-1])
    attack = prepare(
        attack_card(args.attack), card.threat, n_classes=classifier.info.num_classes, seed=0
    )
    subject = Subject(
        classifier,
        data.test.to(device),
        data.fingerprint(),
        store=OutcomeStore(out / STORE),
        gradients="bf16",
    )
    points = [OperatingPoint(lam) for lam in card.training.lambdas]
    return rightness(evaluate(subject, points, [attack]), attack.label, Design()), seconds


def compared(measured: dict[str, list[Rightness]]) -> pd.DataFrame:
    """Return each recipe's hypervolume, mean over seeds, and its difference from the first's."""
    first = next(iter(measured.values()))
    less = [(-1 / len(first), one) for one in first]

    rows = []
    for name, of in measured.items():
        own = [(1 / len(of), one) for one in of]
        found = combined(hypervolume, own)
        row = {
            "recipe": name,
            "hypervolume": f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]",
        }
        if of is not first:
            found = combined(hypervolume, [*own, *less])
            row["less the first's"] = f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
        ends = np.mean([one.points()[[0, -1]] for one in of], axis=0)
        row |= {
            f"SA/RA at {lam:g}": f"{sa:.1f}/{ra:.1f}"
            for lam, (sa, ra) in zip((of[0].lams[0], of[0].lams[-1]), ends, strict=True)
        }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def recipe(text: str) -> tuple[str, dict[str, object]]:
    """Read NAME:KEY=VALUE,KEY=VALUE."""
    name, _, keys = text.rpartition(":")
    changes: dict[str, object] = {}
    for pair in filter(None, keys.split(",")):
        key, _, value = pair.partition("=")
        try:
            changes[key.strip()] = json.loads(value)
        except json.JSONDecodeError:  # a word
            changes[key.strip()] = value.strip()
    return name, changes


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", default="fashion-12x12")
    parser.add_argument("--recipe", type=recipe, action="append", required=True)
    parser.add_argument("--dataset", help="a folder of images; the card's if left out")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, help="training images; all if left out")
    parser.add_argument("--test-images", type=int, help="all if left out")
    parser.add_argument("--attack", default="pgd-20")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="runs/frontier-BENCHMARK if left out")
    args = parser.parse_args()
    args.out = args.out or Path("runs") / f"frontier-{args.benchmark}"
    return args


def main() -> None:
    """Train, attack, print one table."""
    args = parse()
    keep_freed_memory()
    card = benchmark_card(args.benchmark)
    if args.dataset:
        card = card.for_folder(args.dataset, named=True)
    whole = datasets.load(card.dataset, args.data_dir, image_size=card.image_size)
    data = Dataset(
        whole.name,
        whole.classes,
        train=whole.train.take(datasets.nested_order(whole.train.labels)[: args.images]),
        validation=whole.validation,
        test=whole.test.take(datasets.nested_order(whole.test.labels)[: args.test_images]),
    )
    seeds = [int(seed) for seed in args.seeds.split(",")]
    measured: dict[str, list[Rightness]] = {}
    costs = []
    for name, changes in args.recipe:
        values = card.model_dump()
        own = BenchmarkCard.model_validate(values | {"training": values["training"] | changes})
        training, folder = own.training, name.replace(" ", "-").replace(",", "")
        found = [
            measure(own, data, seed, args.out / f"{folder}-seed{seed}", args) for seed in seeds
        ]
        measured[name] = [right for right, _ in found]
        costs.append(
            {
                "passes an image": passes(training) * training.epochs,
                "seconds": float(np.median([seconds for _, seconds in found])),
            }
        )
    cost = pd.DataFrame(costs)
    shares = (cost / cost.iloc[0]).add_suffix(", share")
    table = pd.concat([compared(measured), cost, shares], axis=1)
    title = (
        f"{whole.name}, {card.network.architecture}, {len(data.train)} training images, "
        f"{args.attack} on {len(data.test)}, seeds {args.seeds}, {torch.get_num_threads()} threads"
    )
    text = f"**{title}**\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n"
    (args.out / "frontier.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
