"""SA against RA, a curve for each model (OAT paper, figures 4, 6 and 7)."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oat_bench.figures import style
from oat_bench.reports.table import short
from oat_bench.results import models
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.published import Published, by_label

#: points nearer to each other than this share a label
_NEAR = 14.0


@style.styled
def frontier(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw the frontiers of models of one data set and threat model under one attack (figure 4).

    ``attack`` is by default, as in the other figures, the worst case or the last that all have.
    """
    attack = models.choose_attack(entries, attack)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes, drawn = figure.subplots(), models.curves(entries)
    _draw(axes, dict(enumerate(drawn)), published, attack)
    axes.set(xlabel="standard accuracy (SA), %", ylabel="robust accuracy (RA), %")
    axes.set_title(f"{threat_of(entries[0])}: {models.attack_name(attack)} (numbers: lambda)")
    style.legend(figure)
    style.arrange(figure)  # labels need to know where the points come to lie
    _write_lambdas(axes, drawn, attack)
    return figure


@style.styled
def attacks(entries: Sequence[Entry], published: Sequence[Published] = ()) -> Figure:
    """Draw the frontiers of several models, a panel for each attack that all have (figure 7)."""
    models.choose_attack(entries)
    names, drawn = models.common_attacks(entries), models.curves(entries)
    columns = min(3, len(names))
    rows = ceil(len(names) / columns)
    figure = Figure(figsize=(0.6 + 2.7 * columns, 0.9 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        _draw(axes, dict(enumerate(drawn)), published, name)
        axes.set_title(models.attack_name(name))
    for axes in grid[len(names) :]:
        axes.remove()
    for axes in grid[len(names) - columns : len(names)]:
        axes.tick_params(labelbottom=True)  # the last of each column, whole row or not
        axes.set_xlabel("SA, %")
    for axes in grid[: len(names) : columns]:
        axes.set_ylabel("RA, %")
    figure.suptitle(threat_of(entries[0]), fontsize=10)
    return style.legend(figure)


@style.styled
def widths(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw SA against RA, a panel for each width, a curve for each model (figure 6)."""
    attack = models.choose_attack(entries, attack)
    found = style.widths(entries)
    figure = Figure(figsize=(0.8 + 2.7 * len(found), 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True)
    names = models.labels(entries)
    drawn = [replace(curve, label=names[curve.entry]) for curve in models.curves(entries)]
    shown = [[curve for curve in drawn if curve.width == width] for width in found]
    for axes, width, here in zip(panels, found, shown, strict=True):
        quoted = [row for row in published if row.width == width]
        _draw(axes, {curve.entry: curve for curve in here}, quoted, attack)
        costs = {point.cost.flops for curve in here for point in curve.points if point.cost}
        flops = f", {short(costs.pop())} FLOPs" if len(costs) == 1 else ""
        axes.set(title=f"width {width:g}{flops}", xlabel="SA, %")
    panels[0].set_ylabel(f"RA, %: {models.attack_name(attack)}")
    figure.suptitle(f"{threat_of(entries[0])} (numbers: lambda)", fontsize=10)
    style.legend(figure)
    style.arrange(figure)
    for axes, here in zip(panels, shown, strict=True):
        _write_lambdas(axes, here, attack)
    return figure


def _draw(
    axes: Axes, drawn: dict[int, models.Curve], published: Sequence[Published], attack: str
) -> None:
    for place, curve in drawn.items():
        style.curve(axes, curve.clean(), curve.robust(attack), place, curve.label)
    whole = [row for row in published if row.sa is not None and row.ra is not None]
    for place, (label, rows) in enumerate(by_label(whole, attack).items()):
        sa, ra = [row.sa or 0.0 for row in rows], [row.ra or 0.0 for row in rows]
        style.quote(axes, sa, ra, place, label)
    axes.margins(0.08)


def _write_lambdas(axes: Axes, drawn: Sequence[models.Curve], attack: str) -> None:
    """Write lambda beside the points: all of them of a single curve, else the ends."""
    for place, curve in enumerate(drawn):
        points = list(zip(curve.clean(), curve.robust(attack), curve.lambdas(), strict=True))
        if len(drawn) > 1:
            points = points[:: max(len(points) - 1, 1)]
        groups: list[tuple[float, float, list[str]]] = []
        for clean, robust, lam in points:
            x, y = axes.transData.transform((clean.value, robust.value))
            near = [g for g in groups if abs(x - g[0]) < 2 * _NEAR and abs(y - g[1]) < _NEAR]
            if near:
                near[0][2].append(f"{lam:g}")
            else:
                groups.append((x, y, [f"{lam:g}"]))
        for x, y, group in groups:
            x, y = axes.transData.inverted().transform((x, y))
            # of two curves that meet, one is written on each side
            style.write_beside(axes, ", ".join(group), (x, y), place, right=place % 2 == 0)
