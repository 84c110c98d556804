"""Results, and what their operating points cost."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.evaluation.cost import Cost, machine, measure
from oat_bench.results import records
from oat_bench.statistics.accuracy import PointResult


def with_costs(
    results: list[PointResult],
    classifier: TunableClassifier,
    data: Split,
    device: torch.device,
    before: Path | None,
) -> list[PointResult]:
    """Measure what each operating point costs, and return the results with it.

    Args:
        results: the points.
        classifier: on the device.
        data: images to time, the test split.
        device: where.
        before: the entry of an earlier report; what it says of this classifier, timed on this
            machine, is not timed again. None: there is none.
    """
    known: dict[tuple[float, float], Cost] = {}
    with suppress(UserError):
        entry = records.read(before or Path("entry.json")).entry
        if entry.model_fingerprint == classifier.fingerprint():
            known = {
                (point.lam, point.width): Cost(**point.cost.model_dump())
                for point in entry.operating_points
                if point.cost is not None and point.cost.machine == machine(device)
            }
    image = data.inputs(slice(0, 1)).to(device)
    costed = []
    for result in results:
        point = (result.lam, result.width)
        cost = known.get(point) or measure(
            classifier.at(*point), image, classifier.deployed(*point)
        )
        costed.append(replace(result, cost=cost))
    return costed
