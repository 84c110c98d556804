"""What a plain classifier costs, and what attacking it cost."""

import platform
import statistics
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from oat_bench.acceleration import Spent, operations_per_image
from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation.cells import stored_name
from oat_bench.evaluation.subject import Subject
from oat_bench.results import records
from oat_bench.results.points import AttackCost, Cost, PointResult

_PASSES, _WARM_UP = 20, 3  # timed passes, after a few that are not


def measure(model: nn.Module, image: Tensor) -> Cost:
    """Count and time a classifier on an image [1, C, H, W]."""
    return _cost(model, image, latencies([model], image)[0])


def _cost(model: nn.Module, image: Tensor, latency: tuple[float, float, float]) -> Cost:
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=int(operations_per_image(model, image)),
        latency_ms=latency[0],
        latency_spread=latency[1:],
        machine=machine(image.device),
    )


def latency_ms(model: nn.Module, image: Tensor) -> float:
    """Return the milliseconds that one image alone takes: the median of some passes."""
    return latencies([model], image)[0][0]


def latencies(models: Sequence[nn.Module], image: Tensor) -> list[tuple[float, float, float]]:
    """Return median and quartiles of the milliseconds that one image alone takes each model.

    They take turns, a pass each, so that what else the machine does slows all of them alike.
    """

    def once(model: nn.Module) -> float:
        begun = perf_counter()
        model(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        return 1e3 * (perf_counter() - begun)

    with torch.inference_mode():
        rounds = [[once(model) for model in models] for _ in range(_WARM_UP + _PASSES)]
    found = []
    for passes in zip(*rounds[_WARM_UP:], strict=True):
        low, median, high = statistics.quantiles(passes, method="inclusive")
        found.append((round(median, 3), round(low, 3), round(high, 3)))
    return found


def machine(device: torch.device) -> str:
    """Name the GPU, or the processor and the number of threads that torch computes with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


@cache
def _processor() -> str:
    about = Path("/proc/cpuinfo")  # of Linux
    lines = about.read_text().splitlines() if about.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def shares(spent: Spent, n: int, attacks: str, device: torch.device) -> dict[str, Any]:
    """Return the share of one of n rows in what attacks spent on them together: `COSTS`."""
    each = {name: value / max(1, n) for name, value in vars(spent).items()}
    return each | {"attacks": attacks, "machine": machine(device)}


def with_attack_costs(
    results: Sequence[PointResult],
    subject: Subject,
    outcomes: pd.DataFrame,
    attacks: Sequence[Attack],
) -> list[PointResult]:
    """Add to results what the store says that outcomes took; what attacks shared counts once."""
    costed = []
    for result in results:
        at = subject.at(OperatingPoint(result.lam, result.width))
        rows = outcomes[(outcomes["lam"] == result.lam) & (outcomes["width"] == result.width)]
        frames = []
        for attack in attacks:
            seen = torch.tensor(rows.loc[rows["attack"] == attack.label, "example"].to_numpy())
            seen = seen if attack.per_example else subject.blocks.whole(seen)
            for number, part in enumerate(attack.parts()):
                found = subject.store.costs(stored_name(at, part))
                frames.append(found[found["example"].isin(seen.tolist())].assign(part=number))
        told = pd.concat(frames).drop_duplicates(["attacks", "machine", "part", "example"])
        costs = [
            AttackCost(
                attacks=own["attacks"].iloc[0].split(","),
                n=own["example"].nunique(),
                forward=round(own["forward"].sum()),
                backward=round(own["backward"].sum()),
                seconds=round(own["seconds"].sum(), 3),
                machine=own["machine"].iloc[0],
            )
            for _, own in told.groupby(["attacks", "machine"], sort=False)
        ]
        costed.append(result.model_copy(update={"attack_costs": costs}))
    return costed


def with_costs(
    results: list[PointResult],
    classifier: TunableClassifier,
    data: Split,
    device: torch.device,
    before: Path | None,
) -> list[PointResult]:
    """Add places, and costs timed together; if ``before`` has all, of this machine, those."""
    known: dict[tuple[float, float], Cost] = {}
    with suppress(UserError):
        entry = records.read(before).entry if before is not None else None
        if entry is not None and entry.model_fingerprint == classifier.fingerprint():
            for point in entry.operating_points:
                if point.cost is not None and point.cost.machine == machine(device):
                    known[point.lam, point.width] = point.cost
    points = [(result.lam, result.width) for result in results]
    if not known.keys() >= set(points):
        image = data.inputs(slice(1)).to(device)
        models = [classifier.at(*at) for at in points]
        deployed = [
            classifier.deployed(*at) or model for at, model in zip(points, models, strict=True)
        ]
        timed = latencies(deployed, image)
        costs = [_cost(model, image, one) for model, one in zip(models, timed, strict=True)]
        known = dict(zip(points, costs, strict=True))
    return [
        result.model_copy(update={"cost": known[at], "place": classifier.place(result.lam)})
        for result, at in zip(results, points, strict=True)
    ]
