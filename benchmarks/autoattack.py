"""AutoAttack as the card runs it, as its authors' code does, and as torchattacks' class does.

    python benchmarks/autoattack.py --model leaderboards/digits/Linf/oat-wrn-10-1.safetensors
    python benchmarks/autoattack.py --model leaderboards/cifar10/Linf/oat-wrn-16-2.safetensors \
        --data-dir DIR --against pyautoattack
    python benchmarks/autoattack.py --model leaderboards/digits/Linf/oat-wrn-10-1.safetensors \
        --norm L2 --eps 0.75
    python benchmarks/autoattack.py --model leaderboards/fashion-12x12/L2/oat-wrn-10-1.safetensors \
        --parts 3

prints how many of the same test images survive each, part by part, and McNemar's exact test of the
card against the others; two seeds of the authors' code say what chance does. The models take a
minute and an hour of one core. The authors' Square of L2 fails on images of 12x12: hence --parts 3.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import oat_bench
from oat_bench import datasets
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.cards import Threat
from oat_bench.progress import note
from oat_bench.statistics.pairs import mcnemar

Batch = tuple[Tensor, Tensor, Tensor]


def main() -> None:
    """Attack at each lambda, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--lambda", dest="lambdas", default="1", help="0.4,1; [default: 1]")
    parser.add_argument("--against", default="", help="only these, by name; [default: all]")
    parser.add_argument("--norm", help="Linf or L2; [default: the model's]")
    parser.add_argument("--eps", type=float, help="[default: the model's]")
    parser.add_argument("--parts", type=int, help="only the first so many; [default: all]")
    parser.add_argument("--n-examples", type=int, default=200, help="test images")
    args = parser.parse_args()
    classifier = oat_bench.load(args.model)
    info = classifier.info
    test = datasets.load(info.dataset, args.data_dir).test
    ids = datasets.nested_order(test.labels)[: args.n_examples]
    batch = (test.inputs(ids), test.labels[ids], ids)
    card = attack_card("autoattack")
    card = card.model_copy(update={"parts": card.parts[: args.parts]})
    ball = {"norm": args.norm or info.threat.norm, "eps": args.eps or info.threat.eps}
    attack = prepare(card, Threat.model_validate(ball), n_classes=info.num_classes, seed=0)
    rows = []
    for lam in map(float, args.lambdas.split(",")):
        rows += compared(classifier.at(lam), attack, batch, lam, args.against)
    table = pd.DataFrame(rows)
    ball = f"{attack.threat.norm} eps {attack.threat.eps:g}"
    print(f"**{info.dataset}, {info.network.architecture}, {ball}, {args.n_examples} images**\n")
    print(table.to_markdown(index=False, floatfmt=".3g"))


def compared(
    model: nn.Module, attack: Attack, batch: Batch, lam: float, against: str
) -> list[dict[str, object]]:
    """Return one row for each implementation."""
    ways: dict[str, list[Callable[[Batch], Tensor]]] = {
        "oat-bench, card autoattack": [
            lambda some, part=part: part(model, *some) for part in attack.parts()
        ],
        "pyautoattack": authors(model, attack, seed=0),
        "pyautoattack, another seed": authors(model, attack, seed=1),
        "torchattacks.AutoAttack": of_torchattacks(model, attack),
    }
    rows, card = [], None
    chosen = list(ways) if not against else ["oat-bench, card autoattack", *against.split(",")]
    for name in chosen:
        parts = ways[name]
        note(f"lambda {lam:g}, {name}")
        left = []
        with torch.no_grad():
            standing = model(batch[0]).argmax(1) == batch[1]
        for part in parts[: len(attack.chain)]:
            some = tuple(of_all[standing] for of_all in batch)
            if len(some[0]):
                x_adv = part(some)
                with torch.no_grad():
                    standing[standing.clone()] = model(x_adv).argmax(1) == some[1]
            left.append(int(standing.sum()))
        card = standing if card is None else card
        only_card, only_it = int((~card & standing).sum()), int((card & ~standing).sum())
        rows.append(
            {"lambda": lam, "implementation": name}
            | dict(zip([run.name for run in attack.chain], left, strict=True))
            | {"RA": 100 * left[-1] / len(batch[0])}
            | {"only the card breaks": only_card, "only it breaks": only_it}
            | {"p": mcnemar(only_card, only_it, "two-sided")}
        )
    return rows


def authors(model: nn.Module, attack: Attack, seed: int) -> list[Callable[[Batch], Tensor]]:
    """Return the four parts of the authors' code."""
    from pyautoattack import AutoAttack

    theirs = AutoAttack(model, eps=attack.threat.eps, norm=attack.threat.norm, seed=seed)
    theirs.fab.targeted = True
    parts = (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square)
    for part in parts:
        part.seed = seed
    return [lambda some, part=part: part.perturb(some[0], some[1]).detach() for part in parts]


def of_torchattacks(model: nn.Module, attack: Attack) -> list[Callable[[Batch], Tensor]]:
    """Return the four parts that torchattacks' AutoAttack makes by its own defaults."""
    import torchattacks

    theirs = torchattacks.AutoAttack(
        model, norm=attack.threat.norm, eps=attack.threat.eps, n_classes=attack.n_classes, seed=0
    )
    return [
        lambda some, part=part: part(some[0], some[1]).detach()
        for part in theirs._autoattack.attacks
    ]


if __name__ == "__main__":
    main()
