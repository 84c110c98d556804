"""What a calibration starts from: images, the widths that can be afforded, and the attack."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from oat_bench import classifier as classifiers
from oat_bench import datasets
from oat_bench.acceleration import Precision
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.calibration import procedure, search
from oat_bench.calibration.report import WidthCost
from oat_bench.cards import Threat, publishable
from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.datasets import DATA_DIR, Split
from oat_bench.errors import UserError
from oat_bench.evaluation.cost import measure
from oat_bench.evaluation.subject import AtPoint, Subject
from oat_bench.files import sha256

STRONG = ("autoattack", "apgd")  # cards whose RA can be relied on: the whole, its gradient parts
_TIMED = "pgd-20"  # the attack that is timed, and whose survivors are counted


@dataclass(frozen=True)
class HeldOut:
    """Images that a model was not trained on; an example's id is its place among them."""

    data: Split
    name: str  # for readers
    fingerprint: str  # in a store of outcomes; of a test split as of other commands


def held_out(
    info: ModelInfo,
    dataset: str,
    split: Literal["validation", "test"] = "validation",
    data_dir: str | Path = DATA_DIR,
    *,
    skip_broken: bool = False,
    image_size: int | None = None,
) -> HeldOut:
    """Load images to calibrate on: a split of the model's own data set, or a whole other folder."""
    datasets.check_known(dataset)
    is_folder = datasets.is_folder(dataset)
    if dataset != info.dataset and not is_folder:
        raise UserError(
            f"the model was trained on {info.dataset!r}, not on {dataset!r}; leave --dataset out, "
            "or name a folder of images of your own"
        )
    size = classifiers.image_size(info, dataset, image_size)
    data = datasets.load(dataset, data_dir, skip_broken=skip_broken, image_size=size)
    classifiers.check_compatible(info, data)
    own, named = classifiers.trained_on(info, data), data.name == publishable(info.dataset)
    if own is False and named and is_folder:
        raise UserError(
            f"{dataset} has the name of the model's data set, but not quite its images: some may "
            "have been trained on; name a folder of images that the model has not seen, under "
            "another name"
        )
    if own:
        data = data.called(info.dataset)
    elif not named:
        before = [one for one in info.ancestors if classifiers.trained_on(one, data)]
        if before:
            raise UserError(
                f"{dataset} is what the model's ancestor was trained on, {before[0]}; name a "
                "folder of images that neither has seen"
            )
        parts = (data.train, data.validation, data.test)
        images = torch.cat([part.images for part in parts])
        whole = Split(images, torch.cat([part.labels for part in parts]), data.test.levels)
        return HeldOut(whole, f"the folder {data.name}", sha256(data.fingerprint(), "all"))
    foreign = classifiers.foreign_ancestors(info, data)
    doubt = f" (some of which {foreign[0]}, its ancestor, may have seen)" if foreign else ""
    if split == "test":
        return HeldOut(data.test, f"the test split{doubt}", data.fingerprint())
    if not len(data.validation):
        raise UserError(f"{data.name} has no validation images; take --split test")
    # ids count from 0 in every split: its own name keeps outcomes apart
    name = sha256(data.fingerprint(), "validation")
    return HeldOut(data.validation, f"the validation split{doubt}", name)


def affordable(
    classifier: TunableClassifier,
    data: Split,
    widths: Sequence[float],
    *,
    max_flops: float | None = None,
    max_latency: float | None = None,
) -> list[WidthCost]:
    """Measure what each width costs, and say which keep to FLOPs and ms of one image alone."""
    image, lam = data.inputs(slice(1)), classifier.info.trained_lambdas[-1]
    most_flops, longest = (math.inf if m is None else m for m in (max_flops, max_latency))
    costs = []
    for width in widths:
        cost = measure(classifier.at(lam, width), image)
        fits = cost.flops <= most_flops and cost.latency_ms <= longest
        costs.append(
            WidthCost(
                width=width, fits=fits, **cost.model_dump(exclude={"parameters", "latency_spread"})
            )
        )
    if not any(cost.fits for cost in costs):
        known = "; ".join(
            f"width {cost.width:g}: {cost.flops:.3g} FLOPs, {cost.latency_ms:g} ms"
            for cost in costs
        )
        raise UserError(
            f"no width keeps to --max-flops or --max-latency; {known}; allow more, or train a "
            "narrower one"
        )
    return costs


def caution(attack: Attack) -> str:
    """Return what is to be said of RA under an attack; nothing of a strong one."""
    if attack.card.name in STRONG:
        return ""
    return (
        f"{attack.label} alone overestimates RA: stronger attacks break more images. Take --attack "
        "autoattack."
    )


def cheaper(attack: Attack) -> Attack:
    """Return the attack of the search: for AutoAttack its gradient parts.

    FAB and Square take most of the time and break few images that Auto-PGD left standing.
    """
    whole, parts = (attack_card(name) for name in STRONG)
    if attack.card.fingerprint() != whole.fingerprint():
        return attack
    return prepare(parts, attack.threat, n_classes=attack.n_classes, seed=attack.seed)


def strongest(
    classifier: TunableClassifier,
    data: Split,
    goal: search.Goal,
    examples: Tensor,
    *,
    confidence: float,
    widths: Sequence[float],
    seed: int,
    budget: float,
    gradients: Precision = "float32",
    batch_size: int | None = None,
    threat: Threat | None = None,
) -> tuple[Attack, str]:
    """Choose AutoAttack if it keeps to a budget in s, else its gradient parts; and say why.

    PGD-20, on one batch at the widest and most robust point, tells how long a pass takes, and at
    most how many images stand to the end.
    """
    info = classifier.info
    whole, parts, timed = (
        prepare(attack_card(name), threat or info.threat, n_classes=info.num_classes, seed=seed)
        for name in (*STRONG, _TIMED)
    )
    point = OperatingPoint(max(info.trained_lambdas), max(widths))
    how: dict[str, Any] = {"batch_size": batch_size, "gradients": gradients, "compile_it": False}
    subject = Subject(classifier, data, "", examples, **how)
    each, right, standing = _time(subject.at(point), timed)
    n_search, n_test = procedure.split(len(examples), goal, confidence)
    points, tests = _most(classifier, goal, widths)
    passes = []  # of an image
    for attack in (whole, parts):
        first, *others = (part.passes.total for part in attack.parts())
        passes.append(right * first + standing * sum(others))
    takes = [each * (points * n_search * passes[1] + tests * n_test * one) for one in passes]
    allowed = f"the budget of {budget / 60:g} min"
    long, short = (f"{math.ceil(seconds / 60)} min" for seconds in takes)
    if takes[0] <= budget:
        return whole, f"RA is under {whole.label}: it takes up to {long}, within {allowed}"
    return parts, (
        f"RA is under {parts.label}, AutoAttack's gradient parts, up to {short}: {whole.label} "
        f"would take up to {long}, more than {allowed}; --attack autoattack forces it"
    )


def _most(
    classifier: TunableClassifier, goal: search.Goal, widths: Sequence[float]
) -> tuple[int, int]:
    """Return how many points a search attacks, and how often tests do, at most."""
    smooth, trained = classifier.continuous, classifier.info.trained_lambdas
    points = len(search.starting_lambdas(trained, continuous=smooth)) * len(widths)
    points += 2 * search.REFINEMENTS if smooth else 0
    return points, 2 + search.SAFER + search.BOLDER if goal.barred == "RA" else 1


def jobs(
    classifier: TunableClassifier,
    attack: Attack,
    goal: search.Goal,
    n: int,
    *,
    confidence: float,
    widths: Sequence[float],
) -> list[tuple[OperatingPoint, Attack, int]]:
    """Return what a calibration on n images attacks at most, for `oat_bench.planning`."""
    n_search, n_test = procedure.split(n, goal, confidence)
    points, tests = _most(classifier, goal, widths)
    point = OperatingPoint(max(classifier.info.trained_lambdas), max(widths))
    return [(point, cheaper(attack), n_search)] * points + [(point, attack, n_test)] * tests


def _time(at: AtPoint, attack: Attack) -> tuple[float, float, float]:
    """Attack one batch: the seconds of a pass of an image; the shares that are right, and stand."""
    labels = at.data.labels
    ids = at.subject.ids[: at.batch_size].to(labels.device)
    right = ids[at.right(ids)]
    if not len(right):
        return 0.0, 0.0, 0.0
    started = time.perf_counter()
    attacked = at.attacked(attack, right, *at.craft([attack], right))
    standing = int((attacked == labels[right]).sum())
    each = (time.perf_counter() - started) / (attack.passes.total * len(right))
    return each, len(right) / len(ids), standing / len(ids)
