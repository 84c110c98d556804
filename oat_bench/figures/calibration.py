"""The points of a calibration, the bar, and the choice: SA against RA."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from oat_bench.calibration.report import Calibration, percent
from oat_bench.figures import style
from oat_bench.statistics.accuracy import Estimate


@style.styled
def calibration(report: Calibration) -> Figure:
    """Draw what the search saw, the bar, and the choice with its intervals.

    Points of the sequence of tests are filled, others hollow; numbers are lambda.

    Args:
        report: from `oat_bench.calibration.calibrate`.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for place, width in enumerate(report.widths):
        drawn = [(p, p.ra) for p in report.points if p.width == width and p.ra is not None]
        label = f"width {width:g}, search" if len(report.widths) > 1 else "search"
        label += f", {report.searched_under}"
        tint = style.colour(place)
        axes.plot(
            [p.sa.value for p, _ in drawn],
            [ra.value for _, ra in drawn],
            color=tint,
            marker=style.marker(place),
            markerfacecolor="white",
            linewidth=0.8,
            alpha=0.45,
            label=label,
        )
        tested = [(p, ra) for p, ra in drawn if p.planned is not None]
        axes.plot(
            [p.sa.value for p, _ in tested],
            [ra.value for _, ra in tested],
            color=tint,
            marker=style.marker(place),
            linestyle="none",
        )
        for point, ra in tested:
            axes.annotate(
                f"{point.lam:g}",
                (point.sa.value, ra.value),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7.5,
                color=tint,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=6,
            )
    if report.choice is not None:
        _draw_choice(report, axes)
    if report.barred is not None:
        bar = 100 * report.value
        low, high = axes.get_xlim() if report.barred == "SA" else axes.get_ylim()
        low, high = min(low, bar - 0.05 * (high - low)), max(high, bar + 0.05 * (high - low))
        under = f" under {report.attack}" if report.barred == "RA" else ""
        label = f"bar: {report.barred}{under} {percent(report.value)}"
        if report.barred == "SA":
            axes.axvspan(low, bar, color="0.9", zorder=0)
            axes.axvline(bar, color="0.3", linestyle="--", linewidth=1, label=label)
            axes.set_xlim(low, high)
        else:
            axes.axhspan(low, bar, color="0.9", zorder=0)
            axes.axhline(bar, color="0.3", linestyle="--", linewidth=1, label=label)
            axes.set_ylim(low, high)
    axes.set(xlabel="standard accuracy (SA), %", ylabel="robust accuracy (RA), %")
    axes.set_title(
        f"{report.dataset}, {report.method.upper()}, RA under {report.attack}, "
        f"{report.threat_model} eps {report.eps}\n(numbers: lambda of the points to test)"
    )
    style.legend(figure)
    return figure


def _draw_choice(report: Calibration, axes: Axes) -> None:
    choice = report.choice
    assert choice is not None
    axes.errorbar(
        choice.sa.value,
        choice.ra.value,
        yerr=_spread(choice.ra),
        xerr=_spread(choice.sa),
        fmt="*",
        color="black",
        markersize=11,
        elinewidth=1,
        label=f"choice, {report.attack}, {report.n_test} other images",
        zorder=7,
    )


def _spread(bounded: Estimate) -> list[list[float]]:
    return [[bounded.value - bounded.low], [bounded.high - bounded.value]]
