"""RobustBench's ``model_info`` files, read and written (Croce et al., arXiv:2010.09670).

``robustbench.json`` is a copy of them, by DATASET/THREAT MODEL/NAME, as RobustBench's package has
none; ``docs/upstream.md`` has the command that made it.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from oat_bench import escape as text
from oat_bench.classifier import ModelInfo
from oat_bench.errors import UserError
from oat_bench.progress import note
from oat_bench.results.entries import Entry
from oat_bench.results.points import PointResult
from oat_bench.statistics.accuracy import WORST, Percent
from oat_bench.written import Written

DATASETS = ("cifar10", "cifar100", "imagenet")
THREAT_MODELS = ("Linf", "L2")
SHIPPED = "package"  #: names our copy in the place of a clone
ZOO = "robustbench"  #: the option of a model that names its place in the zoo
_COPY = Path(__file__).with_suffix(".json")
#: what an entry takes from it
_ABOUT = "name authors venue link architecture reported additional_data number_forward_passes"
_SAME = 1e-6  # lambda values and widths closer than this are one


class RobustBenchPoint(Written):
    """A model of RobustBench's: one fixed point, with accuracies in percent."""

    what: ClassVar[str] = "a model_info of RobustBench"
    max_bytes: ClassVar[int] = 1 << 20
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    id: str = ""  # its name in the model zoo, which is that of the file
    name: str
    authors: str = ""
    venue: str = ""
    link: str = ""
    architecture: str = ""
    eps: str | None = None
    additional_data: bool | None = None
    number_forward_passes: int = 1
    reported: str | None = None  # RA
    clean_acc: Percent
    autoattack_acc: Percent
    external: Percent | None = None  # RA under a stronger attack that was found later
    unreliable: bool | None = None  # whether AutoAttack is thought to be too weak for it

    def robust(self, attack: str) -> float | None:
        """Return RA in percent: AutoAttack's, the best known for `WORST`; None for another."""
        if attack == WORST:
            return min(self.autoattack_acc, 100.0 if self.external is None else self.external)
        return self.autoattack_acc if attack == "autoattack" else None


def robustbench_points(
    source: str | Path, dataset: str, threat_model: str
) -> list[RobustBenchPoint]:
    """Return the models of one leaderboard, the one of the best known RA first.

    ``source`` is a clone, its ``model_info``, or `SHIPPED`.
    """
    found = _shipped() if str(source) == SHIPPED else _cloned(Path(source), dataset, threat_model)
    board = f"{dataset}/{threat_model}/"
    points = [point for place, point in found.items() if place.startswith(board)]
    return sorted(points, key=lambda point: -(point.robust(WORST) or 0.0))


def _cloned(clone: Path, dataset: str, threat_model: str) -> dict[str, RobustBenchPoint]:
    root = clone / "model_info" if (clone / "model_info").is_dir() else clone
    if not any((root / known).is_dir() for known in DATASETS):
        raise UserError(
            f"{clone}: no model_info of RobustBench; expected a clone of "
            f"https://github.com/RobustBench/robustbench, or {SHIPPED!r} for the copy of oat-bench"
        )
    if dataset not in DATASETS or threat_model not in THREAT_MODELS:
        return {}
    points = {}
    for path in sorted((root / dataset / threat_model).glob("*.json")):
        try:
            point = RobustBenchPoint.read(path).model_copy(update={"id": path.stem})
        except UserError as error:
            note(f"left out: {error}")
        else:
            points[f"{dataset}/{threat_model}/{path.stem}"] = point
    return points


@cache
def _shipped() -> dict[str, RobustBenchPoint]:
    said = json.loads(_COPY.read_text())["models"]
    return {
        place: RobustBenchPoint.model_validate(about | {"id": place.rpartition("/")[2]})
        for place, about in said.items()
    }


def copied(clone: str | Path, commit: str) -> str:
    """Return what ``robustbench.json`` holds of a clone, a line a model."""
    models = [
        f"{json.dumps(place)}: {point.model_dump_json(exclude={'id'}, exclude_defaults=True)}"
        for dataset in DATASETS
        for threat_model in THREAT_MODELS
        for place, point in _cloned(Path(clone), dataset, threat_model).items()
    ]
    about = {
        "source": f"https://github.com/RobustBench/robustbench, model_info of commit {commit}",
        "license": "MIT, Copyright (c) 2020 Francesco Croce, Maksym Andriushchenko, Vikash Sehwag",
    }
    listed = ",\n".join(models)
    return f'{json.dumps(about)[:-1]}, "models": {{\n{listed}\n}}}}\n'


def described(info: ModelInfo) -> dict[str, Any]:
    """Return what RobustBench says of a model of its zoo, as fields of an entry."""
    said = _shipped().get(str(info.options.get(ZOO)))
    if said is None:
        return {}
    about = {key: getattr(said, key) for key in _ABOUT.split()}
    about |= {"unreliable": said.unreliable or None, "footnote": f"RobustBench's {said.id}."}
    return {k: _plain(v) if isinstance(v, str) else v for k, v in about.items()}


def model_info(
    entry: Entry, lam: float, width: float = 1.0, doubts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return an operating point as RobustBench's ``model_info``, its text escaped for HTML.

    ``doubts`` are reasons not to trust it; empty: it was examined and there is none; None: unknown.
    """
    point = _point(entry, lam, width)
    if point.autoattack_acc is None:
        raise UserError(
            f"AutoAttack was not run at {point}, and RobustBench ranks by it; evaluate with "
            "--attacks autoattack"
        )
    autoattack = point.robust_acc.get("autoattack")
    n = (autoattack and autoattack.n) or point.n
    counted = f"n {point.n}" + (f" (AutoAttack {n})" if n != point.n else "")
    unreliable = f"Unreliable: {', '.join(doubts)}." if doubts else ""
    remarks = [f"{entry.method.upper()} at {point}, {counted}.", entry.footnote, unreliable]
    remarks += [f"Training {entry.ancestry}."] if entry.ancestry else []
    info: dict[str, Any] = {
        "link": _html(entry.link) if entry.link.startswith(("https://", "http://")) else "",
        "name": _html(entry.name),
        "authors": _html(entry.authors),
        "additional_data": entry.additional_data,
        "number_forward_passes": entry.number_forward_passes,
        "dataset": entry.dataset,
        "venue": _html(entry.venue),
        "architecture": _html(_architecture(entry.architecture)),
        "eps": entry.eps,
        "clean_acc": f"{point.clean_acc:.2f}",
        "reported": entry.reported,
        "autoattack_acc": f"{point.autoattack_acc:.2f}",
        "footnote": _html(" ".join(remark for remark in remarks if remark)),
    }
    worst = point.worst_case_acc
    if worst is not None and (worst.n or point.n) == n and worst.value < point.autoattack_acc:
        info["external"] = f"{worst.value:.2f}"
    if doubts is not None or entry.unreliable is not None:
        info["unreliable"] = bool(doubts or entry.unreliable)
    return info


def _point(entry: Entry, lam: float, width: float) -> PointResult:
    for point in entry.operating_points:
        if abs(point.lam - lam) < _SAME and abs(point.width - width) < _SAME:
            return point
    known = [point.lam for point in entry.operating_points if point.width == width]
    have = ", ".join(f"{value:g}" for value in known or entry.widths)
    what = f"lambda {lam:g}" if known else f"width {width:g}"
    raise UserError(f"the entry has no {what}; it has {have}")


def _html(said: str) -> str:
    return escape(text.one_line(said), quote=False).replace('"', "&quot;")


def _plain(said: str) -> str:
    return text.one_line(unescape(re.sub(r"<[^<>]*>", " ", said)))


def _architecture(name: str) -> str:  # WideResNet-28-10, ResNet-18
    return re.sub(r"^resnet-", "ResNet-", re.sub(r"^wrn-", "WideResNet-", name))
