"""From boards to HTML: what each page shows, and the numbers that its scripts draw."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from oat_bench import __version__
from oat_bench.escape import one_line
from oat_bench.leaderboards.site import charts
from oat_bench.leaderboards.site.charts import Plot
from oat_bench.leaderboards.site.examples import Examples, example_attack
from oat_bench.leaderboards.site.plan import Board, Model, Row
from oat_bench.reports.table import short
from oat_bench.results.models import attack_name
from oat_bench.results.points import PointResult, total_costs
from oat_bench.statistics.accuracy import WORST, Accuracy, Estimate

#: nothing but the site's own files
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'"
)
#: what a reader must know of a data set that has a board
_ABOUT = {
    "cifar10": "photographs of 10 kinds of animals and vehicles, 32x32, in colour",
    "cifar100": "photographs of 100 kinds of things, 32x32, in colour",
    "digits": "handwritten digits, 8x8, grey; comes with scikit-learn",
    "fashion-12x12": "clothes in 10 classes, 12x12, grey; Fashion-MNIST made smaller",
    "svhn": "digits of house numbers in photographs, 32x32, in colour",
    "svhn-part": "a part of SVHN: digits of house numbers in photographs, 32x32, in colour",
    "tiny10": "10 of the classes of Tiny ImageNet, photographs in colour",
}
_PAGES = Environment(
    loader=PackageLoader("oat_bench.leaderboards.site"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {
    "line": one_line,
    "percent": "{:.1f}".format,
    "general": "{:g}".format,
    "short": short,
    "attack": attack_name,
}
_PAGES.globals |= {
    "version": __version__,
    "worst": WORST,
    "policy": _POLICY,
    "paper": "https://arxiv.org/abs/2010.11828",
    "about": _ABOUT,
}
# sorted keys and no NaN: the same entries are the same page, and any parser reads it
_PAGES.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}


def index(boards: Sequence[Board], plots: Sequence[Plot], links: Mapping[str, str]) -> str:
    """Write the page that leads to all others, with the plots of the first board."""
    page = _PAGES.get_template("index.html")
    return page.render(root="", boards=boards, plots=plots, links=links)


def board(board: Board, plots: Sequence[Plot]) -> str:
    """Write the page of a data set and threat model."""
    data = {
        "required": board.required_sa,
        "usual": board.usual,
        "rows": [_row(row) for row in board.rows],
    }
    return _PAGES.get_template("board.html").render(root="../", board=board, data=data, plots=plots)


def model(
    board: Board,
    model: Model,
    examples: Examples | None,
    reason: str,  # why there are no examples
    figures: Mapping[str, str],
    files: Mapping[str, str],
) -> str:
    """Write the page of a model: captions by figure file, file names by what they are."""
    rows = sorted((row for row in board.rows if row.model is model), key=lambda row: -row.width)
    known = {name for row in rows for point in row.points for name in point.robust}
    attacks = [name for name in board.attacks if name in known]
    chosen = board.attack if board.attack in attacks else attacks[-1]
    data = {
        "widths": [
            {
                "width": row.width,
                "points": [_point(point) for point in row.points],
                "examples": examples and [examples.attacked[p.lam, row.width] for p in row.points],
            }
            for row in rows
        ],
    }
    return _PAGES.get_template("model.html").render(
        root="../",
        board=board,
        model=model,
        entry=model.entry,
        rows=rows,
        attacks=attacks,
        chosen=chosen,
        phased=any(
            ra.sampled is not None
            for row in rows
            for point in row.points
            for ra in point.robust.values()
        ),
        examples=examples,
        example_attack=example_attack(model.entry.randomized),
        reason=reason,
        figures=figures,
        files=files,
        data=data,
        plots=charts.of_model(rows, attacks),
        costs=total_costs(model.entry.operating_points),
        attack_rows=[
            (attack, part, ", ".join(f"{k} {_value(v)}" for k, v in part.parameters.items()))
            for attack in model.entry.attacks
            for part in attack.chain()
        ],
    )


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(row: Row) -> dict[str, Any]:
    entry = row.model.entry
    return {
        "label": one_line(row.label),
        "method": entry.method,
        "width": row.width,
        "points": [_point(point) for point in row.points],
        "scores": {
            name: {
                "rank": score.rank,
                "remark": one_line(score.remark),
                "doubts": one_line("; ".join(score.doubts)),
                "n": score.n,
                "clean": min(point.n for point in row.points),
                "m": score.sampled,
                "compares": score.model is not None,
                "hypervolume": _score(score.hypervolume),
                "robust": _score(score.robust),
                "lams": list(score.lams),
            }
            for name, score in row.scores.items()
        },
    }


def _score(score: Estimate | None) -> list[float] | None:
    return None if score is None else [score.value, score.low, score.high]


def _point(point: PointResult) -> dict[str, Any]:
    return {
        "lam": point.lam,
        "trained": point.trained,
        "n": point.n,
        "sa": _interval(point.clean_acc_interval, point.n),
        "ra": {name: _interval(ra, point.n) for name, ra in point.robust.items()},
    }


def _interval(interval: Accuracy, n: int) -> list[float]:
    sample = [] if interval.sampled is None else [interval.sampled]
    return [interval.value, interval.low, interval.high, interval.n or n, *sample]
