"""The one look of all figures, and how they are written."""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from oat_bench.errors import UserError
from oat_bench.files import atomic_write
from oat_bench.statistics.accuracy import Estimate

P = ParamSpec("P")

#: Okabe and Ito's palette, which colour-blind readers can tell apart; yellow, too pale, left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: a second sign beside the colour
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: what is not measured here, but quoted
QUOTED = "0.45"
FORMATS = (".svg", ".png", ".pdf")

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
#: how an interval is drawn: there, but behind the points
INTERVAL: dict[str, Any] = {"elinewidth": 1.0, "alpha": 0.35}


class NotApplicableError(UserError):
    """A figure that cannot be drawn of what it was given; the line says why."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common style, and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


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
    figure.draw_without_rendering()


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_STYLE["font.family"])).get_charmap())


def colour(place: int) -> str:
    """Return the colour of the curve at a place."""
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    """Return the marker of the curve at a place."""
    return MARKERS[place % len(MARKERS)]


def spread(intervals: Sequence[Estimate]) -> list[list[float]]:
    """Return lengths below and above the values, as matplotlib takes them, never below zero."""
    return [
        [max(i.value - i.low, 0.0) for i in intervals],
        [max(i.high - i.value, 0.0) for i in intervals],
    ]


def legend(figure: Figure) -> None:
    """Put one legend, of the curves of all panels, below them."""
    known = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4)


def write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure; the same figure is the same file.

    Args:
        figure: drawn by one of this package.
        path: its ending is the format; without one of `FORMATS`, SVG and PNG are written.

    Returns:
        The files.

    Raises:
        UserError: if the ending is no format.
    """
    if path.suffix and path.suffix not in FORMATS:
        raise UserError(
            f"{path}: unknown format {path.suffix!r}; expected {', '.join(FORMATS)}, or no ending "
            "for SVG and PNG"
        )
    paths = [path] if path.suffix else [path.with_name(path.name + s) for s in (".svg", ".png")]
    _lay_out(figure)
    for target in paths:
        atomic_write(target, _render(figure, target.suffix[1:]))
    return paths


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG; the same figure is the same file."""
    _lay_out(figure)
    return _render(figure, "svg")


def _lay_out(figure: Figure) -> None:
    with mpl.rc_context(_STYLE):
        arrange(figure)
        figure.set_layout_engine("none")  # laid out once, not for every format


def _render(figure: Figure, kind: str) -> bytes:
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    buffer = BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
