"""Images attacked at one lambda and classified at another, as a heat map."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oat_bench.figures import style
from oat_bench.reports.transfer import title
from oat_bench.results.transfer import Transfer


@style.styled
def transfer(report: Transfer) -> Figure:
    """Draw RA for each pair of lambda values.

    What breaks most in a column is bold; what shows masked gradients there is framed.
    """
    sources = sorted({cell.crafted for cell in report.cells})
    lams = sorted({cell.lam for cell in report.cells})
    values = {(cell.crafted, cell.lam): cell.ra.value for cell in report.cells}
    grid = np.array([[values[source, lam] for lam in lams] for source in sources])
    highest = grid.max() or 1.0
    size = (1.9 + 0.62 * len(lams), 1.5 + 0.5 * len(sources))
    figure = Figure(figsize=(max(size[0], 4.2), max(size[1], 2.8)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
    axes.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams])
    axes.set_yticks(range(len(sources)), [f"{source:g}" for source in sources])
    axes.set_xlabel("classified at lambda")
    axes.set_ylabel("attacked at lambda")
    axes.grid(False)
    for (row, column), value in np.ndenumerate(grid):
        tint = "black" if value > 0.6 * highest else "white"
        weight = "bold" if value == grid[:, column].min() else "normal"
        at = {"ha": "center", "va": "center"}
        axes.text(column, row, f"{value:.1f}", color=tint, fontweight=weight, **at)
    for one in report.masked:
        corner = (lams.index(one.lam) - 0.46, sources.index(one.crafted) - 0.46)
        frame = Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=style.colour(1), linewidth=2)
        axes.add_patch(frame)
    framed = "; framed: beyond chance, gradients are masked" if report.masked else ""
    figure.colorbar(image, ax=axes, label="RA, %")
    figure.suptitle(f"{title(report)}\nbold: what breaks most at a lambda{framed}", fontsize=9)
    return figure
