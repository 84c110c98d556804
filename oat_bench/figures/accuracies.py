"""SA and RA side by side, over lambda (OAT paper, figures 5 and 8) or over what an image costs."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from oat_bench.figures import style
from oat_bench.figures.style import NotApplicableError, Values
from oat_bench.reports.table import short
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import attack_name, choose_attack, curves
from oat_bench.results.points import PointResult
from oat_bench.results.published import Published, by_label


@style.styled
def by_lambda(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw SA and RA over lambda, a curve for each model (figure 8); see `frontiers.frontier`."""
    attack = choose_attack(entries, attack)
    figure, panels = _panels(threat_of(entries[0]), "lambda", attack)
    for place, curve in enumerate(curves(entries)):
        _draw(panels, curve.lambdas(), curve.points, attack, place=place, label=curve.label)
    for place, (label, rows) in enumerate(by_label(published, attack).items()):
        for axes, name in zip(panels, ("sa", "ra"), strict=True):
            known = [row for row in rows if getattr(row, name) is not None]
            lams, values = [row.lam for row in known], [getattr(row, name) for row in known]
            style.quote(axes, lams, values, place, label, [row.uncertainty for row in known])
    return style.legend(figure)


@style.styled
def unseen(entries: Sequence[Entry], attack: str | None = None) -> Figure:
    """Draw trained lambda values as a line, and unseen ones as stars beside it (figure 5)."""
    attack = choose_attack(entries, attack)
    if all(point.trained for entry in entries for point in entry.operating_points):
        raise NotApplicableError(
            "no lambda was evaluated that was not trained; add some with --lambda, such as 0.15,0.7"
        )
    figure, panels = _panels(threat_of(entries[0]), "lambda", attack)
    for place, curve in enumerate(curves(entries)):
        for trained, name in ((True, "trained"), (False, "unseen")):
            points = [point for point in curve.points if point.trained == trained]
            lambdas, label = [point.lam for point in points], f"{curve.label}, {name}"
            _draw(panels, lambdas, points, attack, place=place, label=label, stars=not trained)
    return style.legend(figure)


@style.styled
def cost(entry: Entry, attack: str | None = None) -> Figure:
    """Draw SA and RA over the FLOPs of an image: a line for each lambda, a point for each width."""
    attack = choose_attack([entry], attack)
    style.widths([entry])
    figure, panels = _panels(f"{entry.name}: {threat_of(entry)}", "FLOPs of an image", attack)
    found: dict[float, list[PointResult]] = {}
    for curve in reversed(curves([entry])):  # the narrowest first
        for point in curve.points:
            found.setdefault(point.lam, []).append(point)
    for place, (lam, points) in enumerate(sorted(found.items())):
        flops = [point.cost.flops for point in points if point.cost is not None]
        if len(flops) < len(points):
            raise NotApplicableError("the entry has no costs; evaluate the model again")
        _draw(panels, flops, points, attack, place=place, label=f"lambda {lam:g}")
    for axes in panels:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: short(int(count))))
    return style.legend(figure)


def _panels(title: str, xlabel: str, attack: str) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.set(xlabel=xlabel, ylabel="accuracy, %", title="SA")
    right.set(xlabel=xlabel, title=f"RA: {attack_name(attack)}")
    figure.suptitle(title, fontsize=10)
    return figure, (left, right)


def _draw(
    panels: tuple[Axes, Axes], x: Values, points: Sequence[PointResult], attack: str, **how: Any
) -> None:
    robust = [point.robust[attack] for point in points]
    for axes, y in zip(panels, ([p.clean_acc_interval for p in points], robust), strict=True):
        style.curve(axes, x, y, **how)
