"""Figures of an evaluation."""

from io import BytesIO
from pathlib import Path

from oat_bench.evaluation.statistics import WORST, PointResult
from oat_bench.files import atomic_write


def frontier(results: list[PointResult], title: str, folder: Path, name: str = "frontier") -> None:
    """Draw SA against RA, one line an attack, a point a lambda (OAT paper, figure 4).

    The worst case over attacks is drawn thick, with 95% intervals and its lambda written beside.
    Writes ``name.svg`` and ``name.png``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "oat-bench"  # the same figure is the same file
    figure, axes = plt.subplots(figsize=(7.0, 4.6), layout="constrained")
    clean = [r.clean.value for r in results]
    for attack in results[0].robust:
        accuracies = [r.robust[attack] for r in results]
        values = [a.value for a in accuracies]
        if attack != WORST:
            axes.plot(clean, values, "o-", markersize=3, linewidth=1, alpha=0.7, label=attack)
            continue
        spread = [
            [a.value - a.low for a in accuracies],
            [a.high - a.value for a in accuracies],
        ]
        sideways = [
            [r.clean.value - r.clean.low for r in results],
            [r.clean.high - r.clean.value for r in results],
        ]
        axes.errorbar(
            clean,
            values,
            yerr=spread,
            xerr=sideways,
            fmt="s-",
            color="black",
            ecolor="0.75",
            linewidth=2,
            elinewidth=1,
            markersize=4,
            label="worst case",
            zorder=5,
        )
        # points that lie on each other share a label
        labels: dict[tuple[float, float], list[str]] = {}
        for result, value in zip(results, values, strict=True):
            near = (round(result.clean.value, 1), round(value / 3))
            labels.setdefault(near, []).append(f"{result.lam:g}")
        for result, value in zip(results, values, strict=True):
            near = (round(result.clean.value, 1), round(value / 3))
            axes.annotate(
                ", ".join(labels.pop(near, [])),
                (result.clean.value, value),
                textcoords="offset points",
                xytext=(5, 5),
                fontsize=8,
                zorder=6,
            )
    axes.set_xlabel("standard accuracy (SA), %")
    axes.set_ylabel("robust accuracy (RA), %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, title="attack (numbers: lambda)", title_fontsize=8)
    for kind in ("svg", "png"):
        buffer = BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        atomic_write(folder / f"{name}.{kind}", buffer.getvalue())
    plt.close(figure)
