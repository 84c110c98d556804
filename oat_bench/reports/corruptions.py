"""The report on common corruptions: a table of its own, as no adversary chose the images."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from oat_bench.classifier import ModelInfo
from oat_bench.evaluation.corruptions import Outcomes
from oat_bench.reports.table import Content, Page, Row, Table, ends, to_csv
from oat_bench.results.corruptions import CorruptionPoint, Corruptions
from oat_bench.results.entries import versions
from oat_bench.statistics.accuracy import DECIMALS, Accuracy


def make_report(
    info: ModelInfo,
    outcomes: Sequence[Outcomes],
    corruptions: Sequence[str],
    severities: Sequence[int],
    **about: Any,
) -> Corruptions:
    """Build the report of `evaluation.corruptions.evaluate`'s outcomes; ``about``: other fields."""
    points = []
    for one in outcomes:
        each = np.round(100 * one.right.mean(axis=2), DECIMALS).tolist()
        by_name = dict(zip(corruptions, each, strict=True))
        sa = Accuracy.counted(int(one.clean.sum()), len(one.clean))
        at = {"lam": one.point.lam, "width": one.point.width}
        points.append(CorruptionPoint(**at, sa=sa, mean=one.mean(), corruptions=by_name))
    # decoders and quantiles that computed images depend on
    libraries = {name: version(name) for name in ("numpy", "scipy", "pillow")}
    return Corruptions(
        dataset=info.dataset,
        method=info.method,
        architecture=info.architecture,
        n=len(outcomes[0].clean),
        severities=list(severities),
        operating_points=points,
        versions=versions() | libraries,
        **about,
    )


def page(report: Corruptions) -> Page:
    """Return the report: a row for each operating point; accuracies in percent."""
    title = (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}: common corruptions, "
        f"{report.source}, {report.n} images"
    )
    several = any(point.width != 1 for point in report.operating_points)
    rows: list[Row] = []
    for point in report.operating_points:
        row: dict[str, Content] = {"lambda": f"{point.lam:g}"}
        row |= {"width": f"{point.width:g}" if several else "", "SA": point.sa, "mean": point.mean}
        row |= {k.replace("_", " "): f"{np.mean(v):.1f}" for k, v in point.corruptions.items()}
        rows.append(row)
    return Page(title, [Table(rows, keys=("lambda", "width"))], _notes(report))


def _notes(report: Corruptions) -> list[str]:
    n_corruptions, chosen = len(report.operating_points[0].corruptions), report.severities
    severities = f"severit{'y' if len(chosen) == 1 else 'ies'} {', '.join(map(str, chosen))}"
    made = (
        "computed with the authors' parameters for CIFAR, whatever the size of the images, and "
        "rounded to 8 bits"
    )
    made = made if report.source == "computed" else "the authors' files"
    return [
        "No adversary chose these images: none of these accuracies is an RA, and none is part of "
        "worst.",
        f"Accuracies in percent, n {report.n}. SA: clean images, 95% Wilson interval. A column: "
        f"the mean over {severities}. mean: over {n_corruptions} corruptions and their "
        "severities, all with the same weight; 95% bootstrap interval over images. Images: "
        f"{made} (Hendrycks and Dietterich, arXiv:1903.12261).",
    ]


def csv(report: Corruptions) -> str:
    """Write a row for each operating point, with every severity."""
    rows = []
    for point in report.operating_points:
        row: dict[str, object] = {"lambda": point.lam, "width": point.width, "n": report.n}
        row |= ends("SA", point.sa) | ends("mean", point.mean)
        for name, each in point.corruptions.items():
            row[name] = round(float(np.mean(each)), DECIMALS)
            row |= {f"{name} {s}": v for s, v in zip(report.severities, each, strict=True)}
        rows.append(row)
    return to_csv(rows)
