"""The one look of all figures, and how they are written."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from oat_bench.errors import UserError
from oat_bench.files import atomic_write
from oat_bench.results.entries import Entry
from oat_bench.statistics.accuracy import Estimate

#: Okabe and Ito's palette, which colour-blind readers can tell apart; yellow, too pale, left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: a second sign beside the colour
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = (".svg", ".png", ".pdf")
Values = Sequence[float]
Estimates = Sequence[Estimate]
_QUOTED: Any = {"color": "0.45", "ls": "--", "lw": 1, "markerfacecolor": "white", "zorder": 2}

_STYLE: Any = {
    "svg.hashsalt": "oat-bench",  # the same figure is the same file
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,  # names are names, dollar signs in them too
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "errorbar.capsize": 0,
    "savefig.dpi": 150,
    "figure.dpi": 150,
}
#: draws in the common style, and leaves matplotlib's own settings as they were
styled = mpl.rc_context(_STYLE)


class NotApplicableError(UserError):
    """A figure that cannot be drawn of what it was given; the line says why."""


def drawable(text: str) -> str:
    """Write a character that the font has no glyph for by its code, as Python does."""
    return "".join(
        c if c == "\n" or ord(c) in _glyphs() else c.encode("unicode_escape").decode()
        for c in text.replace("\t", " ")
    )


def arrange(figure: Figure) -> None:
    """Have everything find its place, with nothing written that the font lacks."""
    for text in figure.findobj(Text):
        text.set_text(drawable(text.get_text()))
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_STYLE["font.family"])).get_charmap())


def colour(place: int) -> str:
    """Return the colour of the curve at a place."""
    return COLOURS[place % len(COLOURS)]


def look(place: int) -> dict[str, Any]:
    """Return colour and marker of the curve at a place."""
    return {"color": colour(place), "marker": MARKERS[place % len(MARKERS)]}


def curve(
    axes: Axes, x: Values | Estimates, y: Estimates, place: int, label: str, *, stars: bool = False
) -> None:
    """Draw a model's points with their intervals, as a line or as stars; nothing of no points."""
    if not y:
        return
    across = [value for value in x if isinstance(value, Estimate)]
    xs = [value.value if isinstance(value, Estimate) else value for value in x]
    ys, how = [interval.value for interval in y], look(place) | {"zorder": 3}
    bars: Any = {"ecolor": how["color"], "elinewidth": 1, "alpha": 0.35}
    axes.errorbar(xs, ys, spread(y), spread(across) if across else None, fmt="none", **bars)
    if stars:
        how |= {"marker": "*", "linestyle": "none", "markersize": 10, "zorder": 4}
        how["markeredgecolor"] = "white"
    axes.plot(xs, ys, label=label, **how)


def quote(
    axes: Axes, x: Values, y: Values, place: int, label: str, doubt: Values | None = None
) -> None:
    """Draw what was published: in grey, dashed and hollow, with its uncertainty if there is one."""
    axes.errorbar(x, y, doubt, label=label, **look(place) | _QUOTED)


def write_beside(
    axes: Axes, text: str, at: tuple[float, float], place: int, *, right: bool = True
) -> None:
    """Write text above and to the right of a point, or below and to the left."""
    where: Any = {"xytext": (5, 5), "ha": "left", "va": "bottom"}
    if not right:
        where = {"xytext": (-5, -5), "ha": "right", "va": "top"}
    where |= {"textcoords": "offset points", "fontsize": 7.5, "color": colour(place), "zorder": 6}
    halo = withStroke(linewidth=2.5, foreground="white")
    axes.annotate(text, at, path_effects=[halo], **where)


def spread(intervals: Estimates) -> list[list[float]]:
    """Return lengths below and above the values, as matplotlib takes them, never below zero."""
    lengths = [(i.value - i.low, i.high - i.value) for i in intervals]
    return [[max(length, 0.0) for length in side] for side in zip(*lengths, strict=True)]


def widths(entries: Sequence[Entry]) -> list[float]:
    """Return the widths of entries, the widest first; only one is `NotApplicableError`."""
    found = {point.width for entry in entries for point in entry.operating_points}
    if len(found) < 2:
        raise NotApplicableError("only one width was evaluated; see --method oats and --widths")
    return sorted(found, reverse=True)


def legend(figure: Figure) -> Figure:
    """Put one legend, of the curves of all panels, below them; return the figure."""
    known: dict[Any, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        known |= zip(labels, handles, strict=True)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4)
    return figure


def write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in the format of the ending, without one as SVG and PNG; return the files."""
    if path.suffix and path.suffix not in FORMATS:
        raise UserError(
            f"{path}: unknown format {path.suffix!r}; expected {', '.join(FORMATS)}, or no ending "
            "for SVG and PNG"
        )
    paths = [path] if path.suffix else [path.with_name(path.name + s) for s in (".svg", ".png")]
    rendered = _render(figure, *(target.suffix[1:] for target in paths))
    for target, content in zip(paths, rendered, strict=True):
        atomic_write(target, content)
    return paths


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    return _render(figure, "svg")[0]


@styled
def _render(figure: Figure, *kinds: str) -> list[bytes]:
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    buffers = [BytesIO() for _ in kinds]
    arrange(figure)
    figure.set_layout_engine("none")  # laid out once, not for every format
    for kind, buffer in zip(kinds, buffers, strict=True):
        figure.savefig(buffer, format=kind, metadata=dates[kind])
    return [buffer.getvalue() for buffer in buffers]
