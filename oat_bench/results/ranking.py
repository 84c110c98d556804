"""Ranking tunable models: by their frontier, by RA at a required SA, by what they cost.

A model has the rank of the best of its group unless it is worse beyond a 95% interval: by paired
bootstrap where both have outcomes of the same examples, else their own intervals must not overlap.
Only models of the same examples are ranked; an estimate of two phases is one of all N examples.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Literal

import numpy as np

from oat_bench.errors import UserError, unknown
from oat_bench.results.checks import Verdict
from oat_bench.results.models import Curve, common, models_under, suite
from oat_bench.results.points import Cost
from oat_bench.results.records import Record
from oat_bench.results.reliability import doubts, verdict_of
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Estimate
from oat_bench.statistics.frontier import ORIGIN, Floats

Sort = Literal["hypervolume", "ra-at-sa", "cost"]
Resource = Literal["flops", "latency", "parameters"]


@dataclass(frozen=True)
class Rule:
    """What models are ranked by; SA and RA that are required are in percent."""

    sort: Sort = "hypervolume"
    min_sa: float = 90.0
    min_ra: float = 0.0  # for `sort` cost alone
    resource: Resource = "flops"


@dataclass
class Row:
    """One model at one width."""

    record: Record
    width: float
    n: int  # of RA, where that is of fewer examples
    sampled: int | None  # of two phases: the most that the second saw at one lambda
    verdict: Verdict | None  # of the report of attack integrity; None: not examined
    doubts: tuple[str, ...]  # why it is unreliable
    remark: str  # why it has no place; empty where it has one
    model: Curve | None = None  # None where it cannot be compared
    hypervolume: Estimate | None = None
    robust: Estimate | None = None  # RA at the required SA; None where that is not reached
    lams: tuple[float, ...] = ()  # where that RA is: at one lambda, or drawn between two
    cost: Cost | None = None
    label: str = ""
    rank: int | None = None  # from 1, shared in ties


@dataclass(frozen=True)
class Board:
    """A leaderboard: models of one data set, norm and eps, by RA under one attack or `WORST`."""

    dataset: str
    threat_model: str
    eps: str
    attack: str
    rule: Rule
    rows: list[Row]  # ranked ones in order, then those without a place, the unreliable last


def groups(records: Sequence[Record], attack: str | None = None) -> list[list[Record]]:
    """Return the entries of each data set and threat model; those with ``attack``, if any has."""
    found: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        entry = record.entry
        found.setdefault((entry.dataset, entry.threat_model, record.eps), []).append(record)
    ordered = [found[key] for key in sorted(found)]
    if attack is None:
        return ordered
    return [group for group in ordered if attack in _attacks(group)] or ordered


def shown_first(records: Sequence[Record]) -> str:
    """Return the strongest attack that more than half of the entries have, or else most."""
    return _choose(records, None)[0]


def fitting_sa(records: Sequence[Record]) -> float:
    """Return the required SA that fits entries: what more than half reach, down to a step of 5."""
    reached = (max(point.clean_acc for point in one.entry.operating_points) for one in records)
    return 5.0 * (sorted(reached, reverse=True)[len(records) // 2] // 5)


def rank(
    records: Sequence[Record], *, attack: str | None = None, rule: Rule | None = None
) -> Board:
    """Rank entries of one threat model under one attack; see `rank_under`."""
    attack = _choose(records, attack)[0]
    return rank_under(records, [attack], rule)[attack]


def rank_under(
    records: Sequence[Record], attacks: Sequence[str], rule: Rule | None = None
) -> dict[str, Board]:
    """Rank entries of one threat model under each attack; their outcomes are read once.

    Those whose attack or examples are not what most have get no place.
    """
    found = models_under(records, attacks)
    return {name: _board(records, found[name], name, rule or Rule()) for name in attacks}


def _board(records: Sequence[Record], models: Sequence[Curve], attack: str, rule: Rule) -> Board:
    run = _choose(records, attack)[1]
    fit = [suite(record.entry).get(attack) == run for record in records]
    rows = [_row(records[one.entry], one, attack, rule) for one in models if fit[one.entry]]
    odd = [record for record, fits in zip(records, fit, strict=True) if not fits]
    rows += [_odd(record, width, attack) for record in odd for width in record.entry.widths]
    _on_the_same_examples(rows)
    called = Counter(name for name, _ in {(r.entry.name, r.path) for r in records})
    for row in rows:
        entry = row.record.entry
        row.label = entry.name
        if called[entry.name] > 1:
            row.label += f" ({row.record.stem})"
        if len(entry.widths) > 1 or row.width != 1:
            row.label += f", width {row.width:g}"
    if (rule.sort, rule.resource) == ("cost", "latency"):
        _on_one_machine(rows)
    entry = records[0].entry
    return Board(entry.dataset, entry.threat_model, entry.eps, attack, rule, _ranked(rows, rule))


# --- whose RA


def _attacks(records: Sequence[Record]) -> list[str]:
    # strong ones first, as an evaluation has them last
    names = [WORST, "autoattack", *(a.name for r in records for a in r.entry.attacks[::-1])]
    known = {name for record in records for name in suite(record.entry)}
    return [name for name in dict.fromkeys(names) if name in known]


def _choose(records: Sequence[Record], wanted: str | None) -> tuple[str, Hashable]:
    # the strongest attack that more than half have, else most; as it was in most
    known = _attacks(records)
    if wanted is not None and wanted not in known:
        raise unknown("attack of these entries", wanted, known)
    if not known:
        raise UserError(f"{records[0].path}: the entry has no RA at every operating point")
    suites = [suite(record.entry) for record in records]
    counted = {
        name: Counter(one[name] for one in suites if name in one).most_common(1)[0]
        for name in known
    }
    shared = (name for name in known if 2 * counted[name][1] > len(records))
    chosen = wanted or next(shared, max(known, key=lambda name: counted[name][1]))
    return chosen, counted[chosen][0]


# --- what a row says


def _row(record: Record, model: Curve, attack: str, rule: Rule) -> Row:
    points, robust = model.accuracies(attack), model.robust(attack)
    at_sa = None
    if (points[:, 0] >= rule.min_sa).any():
        at_sa = _estimate(model, attack, partial(_robust_at, sa=rule.min_sa))
    cost = Cost.typical([point.cost for point in model.points if point.cost is not None])
    stated = [
        one.hypervolume
        for one in record.entry.frontiers or ()
        if (one.attack, one.width, one.reference) == (attack, model.width, ORIGIN)
    ]
    return Row(
        record,
        model.width,
        min(ra.n or point.n for ra, point in zip(robust, model.points, strict=True)),
        max((ra.sampled for ra in robust if ra.sampled is not None), default=None),
        verdict_of(record),
        tuple(doubts(record, attack)),
        _lacking(points, at_sa, cost, rule),
        model,
        stated[-1] if stated else _estimate(model, attack, frontier.hypervolume),
        at_sa,
        _lams(model.lambdas(), points, rule.min_sa),
        cost,
    )


def _odd(record: Record, width: float, attack: str) -> Row:
    name = "the worst case" if attack == WORST else attack
    remark = f"{name} was not run"
    if attack in suite(record.entry):
        remark = f"{name} is of other attacks" if attack == WORST else f"its {attack} is another"
    n = min(point.n for point in record.entry.operating_points if point.width == width)
    return Row(record, width, n, None, verdict_of(record), tuple(doubts(record, attack)), remark)


def _robust_at(points: Floats, sa: float) -> Floats:
    return np.nan_to_num(frontier.robustness_at(sa, points)[..., 0])  # 0 where not reached


def _estimate(model: Curve, attack: str, statistic: Callable[[Floats], Floats]) -> Estimate:
    if model.right is not None:
        return model.right.estimate(statistic)
    # of a number that grows with every accuracy: all at the ends of their intervals, so wider
    both = model.clean(), model.robust(attack)
    low = statistic(np.array([[one.low for one in each] for each in both]).T)
    high = statistic(np.array([[one.high for one in each] for each in both]).T)
    value = statistic(model.accuracies(attack))
    return Estimate(value=float(value), low=float(low), high=float(high))


def _lams(lams: Sequence[float], points: Floats, sa: float) -> tuple[float, ...]:
    # of the Pareto-optimal points that `robustness_at` draws between
    best = frontier.pareto(points)
    found = sorted(zip(points[best, 0], np.array(lams)[best], strict=True))
    above = [one for one in found if one[0] >= sa][:1]
    below = [one for one in found if one[0] < sa][-1:]
    drawn = above + below if above and above[0][0] > sa else above
    return tuple(sorted(float(lam) for _, lam in drawn))


def _lacking(points: Floats, robust: Estimate | None, cost: Cost | None, rule: Rule) -> str:
    if rule.sort != "hypervolume" and robust is None:
        return f"SA {rule.min_sa:g} is not reached"
    if rule.sort == "cost":
        if not (points >= (rule.min_sa, rule.min_ra)).all(axis=1).any():
            return f"SA {rule.min_sa:g} with RA {rule.min_ra:g} is not reached"
        if cost is None:
            return "its cost was not measured"
    return ""


def _on_one_machine(rows: Sequence[Row]) -> None:
    timed = [(row, row.cost.machine) for row in rows if row.cost and not row.remark]
    machines = Counter(machine for _, machine in timed)
    for row, machine in timed:
        if machine != machines.most_common(1)[0][0]:
            row.remark = f"timed on another machine: {machine}"


def _on_the_same_examples(rows: Sequence[Row]) -> None:
    placed = [row for row in rows if row.model is not None]
    images = Counter(row.record.entry.data_fingerprint for row in placed)
    del images[""]  # of before data sets were hashed

    def examples(row: Row) -> tuple[str, int, int]:
        own = row.record.entry.data_fingerprint or max(images, key=images.__getitem__, default="")
        points = row.model.points if row.model else ()
        return own, row.n, min(point.n for point in points)

    counted = Counter(own for own, _ in {(examples(row), row.record.path) for row in placed})
    usual = max(counted, key=lambda one: (counted[one], one[1], one), default=None)
    for row in placed:
        if usual is not None and (own := examples(row)) != usual and not row.remark:
            row.remark = f"of {_of(own, ' examples')}, the ranked ones of {_of(usual)}"
            if own[0] != usual[0]:
                row.remark = "of other images than the ranked ones"


def _of(examples: tuple[str, int, int], what: str = "") -> str:
    _, n, clean = examples
    return f"{n}{what}" + ("" if n == clean else f" (SA: {clean})")


# --- ranks


def _ranked(rows: Sequence[Row], rule: Rule) -> list[Row]:
    value, same = _criterion(rule)
    reliable = [row for row in rows if not row.doubts]
    doubted = [row for row in rows if row.doubts]
    ranked: list[Row] = []
    for group in (reliable, doubted):
        placed = sorted((row for row in group if not row.remark), key=value, reverse=True)
        last = [len(reliable) + 1] * len(placed)
        ranks = last if group is doubted else group_ranks(placed, same)
        for row, place in zip(placed, ranks, strict=True):
            row.rank = place
        ranked += [*placed, *(row for row in group if row.remark)]
    return ranked


def group_ranks(ordered: Sequence[Row], same: Callable[[Row, Row], bool]) -> list[int]:
    """Return the ranks of rows in order: that of the first of a group for all that tie with it."""
    ranks: list[int] = []
    for place, row in enumerate(ordered):
        tied = place > 0 and same(ordered[ranks[-1] - 1], row)
        ranks.append(ranks[-1] if tied else place + 1)
    return ranks


def _criterion(rule: Rule) -> tuple[Callable[[Row], float], Callable[[Row, Row], bool]]:
    if rule.sort == "cost":
        name = "latency_ms" if rule.resource == "latency" else rule.resource
        cost = attrgetter(f"cost.{name}")
        return lambda row: -cost(row), lambda best, row: bool(cost(best) == cost(row))
    by_volume = rule.sort == "hypervolume"
    score = attrgetter("hypervolume" if by_volume else "robust")
    at_sa = partial(_robust_at, sa=rule.min_sa)
    statistic: Callable[[Floats], Floats] = frontier.hypervolume if by_volume else at_sa

    def same(best: Row, row: Row) -> bool:
        images = {one.record.entry.data_fingerprint for one in (best, row)} - {""}
        pair = None
        if best.model is not None and row.model is not None and len(images) < 2:
            with suppress(UserError):
                pair = common(best.model, row.model)
        if pair is None:
            return bool(score(best).low <= score(row).high)
        return pair[0].estimate(statistic, pair[1]).low <= 0

    return lambda row: float(score(row).value), same
