r"""How soon recipes reach one frontier: passes, time and hypervolume, side by side, seed by seed.

    python benchmarks/time_to_frontier.py --benchmark cifar10-small-both --data-dir DIR \
        --against leaderboards/cifar10/Linf/oat-wrn-16-2.json --recipe "today:" \
        --recipe "cifar10-small:benchmark=cifar10-small" --published CHECKOUT \
        --timed "published:order=published,network.film=published,threat.step_size=1.43/255"

A recipe changes keys of the card's [training], by dotted names those of other sections, or takes
another card's [training] (``benchmark=``). The first is what the others are compared with;
``--against`` takes its outcomes from an entry of it, so that it is not trained again. Each of the
others is trained from the same seeds on the same images, and attacked on the same test images under
the threat model of the card. The table gives

- the hypervolume from (0, 0) in percent, mean over seeds, and by how much it differs from the first
  recipe's, with 95% intervals over test images, which are paired;
- passes: a forward pass of an image counts 1, its gradient 1, that of image and weights 2;
- the time of training: that of all steps, of which some along the way are timed here, recipe by
  recipe in turns, not compiled. Of recipes in the published order it is, with ``--published``, a
  checkout of the OAT authors' code, the time of that code's own step. One given by ``--timed`` has
  no other figures.

What is trained or attacked already in --out is not done again.
"""

import argparse
import copy
import math
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import speed
import torch
import torch.nn.functional as F

from oat_bench import datasets
from oat_bench.acceleration import keep_freed_memory
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Dataset, Split
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.methods.trainable import TrainableClassifier
from oat_bench.results import records
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.run import choose_device, choose_examples, train, training_identity
from oat_bench.run_folder import STORE
from oat_bench.statistics.frontier import Rightness, combined, hypervolume, rightness
from oat_bench.statistics.phases import Design
from oat_bench.training.loop import Trainer
from oat_bench.training.sampling import passes

MOMENTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the training at which steps are timed


def measure(
    card: BenchmarkCard, data: Dataset, seed: int, out: Path, args: argparse.Namespace
) -> tuple[Rightness, TrainableClassifier]:
    """Train and attack; return what is right of each test image, and the classifier."""
    device = choose_device(args.device)
    out.mkdir(parents=True, exist_ok=True)
    classifier = train(card, data, out, seed=seed, device=device)
    assert isinstance(classifier, TrainableClassifier)
    threat, n_classes = benchmark_card(args.benchmark).threat, classifier.info.num_classes
    attack = prepare(attack_card(args.attack), threat, n_classes=n_classes, seed=0)
    subject = Subject(
        classifier,
        data.test.to(device),
        data.fingerprint(),
        choose_examples(data, args.test_images),
        store=OutcomeStore(out / STORE),
        gradients="bf16",
    )
    points = [OperatingPoint(lam) for lam in card.evaluation.lambdas]
    return rightness(evaluate(subject, points, [attack]), attack.label, Design()), classifier


def published(card: BenchmarkCard, data: Dataset, args: argparse.Namespace) -> Rightness:
    """Read what is right of each test image of a published entry, which must be of the card."""
    record = records.read(args.against)
    entry, outcomes = record.entry, record.outcomes()
    identities = [  # of older entries a folder's name counted
        training_identity(card, data, entry.seed),
        training_identity(card, data.called(entry.dataset), entry.seed, named=True),
    ]
    if entry.benchmark_card not in identities:
        raise SystemExit(f"{args.against} was not trained by the first recipe on this data")
    if outcomes is None:
        raise SystemExit(f"{args.against}: expected outcomes beside it, {record.outcomes_path}")
    examples = choose_examples(data, args.test_images).numpy()
    wanted = outcomes["lam"].isin(card.evaluation.lambdas) & outcomes["example"].isin(examples)
    return rightness(outcomes[wanted], args.attack, Design())


def seconds_of(
    recipes: dict[str, BenchmarkCard],
    classifier: TrainableClassifier,
    data: Dataset,
    args: argparse.Namespace,
) -> list[float]:
    """Time steps of each recipe along its training, in turns; return what all steps come to."""
    device = choose_device(args.device)
    train_split, none = data.train.to(device), data.validation.take(slice(0))
    alternatives: speed.Alternatives = {}
    for name, card in recipes.items():
        if args.published and card.training.order == "published":
            architecture, size = card.network.architecture, data.input_shape[1]
            batch = card.training.batch_size
            like = {"architecture": architecture, "size": size, "batch": batch, "device": device}
            step = speed.authors_step(argparse.Namespace(**vars(args) | like))
            alternatives |= {f"{name} {moment}": step for moment in MOMENTS}
            continue
        for moment in MOMENTS:
            (member,) = copy.deepcopy(classifier).members()
            how = {"compile": False, "memory": None}
            recipe = member.recipe(card.training).model_copy(update=how)
            trainer = Trainer(member.step, recipe, card.threat, train_split, none)
            at = int(moment * recipe.epochs * trainer.steps_per_epoch)
            trainer.progress.epoch, trainer.progress.step = divmod(at, trainer.steps_per_epoch)
            index = torch.arange(min(recipe.batch_size, len(train_split)))
            alternatives[f"{name} {moment}"] = partial(trainer._step, index)
    times = speed.in_turns(alternatives, args.repeats)
    steps = [
        card.training.epochs * math.ceil((len(train_split) - 1) / card.training.batch_size)
        for card in recipes.values()
    ]
    each = [
        statistics.mean(statistics.median(times[f"{name} {moment}"]) for moment in MOMENTS)
        for name in recipes
    ]
    return [count * one for count, one in zip(steps, each, strict=True)]


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


def recipe(text: str) -> tuple[str, dict[str, str]]:
    """Read NAME:KEY=VALUE,KEY=VALUE."""
    name, _, keys = text.rpartition(":")
    pairs = [pair.partition("=") for pair in filter(None, keys.split(","))]
    return name, {key.strip(): value.strip() for key, _, value in pairs}


def with_recipe(card: BenchmarkCard, changes: dict[str, str]) -> BenchmarkCard:
    """Return a card trained by a recipe."""
    given = dict(changes)
    if (other := given.pop("benchmark", None)) is not None:
        card = card.model_copy(update={"training": benchmark_card(other).training})
    dotted = {key if "." in key else f"training.{key}": value for key, value in given.items()}
    return card.with_changes(dotted)


def shrunk(split: Split, size: int) -> Split:
    """Return a split of smaller images, each pixel a mean."""
    means = F.adaptive_avg_pool2d(split.images.float(), size)
    return Split(means.round().to(torch.uint8), split.labels, split.levels)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", default="fashion-12x12")
    parser.add_argument("--recipe", type=recipe, action="append", required=True)
    parser.add_argument("--against", help="an entry of the first recipe, which is not trained then")
    timed = "a recipe of which steps are timed alone: nothing is trained or attacked"
    parser.add_argument("--timed", type=recipe, action="append", default=[], help=timed)
    parser.add_argument("--published", type=Path, help="a checkout of the OAT authors' code")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of cards")
    parser.add_argument("--dataset", help="a folder of images; the card's if left out")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--size", type=int, help="shrink images to so many pixels, by means")
    parser.add_argument("--images", type=int, help="training images; all if left out")
    parser.add_argument("--test-images", type=int, help="all if left out")
    parser.add_argument("--attack", default="pgd-20")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--repeats", type=int, default=5, help="of each step that is timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="runs/frontier-BENCHMARK if left out")
    args = parser.parse_args()
    names = [name for name, _ in (*args.recipe, *args.timed)]
    if len(set(names)) < len(names):
        parser.error(f"recipes need names of their own, not {', '.join(names)}")
    args.out = args.out or Path("runs") / f"frontier-{args.benchmark}"
    return args


def read_data(card: BenchmarkCard, args: argparse.Namespace) -> Dataset:
    """Read the images, fewer or smaller as asked."""
    data = datasets.load(card.dataset, args.data_dir, image_size=card.image_size)
    if args.images:
        chosen = datasets.nested_order(data.train.labels)[: args.images]
        data = replace(data, train=data.train.take(chosen))
    if args.size:
        smaller = {name: shrunk(split, args.size) for name, split in data.splits.items()}
        data = replace(data, **smaller)
    return data


def main() -> None:
    """Train, attack, print one table."""
    args = parse()
    keep_freed_memory()
    card = benchmark_card(args.benchmark)
    if args.dataset:
        card = card.for_folder(args.dataset, named=True)
    card = card.with_changes(dict(pair.split("=", 1) for pair in args.set))
    data = read_data(card, args)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    recipes = {name: with_recipe(card, changes) for name, changes in args.recipe}
    measured: dict[str, list[Rightness]] = {}
    classifier = None
    for name, own in recipes.items():
        if args.against and not measured:
            measured[name] = [published(own, data, args)]
            continue
        folder = name.replace(" ", "-").replace(",", "")
        found = [
            measure(own, data, seed, args.out / f"{folder}-seed{seed}", args) for seed in seeds
        ]
        measured[name] = [right for right, _ in found]
        classifier = found[0][1]
    recipes |= {name: with_recipe(card, changes) for name, changes in args.timed}
    costs = {
        "passes an image": [passes(c.training) * c.training.epochs for c in recipes.values()],
    }
    if classifier is not None and args.repeats:
        costs["seconds"] = seconds_of(recipes, classifier, data, args)
    cost = pd.DataFrame(costs)
    shares = (cost / cost.iloc[0]).add_suffix(", share")
    rows = (
        compared(measured).set_index("recipe").reindex(list(recipes), fill_value="").reset_index()
    )
    table = pd.concat([rows, cost, shares], axis=1)
    title = (
        f"{data.name}, {card.network.architecture}, {len(data.train)} training images of "
        f"{data.input_shape[1]}x{data.input_shape[2]}, {args.attack} on "
        f"{args.test_images or len(data.test)}, seeds {args.seeds}, "
        f"{torch.get_num_threads()} threads"
    )
    text = f"**{title}**\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n"
    (args.out / "frontier.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
