"""The report on common corruptions: a table of its own, as no adversary chose the images."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from oat_bench.classifier import ModelInfo
from oat_bench.evaluation.corruptions import Outcomes
from oat_bench.reports.table import Cell, Content, Page, Row, Table, ends, to_csv
from oat_bench.results.corruptions import CorruptionPoint, Corruptions
from oat_bench.results.entries import versions
from oat_bench.statistics.accuracy import DECIMALS, Accuracy

#: decoders and quantiles that computed images depend on
_LIBRARIES = ("numpy", "scipy", "pillow")


def make_report(
    info: ModelInfo,
    outcomes: Sequence[Outcomes],
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    source: str,
    model_fingerprint: str,
    data_fingerprint: str,
    images_sha256: str,
    command: str,
) -> Corruptions:
    """Build the report of `oat_bench.evaluation.corruptions.evaluate`'s outcomes."""
    points = []
    for one in outcomes:
        each = np.round(100 * one.right.mean(axis=2), DECIMALS).tolist()
        point = CorruptionPoint(
            lam=one.point.lam,
            width=one.point.width,
            sa=Accuracy.counted(int(one.clean.sum()), len(one.clean)),
            mean=one.mean(),
            corruptions=dict(zip(corruptions, each, strict=True)),
        )
        points.append(point)
    return Corruptions(
        dataset=info.dataset,
        method=info.method,
        architecture=info.architecture,
        source=source,
        n=len(outcomes[0].clean),
        severities=list(severities),
        operating_points=points,
        model_fingerprint=model_fingerprint,
        data_fingerprint=data_fingerprint,
        images_sha256=images_sha256,
        command=command,
        versions=versions() | {name: version(name) for name in _LIBRARIES},
    )


# --- as text


def page(report: Corruptions) -> Page:
    """Return the report: a row for each operating point; accuracies in percent."""
    title = (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}: common corruptions, "
        f"{report.source}, {report.n} images"
    )
    several = any(point.width != 1 for point in report.operating_points)
    rows: list[Row] = []
    for point in report.operating_points:
        row: dict[str, Content | Cell] = {
            "lambda": f"{point.lam:g}",
            "width": f"{point.width:g}" if several else "",
            "SA": point.sa,
            "mean": point.mean,
        }
        for name, each in point.corruptions.items():
            row[name.replace("_", " ")] = f"{np.mean(each):.1f}"
        rows.append(row)
    return Page(title, [Table(rows)], _notes(report))


def _notes(report: Corruptions) -> list[str]:
    n_corruptions, chosen = len(report.operating_points[0].corruptions), report.severities
    severities = f"severit{'y' if len(chosen) == 1 else 'ies'} {', '.join(map(str, chosen))}"
    made = "the authors' files"
    if report.source == "computed":
        made = (
            "computed with the authors' parameters for CIFAR, whatever the size of the images, and "
            "rounded to 8 bits"
        )
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
