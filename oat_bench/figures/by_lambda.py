"""Lambda against SA and RA (OAT paper, figures 5 and 8)."""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oat_bench.figures import style
from oat_bench.figures.style import NotApplicableError
from oat_bench.results.entries import Entry, threat_of
from oat_bench.results.models import attack_name, choose_attack, curves
from oat_bench.results.published import Published, by_label
from oat_bench.statistics.accuracy import Accuracy


@style.styled
def by_lambda(
    entries: Sequence[Entry], published: Sequence[Published] = (), attack: str | None = None
) -> Figure:
    """Draw SA and RA over lambda, a curve for each model (figure 8).

    Args:
        entries: of one data set and threat model.
        published: rows of the same experiment; those under the attack are drawn.
        attack: whose RA; by default the worst case, or the last attack that all have.

    Raises:
        UserError: if not every entry has the attack.
    """
    attack = choose_attack(entries, attack)
    figure, (left, right) = _panels(entries, attack)
    for place, curve in enumerate(curves(entries)):
        for axes, values in ((left, curve.clean()), (right, curve.robust(attack))):
            _line(axes, curve.lambdas(), values, place, curve.label)
    for place, (label, rows) in enumerate(by_label(published, attack).items()):
        for axes, name in ((left, "sa"), (right, "ra")):
            known = [row for row in rows if getattr(row, name) is not None]
            axes.errorbar(
                [row.lam for row in known],
                [getattr(row, name) for row in known],
                [row.uncertainty for row in known],
                color=style.QUOTED,
                linestyle="--",
                linewidth=1,
                marker=style.marker(place),
                markerfacecolor="white",
                label=label,
                zorder=2,
            )
    style.legend(figure)
    return figure


@style.styled
def unseen(entries: Sequence[Entry], attack: str | None = None) -> Figure:
    """Draw trained lambda as a line, and unseen ones as stars beside it (figure 5).

    Args:
        entries: of one data set and threat model.
        attack: whose RA; by default the worst case, or the last attack that all have.

    Raises:
        NotApplicableError: if no unseen lambda was evaluated.
        UserError: if not every entry has the attack.
    """
    attack = choose_attack(entries, attack)
    if all(point.trained for entry in entries for point in entry.operating_points):
        raise NotApplicableError(
            "no lambda was evaluated that was not trained; add some with --lambda, such as 0.15,0.7"
        )
    figure, (left, right) = _panels(entries, attack)
    for place, curve in enumerate(curves(entries)):
        seen = replace(curve, points=[point for point in curve.points if point.trained])
        new = replace(curve, points=[point for point in curve.points if not point.trained])
        for axes, one, other in (
            (left, seen.clean(), new.clean()),
            (right, seen.robust(attack), new.robust(attack)),
        ):
            _line(axes, seen.lambdas(), one, place, f"{curve.label}, trained")
            _line(axes, new.lambdas(), other, place, f"{curve.label}, unseen", stars=True)
    style.legend(figure)
    return figure


def _panels(entries: Sequence[Entry], attack: str) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.set(xlabel="lambda", ylabel="accuracy, %", title="SA")
    right.set(xlabel="lambda", title=f"RA: {attack_name(attack)}")
    figure.suptitle(threat_of(entries[0]), fontsize=10)
    return figure, (left, right)


def _line(
    axes: Axes,
    lambdas: Sequence[float],
    values: Sequence[Accuracy],
    place: int,
    label: str,
    stars: bool = False,
) -> None:
    if not values:
        return
    y = [interval.value for interval in values]
    tint = style.colour(place)
    axes.errorbar(lambdas, y, style.spread(values), fmt="none", ecolor=tint, **style.INTERVAL)
    axes.plot(
        lambdas,
        y,
        color=tint,
        linestyle="none" if stars else "-",
        marker="*" if stars else style.marker(place),
        markersize=10 if stars else None,
        markeredgecolor="white" if stars else tint,
        label=label,
        zorder=4 if stars else 3,
    )
