"""What a calibration found: what to run, and what is guaranteed of it; the points below."""

from oat_bench.calibration.guarantee import Count
from oat_bench.calibration.report import Calibration, CalibrationPoint
from oat_bench.reports.table import Page, Table


def page(report: Calibration) -> Page:
    """Return the report: the points that were not dropped, or were to be tested."""
    ra = f"RA under {report.attack}"
    aim = {
        "min-sa": f"the highest {ra} whose SA is at least {percent(report.value)}",
        "min-ra": f"the highest SA whose {ra} is at least {percent(report.value)}",
        "sa-weight": f"the highest {report.value:g} SA + {1 - report.value:g} {ra}",
    }[report.goal]
    model = f"{report.dataset}, {report.architecture}, {report.method.upper()}"
    title = f"{model}: {aim}, {report.threat_model} eps {report.eps}"
    table = Table([_row(report, point) for point in _shown(report)], keys=("lambda", "width"))
    return Page(title, [table], _notes(report), [sentence(report)], snippet(report))


def percent(share: float) -> str:
    """Write a share as a percentage, with no more digits than it has."""
    return f"{round(100 * share, 6):g}%"


def _row(report: Calibration, point: CalibrationPoint) -> dict[str, str]:
    test, best, verdicts = point.test, report.choice, []
    if test is not None:
        verdicts.append("holds" if test.holds else "open")
    elif point.planned is not None and report.barred is not None:
        verdicts.append("not tested: one before it is open")
    if best is not None and (point.lam, point.width) == (best.lam, best.width):
        verdicts.append("chosen")
    under = f" ({report.attack})" if report.barred == "RA" else ""
    return {
        "lambda": f"{point.lam:g}" + ("" if point.trained else " *"),
        "width": f"{point.width:g}" if len(report.widths) > 1 else "",
        "SA": _counted(point.sa),
        f"RA ({report.searched_under})": _counted(point.ra),
        f"test: {report.barred}{under}": _counted(test.counted) if test else "",
        "at least": f"{test.bound:.1f}" if test else "",
        "verdict": ", ".join(verdicts),
    }


def _shown(report: Calibration) -> list[CalibrationPoint]:
    return [point for point in report.points if not point.dropped or point.planned is not None]


def _counted(counted: Count | None) -> str:
    return "" if counted is None else f"{counted.value:.1f} ({counted.right}/{counted.n})"


def sentence(report: Calibration) -> str:
    """Say in one sentence what was chosen and what is guaranteed of it."""
    sure, choice, ra = percent(report.confidence), report.choice, f"RA under {report.attack}"
    own_name, other_name = ("SA", ra) if report.barred == "SA" else (ra, "SA")
    where = choice or report.nearest
    at = f"lambda {where.lam:g}"
    at += f"{' and' if choice else ','} width {where.width:g}" if len(report.widths) > 1 else ""
    if choice is None:
        test = report.nearest.test
        assert test is not None
        return (
            f"No operating point can be guaranteed, with confidence {sure}, to have an {own_name} "
            f"of at least {percent(report.value)}: the nearest, {at}, has "
            f"{test.counted.value:.1f}% on {test.counted.n} images, at least {test.bound:.1f}%; "
            "lower the bar, or take more images."
        )
    if report.barred is None:
        assert choice.weighted is not None
        return (
            f"Run it at {at}: {report.value:g} SA + {1 - report.value:g} RA is "
            f"{choice.weighted}%, SA {choice.sa}%, {ra} {choice.ra}%."
        )
    own, other = (choice.sa, choice.ra) if report.barred == "SA" else (choice.ra, choice.sa)
    return (
        f"Run it at {at}: with confidence {sure} {own_name} is at least {percent(report.value)} "
        f"({own.value:.1f}% on {report.n_test} images), and {other_name} is {other}%."
    )


def snippet(report: Calibration) -> str:
    """Return the Python that makes the chosen classifier; empty without a choice."""
    if report.choice is None:
        return ""
    choice, several = report.choice, len(report.widths) > 1
    width = f", width={choice.width!r}" if several or choice.width != 1 else ""
    least = f"at least {percent(report.value)}"
    ra = least if report.barred == "RA" else f"{choice.ra.value:.1f}%"
    return f"model = classifier.at(lam={choice.lam!r}{width})  # RA under {report.attack}: {ra}"


def _notes(report: Calibration) -> list[str]:
    parts = [f"Warning: {report.caution}"] if report.caution else []
    spent, grid = report.spent, report.grid
    parts.append(
        f"It took {spent.attacked:,} attacked images and {spent.predicted:,} clean ones; a grid of "
        f"{report.grid_points // len(report.widths)} lambda values on all images would take about "
        f"{grid.attacked:,} and {grid.predicted:,}: {100 * spent.passes / grid.passes:.0f}% of the "
        "passes."
    )
    if dropped := len(report.points) - len(_shown(report)):
        parts.append(
            f"{dropped} more point{'s were' if dropped > 1 else ' was'} dropped early, beaten by "
            "another, or below the bar, significantly: see calibration.json."
        )
    if report.costs:
        known = [
            f"width {cost.width:g}: {cost.flops:.3g} FLOPs and {cost.latency_ms:g} ms an image"
            f"{'' if cost.fits else ' (too much)'}"
            for cost in report.costs
        ]
        parts.append(f"{'; '.join(known)} ({report.costs[0].machine}).")
    if report.searched_under != report.attack:
        parts.append(
            f"The search attacks with {report.searched_under} alone, the tests and the choice rest "
            f"on {report.attack}."
        )
    starred = not all(point.trained for point in _shown(report))
    held = (
        f"{report.n_search + report.n_test} images of {report.held_out}: SA and RA of the table "
        f"are of the {report.n_search} that the search saw"
    )
    others = (
        f"tests and choice of the {report.n_test} others. Tested in turn, up to the first that "
        "stays open, so that the confidence holds over all points (Learn then Test); to hold the "
        f"bar takes {report.needed} right of {report.n_test}. at least: exact one-sided bound of a "
        "point alone. The interval of the choice holds for all points of the sequence at once."
    )
    others += " * lambda was not trained." * starred
    if report.barred is None:
        sure = f"exact {percent(report.confidence)} intervals"
        others = f"the choice is measured on the {report.n_test} others, with {sure}."
    parts.append(f"{held}, {others}")
    if report.held_out.startswith("the validation split") and report.selection.startswith("best"):
        parts.append(
            "The weights were chosen on the validation split: accuracies on it are a little too "
            "high, and so is what they guarantee. Take --split test."
        )
    return parts
