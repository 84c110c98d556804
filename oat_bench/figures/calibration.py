"""The points of a calibration, the bar, and the choice: SA against RA."""

from typing import Any

from matplotlib.figure import Figure

from oat_bench.calibration.report import Calibration
from oat_bench.figures import style
from oat_bench.reports.calibration import percent


@style.styled
def calibration(report: Calibration) -> Figure:
    """Draw what the search saw (points to test filled), the bar, the choice with its intervals."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for place, width in enumerate(report.widths):
        drawn = [(p, p.ra.value) for p in report.points if p.width == width and p.ra is not None]
        label = f"width {width:g}, search" if len(report.widths) > 1 else "search"
        look = style.look(place)
        hollow = look | {"markerfacecolor": "white", "linewidth": 0.8, "alpha": 0.45}
        sa, ra = [point.sa.value for point, _ in drawn], [value for _, value in drawn]
        axes.plot(sa, ra, label=f"{label}, {report.searched_under}", **hollow)
        for point, value in drawn:
            if point.planned is not None:
                at = (point.sa.value, value)
                axes.plot(*at, **look)
                style.write_beside(axes, f"{point.lam:g}", at, place)
    if (choice := report.choice) is not None:
        lengths = style.spread([choice.ra]), style.spread([choice.sa])
        label = f"choice, {report.attack}, {report.n_test} other images"
        star: Any = {"fmt": "*", "color": "black", "markersize": 11, "elinewidth": 1, "zorder": 7}
        axes.errorbar(choice.sa.value, choice.ra.value, *lengths, label=label, **star)
    if report.barred is not None:
        bar = 100 * report.value
        across = report.barred == "SA"
        low, high = axes.get_xlim() if across else axes.get_ylim()
        low, high = min(low, bar - 0.05 * (high - low)), max(high, bar + 0.05 * (high - low))
        name = "SA" if across else f"RA under {report.attack}"
        span, line = (axes.axvspan, axes.axvline) if across else (axes.axhspan, axes.axhline)
        span(low, bar, color="0.9", zorder=0)
        line(bar, color="0.3", ls="--", lw=1, label=f"bar: {name} {percent(report.value)}")
        axes.set(**{"xlim" if across else "ylim": (low, high)})
    axes.set(xlabel="standard accuracy (SA), %", ylabel="robust accuracy (RA), %")
    axes.set_title(
        f"{report.dataset}, {report.method.upper()}, RA under {report.attack}, "
        f"{report.threat_model} eps {report.eps}\n(numbers: lambda of the points to test)"
    )
    return style.legend(figure)
