"""All figures of one run."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure

from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.figures.accuracies import by_lambda, cost, unseen
from oat_bench.figures.batch_norm import bn_statistics
from oat_bench.figures.frontiers import attacks, frontier, widths
from oat_bench.figures.jacobian import saliency
from oat_bench.figures.style import NotApplicableError, write
from oat_bench.results.entries import Entry
from oat_bench.results.models import common_attacks
from oat_bench.results.published import Published

#: what stands below each figure of a report, by the name of its file
CAPTIONS = {
    "frontier": "SA against RA, a point for each lambda, with 95% intervals.",
    "widths": "SA against RA, a panel for each width.",
    "cost": "SA and RA over the operations of an image, a point for each width.",
    "attacks": "SA against RA under each attack.",
    "lambda": "SA and RA over lambda.",
    "unseen": "Lambda values that training never sampled (stars) beside those that it did.",
    "bn-statistics": "Running mean and variance of the last batch norm, a point for each channel.",
    "saliency": "Gradient of the loss with respect to the image; grey is zero.",
}


def of_run(
    entry: Entry,
    loaded: tuple[TunableClassifier, Dataset] | None,
    published: Sequence[Published],
    kinds: Collection[str] = CAPTIONS.keys(),
) -> Iterator[tuple[str, Figure]]:
    """Draw every figure of ``kinds`` that applies, by name; without a model the entry's alone."""
    lambdas = sorted({point.lam for point in entry.operating_points})
    known: dict[str, Callable[[], Figure]] = {
        "frontier": lambda: frontier([entry], published),
        "widths": lambda: widths([entry], published),
        "cost": lambda: cost(entry),
        "attacks": lambda: attacks([entry], published),
        "lambda": lambda: by_lambda([entry], published),
        "unseen": lambda: unseen([entry]),
    }
    if not common_attacks([entry]):  # at every point
        known.clear()
    if loaded is not None:
        model, data = loaded
        known["bn-statistics"] = lambda: bn_statistics(model)
        known["saliency"] = lambda: saliency(model, data, lambdas, model.info.widths[0])
    for name, draw in ((name, draw) for name, draw in known.items() if name in kinds):
        with suppress(NotApplicableError):
            yield name, draw()


def draw_report(
    entry: Entry, model: TunableClassifier, data: Dataset, folder: Path, known: Sequence[Published]
) -> dict[str, str]:
    """Write every figure that applies, as SVG and PNG; return the captions, by name."""
    drawn = {}
    for name, figure in of_run(entry, (model, data), known):
        write(figure, folder / name)
        drawn[name] = CAPTIONS[name]
    for name in CAPTIONS.keys() - drawn.keys():  # of an earlier evaluation that had one
        for ending in (".svg", ".png"):
            (folder / f"{name}{ending}").unlink(missing_ok=True)
    return drawn
