"""SA against RA, a curve for each model (OAT paper, figures 4 and 7)."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from oat_bench.figures import style
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import (
    Curve,
    attack_name,
    choose_attack,
    common_attacks,
    curves,
)
from oat_bench.results.published import Published, by_label

#: points nearer to each other than this share a label
_NEAR = 14.0


@style.styled
def frontier(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw the frontiers of several models under one attack (figure 4).

    Args:
        entries: of one data set and threat model.
        published: rows of the same experiment; those under the attack are drawn.
        attack: whose RA; by default the worst case, or the last attack that all have.

    Raises:
        UserError: if not every entry has the attack.
    """
    attack = choose_attack(entries, attack)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    drawn = curves(entries)
    draw_curves(axes, drawn, published, attack)
    axes.set(xlabel="standard accuracy (SA), %", ylabel="robust accuracy (RA), %")
    axes.set_title(f"{threat_of(entries[0])}: {attack_name(attack)} (numbers: lambda)")
    style.legend(figure)
    style.arrange(figure)  # labels need to know where the points come to lie
    write_lambdas(axes, drawn, attack)
    return figure


@style.styled
def attacks(entries: Sequence[Entry], published: Sequence[Published] = ()) -> Figure:
    """Draw the frontiers of several models, a panel for each attack (figure 7).

    Args:
        entries: of one data set and threat model.
        published: rows of the same experiment.

    Raises:
        UserError: if the entries have no attack in common.
    """
    choose_attack(entries)
    names = common_attacks(entries)
    drawn = curves(entries)
    columns = min(3, len(names))
    rows = ceil(len(names) / columns)
    figure = Figure(figsize=(0.6 + 2.7 * columns, 0.9 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        draw_curves(axes, drawn, published, name)
        axes.set_title(attack_name(name))
    for axes in grid[len(names) :]:
        axes.remove()
    for axes in grid[max(len(names) - columns, 0) : len(names)]:
        axes.tick_params(labelbottom=True)  # the last of each column, whole row or not
        axes.set_xlabel("SA, %")
    for axes in grid[: len(names) : columns]:
        axes.set_ylabel("RA, %")
    figure.suptitle(threat_of(entries[0]), fontsize=10)
    style.legend(figure)
    return figure


def draw_curves(
    axes: Axes,
    drawn: Sequence[Curve],
    published: Sequence[Published],
    attack: str,
    places: Sequence[int] | None = None,
) -> None:
    """Draw SA against RA into a panel.

    Args:
        axes: the panel.
        drawn: the curves.
        published: rows to draw beside them.
        attack: whose RA.
        places: what colours and markers go by; one after the other if None.
    """
    for place, curve in zip(places or range(len(drawn)), drawn, strict=True):
        clean, robust = curve.clean(), curve.robust(attack)
        x, y = [i.value for i in clean], [i.value for i in robust]
        tint = style.colour(place)
        axes.errorbar(
            x,
            y,
            style.spread(robust),
            style.spread(clean),
            fmt="none",
            ecolor=tint,
            **style.INTERVAL,
        )
        axes.plot(x, y, color=tint, marker=style.marker(place), label=curve.label, zorder=3)
    whole = [row for row in published if row.sa is not None and row.ra is not None]
    for place, (label, rows) in enumerate(by_label(whole, attack).items()):
        axes.plot(
            np.array([row.sa for row in rows], dtype=np.float64),
            np.array([row.ra for row in rows], dtype=np.float64),
            color=style.QUOTED,
            linestyle="--",
            linewidth=1,
            marker=style.marker(place),
            markerfacecolor="white",
            label=label,
            zorder=2,
        )
    axes.margins(0.08)


def write_lambdas(axes: Axes, drawn: Sequence[Curve], attack: str) -> None:
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
        right = place % 2 == 0  # of two curves that meet, one is written on each side
        for x, y, group in groups:
            axes.annotate(
                ", ".join(group),
                tuple(axes.transData.inverted().transform((x, y))),
                textcoords="offset points",
                xytext=(5, 5) if right else (-5, -5),
                horizontalalignment="left" if right else "right",
                verticalalignment="bottom" if right else "top",
                fontsize=7.5,
                color=style.colour(place),
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=6,
            )
