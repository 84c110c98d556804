"""Images attacked at one lambda and classified at another, as a heat map."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oat_bench.figures import style
from oat_bench.reports.transfer import cells_of, title
from oat_bench.results.transfer import Transfer


@style.styled
def transfer(report: Transfer) -> Figure:
    """Draw RA for each pair of lambda values; what shows masked gradients is framed."""
    cells, sources = cells_of(report)
    lams = sorted({lam for _, lam in cells})
    grid = np.array([[cells[source, lam].value for lam in lams] for source in sources])
    highest = grid.max() or 1.0
    size = (max(1.9 + 0.62 * len(lams), 4.2), max(1.5 + 0.5 * len(sources), 2.8))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
    axes.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams])
    axes.set_yticks(range(len(sources)), [f"{source:g}" for source in sources])
    axes.set(xlabel="classified at lambda", ylabel="attacked at lambda")
    axes.grid(False)
    for (row, column), value in np.ndenumerate(grid):
        tint = "black" if value > 0.6 * highest else "white"
        weight = "bold" if value == grid[:, column].min() else "normal"
        axes.text(column, row, f"{value:.1f}", color=tint, weight=weight, ha="center", va="center")
    for one in report.masked:
        corner = (lams.index(one.lam) - 0.46, sources.index(one.crafted) - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, ec=style.colour(1), lw=2))
    framed = "; framed: significant, gradients are masked" if report.masked else ""
    figure.colorbar(image, ax=axes, label="RA, %")
    figure.suptitle(f"{title(report)}\nbold: what breaks most at a lambda{framed}", fontsize=9)
    return figure
