"""Charts as pages hold them: frontiers, placed in percent of the plot so that they fit a screen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from oat_bench.escape import one_line
from oat_bench.leaderboards.site.plan import Board, Row
from oat_bench.results.models import attack_name
from oat_bench.results.points import PointResult
from oat_bench.results.robustbench import RobustBenchPoint
from oat_bench.statistics.accuracy import WORST, Accuracy

_COLOURS, _SHAPES, _DASHES = (
    8,
    7,
    4,
)  # classes of the style: c0 and on, symbols s0 and on, d0 and on
_WIDE, _NARROW = (620, 400), (270, 320)  # pixels of a plot on a desk and on a phone, or less
_SIDES = {"ne": (1, -1), "sw": (-1, 1), "nw": (-1, -1), "se": (1, 1)}
_Pair = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One operating point; all places are in percent of the plot, from its top left."""

    at: _Pair
    across: _Pair  # the interval of SA
    along: _Pair  # and that of RA
    lam: float | None
    label: str
    says: str
    place: str = ""  # classes: on which side the label is, on a wide and on a narrow screen


@dataclass(frozen=True)
class Curve:
    """One model under one attack."""

    key: str  # of the row or of the attack
    name: str
    look: str  # classes of colour and dashes
    shape: int
    marks: list[Mark]


@dataclass(frozen=True)
class Plot:
    """Curves that are seen together."""

    key: str  # of the attack or of the width
    x: list[tuple[float, str]]  # ticks: where, and what they say
    y: list[tuple[float, str]]
    curves: list[Curve]


@dataclass(frozen=True)
class _Raw:
    key: str
    name: str
    look: str
    shape: int
    points: list[tuple[Accuracy, Accuracy, float | None, str]]  # SA, RA, lambda, what it says


def of_board(board: Board, methods: Sequence[str]) -> list[Plot]:
    """Draw a board's rows, a plot for each attack; ``methods`` are those of all boards."""
    return [_plot(name, _rows(board, name, methods)) for name in board.attacks]


def of_model(rows: Sequence[Row], attacks: Sequence[str]) -> list[Plot]:
    """Draw a model's attacks, a plot for each width."""
    return [
        _plot(str(place), _attacks(row, attacks), together=False) for place, row in enumerate(rows)
    ]


def _rows(board: Board, attack: str, methods: Sequence[str]) -> list[_Raw]:
    found, seen = [], dict[str, int]()
    for place, row in enumerate(board.rows):
        score, method = row.scores[attack], row.model.entry.method
        number = seen[method] = seen.get(method, -1) + 1
        points = _points(row, attack, row.label) if score.model is not None else []
        dashes = "doubted" if score.doubts else f"d{number % _DASHES}"
        name = f"{row.label} (unreliable)" if score.doubts else row.label
        which = methods.index(method)
        look = f"c{which % _COLOURS} {dashes}"
        found.append(_Raw(str(place), name, look, which % _SHAPES, points))
    fixed = [(point, ra) for point in board.fixed if (ra := point.robust(attack)) is not None]
    if fixed:
        points = [_fixed(point, ra) for point, ra in fixed]
        found.append(_Raw("fixed", "RobustBench", "fixed", 3, points))
    return found


def _attacks(row: Row, attacks: Sequence[str]) -> list[_Raw]:
    return [
        _Raw(
            attack,
            attack_name(attack),
            "worst" if attack == WORST else f"c{place % _COLOURS}",
            place % _SHAPES,
            _points(row, attack, attack_name(attack)),
        )
        for place, attack in enumerate(attacks)
    ]


def _points(
    row: Row, attack: str, label: str
) -> list[tuple[Accuracy, Accuracy, float | None, str]]:
    return [
        (point.clean_acc_interval, ra, point.lam, _says(label, point, ra, attack))
        for point in row.points
        if (ra := point.robust.get(attack)) is not None
    ]


def _says(label: str, point: PointResult, ra: Accuracy, attack: str) -> str:
    trained = "" if point.trained else " (not trained)"
    sampled = "" if ra.sampled is None else f" (m {ra.sampled})"
    return one_line(
        f"{label}: lambda {point.lam:g}{trained}, width {point.width:g}; "
        f"SA {_accuracy(point.clean_acc_interval)}, n {point.n}; "
        f"RA {_accuracy(ra)}, n {ra.n or point.n}{sampled}, {attack_name(attack)}"
    )


def _accuracy(one: Accuracy) -> str:
    return f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"


def _fixed(point: RobustBenchPoint, ra: float) -> tuple[Accuracy, Accuracy, None, str]:
    sa, robust = (Accuracy(value=one, low=one, high=one) for one in (point.clean_acc, ra))
    says = f"{point.name}: {point.architecture}; SA {point.clean_acc:.1f}, RA {ra:.1f}"
    return sa, robust, None, one_line(says)


def _plot(key: str, raw: Sequence[_Raw], *, together: bool = True) -> Plot:
    """Draw curves; labels of those that are not seen together need not make way for each other."""
    points = [point for curve in raw for point in curve.points]
    across, x = _axis([sa for sa, *_ in points])
    along, y = _axis([ra for _, ra, *_ in points])
    curves = []
    for one in raw:
        marks = [
            Mark(
                (_share(sa.value, across), _share(ra.value, along[::-1])),
                (_share(sa.low, across), _share(sa.high, across)),
                (_share(ra.high, along[::-1]), _share(ra.low, along[::-1])),
                lam,
                "" if lam is None else f"{'' if 0 < lam < 1 else 'λ '}{lam:g}",
                says,
            )
            for sa, ra, lam, says in one.points
        ]
        curves.append(Curve(one.key, one_line(one.name), one.look, one.shape, marks))
    for group in [curves] if together else [[curve] for curve in curves]:
        marks = [mark for curve in group for mark in curve.marks]
        sides = zip(_sides(marks, _WIDE), _sides(marks, _NARROW), strict=True)
        placed = (f"wide-{wide} narrow-{narrow}" for wide, narrow in sides)
        for curve in group:
            curve.marks[:] = [replace(mark, place=next(placed)) for mark in curve.marks]
    ticks_y = [(round(100 - at, 2), says) for at, says in y]
    return Plot(key, x, ticks_y, [curve for curve in curves if curve.marks])


def _share(value: float, ends: _Pair) -> float:
    return round(100 * (value - ends[0]) / (ends[1] - ends[0]), 2)


def _axis(accuracies: Sequence[Accuracy]) -> tuple[_Pair, list[tuple[float, str]]]:
    """Return the ends of an axis on which all intervals are, and its ticks."""
    low = min((one.low for one in accuracies), default=0.0)
    high = max((one.high for one in accuracies), default=100.0)
    pad = 0.06 * max(high - low, 2.0)
    ends = low - pad, high + pad
    step = next(one for one in (0.5, 1, 2, 5, 10, 20, 50) if (ends[1] - ends[0]) / one <= 7)
    first, last = math.ceil(ends[0] / step), math.floor(ends[1] / step)
    values = [step * number for number in range(first, last + 1) if 0 <= step * number <= 100]
    return ends, [(_share(value, ends), f"{value:g}") for value in values]


def _sides(marks: Sequence[Mark], size: tuple[int, int]) -> list[str]:
    """Say on which side of each mark its label covers nothing; ``no`` where there is no room."""
    centres = [(size[0] * mark.at[0] / 100, size[1] * mark.at[1] / 100) for mark in marks]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    chosen = ["no"] * len(marks)
    # the ends of curves first
    for place in sorted(range(len(marks)), key=lambda place: "λ" not in marks[place].label):
        (x, y), width = centres[place], 7.0 * len(marks[place].label)
        for side, (right, down) in _SIDES.items():
            left, top = (x + 6 if right > 0 else x - 6 - width), (y + 4 if down > 0 else y - 16)
            box = left, top, left + width, top + 12
            inside = left >= 0 and top >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if width and inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                chosen[place] = side
                break
    return chosen


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
