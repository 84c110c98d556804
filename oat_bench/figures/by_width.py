"""Accuracy, robustness and compute together (OAT paper, figure 6)."""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from oat_bench.figures import style
from oat_bench.figures.frontiers import draw_curves, write_lambdas
from oat_bench.figures.style import NotApplicableError
from oat_bench.reports.per_lambda import short
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import (
    attack_name,
    choose_attack,
    curves,
    labels,
)
from oat_bench.results.points import PointResult
from oat_bench.results.published import Published


@style.styled
def widths(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw SA against RA, a panel for each width, a curve for each model (figure 6).

    Args:
        entries: of one data set and threat model.
        published: rows of the same experiment; those under the attack are drawn.
        attack: whose RA; by default the worst case, or the last attack that all have.

    Raises:
        NotApplicableError: if there is only one width.
        UserError: if not every entry has the attack.
    """
    attack = choose_attack(entries, attack)
    found = _widths(entries)
    figure = Figure(figsize=(0.8 + 2.7 * len(found), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True)
    drawn, names = curves(entries), labels(entries)
    shown = []
    for axes, width in zip(panels, found, strict=True):
        here = [replace(curve, label=names[curve.entry]) for curve in drawn if curve.width == width]
        quoted = [row for row in published if row.width == width]
        draw_curves(axes, here, quoted, attack, [curve.entry for curve in here])
        costs = {point.cost.flops for curve in here for point in curve.points if point.cost}
        axes.set_title(
            f"width {width:g}" + (f", {short(costs.pop())} FLOPs" if len(costs) == 1 else "")
        )
        axes.set_xlabel("SA, %")
        shown.append((axes, here))
    panels[0].set_ylabel(f"RA, %: {attack_name(attack)}")
    figure.suptitle(f"{threat_of(entries[0])} (numbers: lambda)", fontsize=10)
    style.legend(figure)
    style.arrange(figure)  # labels need to know where the points come to lie
    for axes, here in shown:
        write_lambdas(axes, here, attack)
    return figure


@style.styled
def cost(entry: Entry, attack: str | None = None) -> Figure:
    """Draw SA and RA over the FLOPs of an image: a line for each lambda, a point for each width.

    Args:
        entry: of several widths, with its costs.
        attack: whose RA; by default the worst case, or the last attack.

    Raises:
        NotApplicableError: if there is only one width, or the costs were not measured.
        UserError: if the entry does not have the attack.
    """
    attack = choose_attack([entry], attack)
    _widths([entry])
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    by_lambda: dict[float, list[PointResult]] = {}
    for curve in reversed(curves([entry])):  # the narrowest first
        for point in curve.points:
            by_lambda.setdefault(point.lam, []).append(point)
    for place, (lam, points) in enumerate(sorted(by_lambda.items())):
        flops = [point.cost.flops for point in points if point.cost is not None]
        if len(flops) < len(points):
            raise NotApplicableError("the entry has no costs; evaluate the model again")
        robust = [point.robust[attack] for point in points]
        for axes, values in ((left, [p.clean_acc_interval for p in points]), (right, robust)):
            y, tint = [value.value for value in values], style.colour(place)
            axes.errorbar(flops, y, style.spread(values), fmt="none", ecolor=tint, **style.INTERVAL)
            axes.plot(flops, y, color=tint, marker=style.marker(place), label=f"lambda {lam:g}")
    for axes, title in ((left, "SA"), (right, f"RA: {attack_name(attack)}")):
        axes.set(xlabel="FLOPs of an image", title=title)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: short(int(count))))
    left.set_ylabel("accuracy, %")
    figure.suptitle(f"{entry.name}: {threat_of(entry)}", fontsize=10)
    style.legend(figure)
    return figure


def _widths(entries: Sequence[Entry]) -> list[float]:
    found = {point.width for entry in entries for point in entry.operating_points}
    if len(found) < 2:
        raise NotApplicableError("only one width was evaluated; see --method oats and --widths")
    return sorted(found, reverse=True)
