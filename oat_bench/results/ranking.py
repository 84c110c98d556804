"""Ranking tunable models: by their frontier, by RA at a required SA, by what they cost.

A rank is shared where chance may explain the difference: a model has the rank of the best of its
group unless it is worse beyond a 95% interval. Where the outcomes of the same examples lie beside
both entries, that is the paired bootstrap interval of the difference; else their own intervals must
not overlap. Costs that are the same share a rank.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from statistics import median
from typing import Literal

import numpy as np

from oat_bench.errors import UserError, unknown
from oat_bench.results.checks import Verdict
from oat_bench.results.models import Model, common, models_of, suite
from oat_bench.results.points import Cost
from oat_bench.results.records import Record
from oat_bench.results.reliability import doubts, verdict_of
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST, Estimate
from oat_bench.statistics.frontier import ORIGIN, Floats, Rightness

Sort = Literal["hypervolume", "ra-at-sa", "cost"]
Resource = Literal["flops", "latency", "parameters"]


@dataclass(frozen=True)
class Rule:
    """What models are ranked by; SA and RA that are required are in percent."""

    sort: Sort = "hypervolume"
    min_sa: float = 90.0
    min_ra: float = 0.0  # for `sort` cost alone
    resource: Resource = "flops"


@dataclass(frozen=True)
class Row:
    """One model at one width."""

    record: Record
    width: float
    n: int  # of RA, where that is of fewer examples
    verdict: Verdict | None  # of the report of attack integrity; None: not examined
    doubts: tuple[str, ...]  # why it is unreliable
    remark: str  # why it has no place; empty where it has one
    model: Model | None = None  # None where it cannot be compared
    hypervolume: Estimate | None = None
    robust: Estimate | None = None  # RA at the required SA; None where that is not reached
    lams: tuple[float, ...] = ()  # where that RA is: at one lambda, or drawn between two
    cost: Cost | None = None
    label: str = ""
    rank: int | None = None  # from 1, shared in ties


@dataclass(frozen=True)
class Board:
    """A leaderboard: models of one data set, norm and eps, by RA under one attack or `WORST`.

    The ranked rows come in order, then those without a place, the unreliable last.
    """

    dataset: str
    threat_model: str
    eps: str
    attack: str
    rule: Rule
    rows: list[Row]


def boards(
    records: Sequence[Record], *, attack: str | None = None, rule: Rule | None = None
) -> list[Board]:
    """Rank the entries of each data set and threat model, by their names.

    ``attack`` says whose RA; if None the worst case, or the strongest that most entries have.
    """
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        entry = record.entry
        groups.setdefault((entry.dataset, entry.threat_model, record.eps), []).append(record)
    found = [groups[key] for key in sorted(groups)]
    if attack is not None and len(found) > 1:
        found = [group for group in found if attack in _attacks(group)] or found
    return [rank(group, attack=attack, rule=rule) for group in found]


def rank(
    records: Sequence[Record], *, attack: str | None = None, rule: Rule | None = None
) -> Board:
    """Rank entries of one data set and threat model, a row for each entry and width.

    Entries of the attack compare if its card and its eps are the same, in the worst case those of
    all attacks: those that most have. The others are listed without a place.
    """
    rule = rule or Rule()
    attack, run = _choose(records, attack)
    fit = [record for record in records if suite(record.entry).get(attack) == run]
    rows = [_row(fit[m.curve.entry], m, attack, rule) for m in models_of(fit, attack)]
    odd = [record for record in records if record not in fit]
    rows += [_odd(record, width, attack) for record in odd for width in record.entry.widths]
    rows = _on_one_machine(_labelled(rows), rule)
    entry = records[0].entry
    return Board(entry.dataset, entry.threat_model, entry.eps, attack, rule, _ranked(rows, rule))


# --- whose RA


def _attacks(records: Sequence[Record]) -> list[str]:
    """Return the attacks that an entry has at every point, strong ones first, as they come last."""
    names = [WORST, "autoattack", *(a.name for r in records for a in r.entry.attacks[::-1])]
    known = {name for record in records for name in suite(record.entry)}
    return [name for name in dict.fromkeys(names) if name in known]


def _choose(records: Sequence[Record], wanted: str | None) -> tuple[str, Hashable]:
    """Choose an attack, and take it for what it was in most entries.

    That is the strongest which more than half have, or else the one that most have.
    """
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


def _row(record: Record, model: Model, attack: str, rule: Rule) -> Row:
    points, curve = model.points(attack), model.curve
    robust = None
    if not np.isnan(frontier.robustness_at(rule.min_sa, points)[0]):
        robust = _estimate(model, attack, lambda points: _robust_at(points, rule.min_sa))
    costs = [point.cost for point in curve.points if point.cost is not None]
    cost = None
    if costs:
        latency = median(one.latency_ms for one in costs)
        cost = costs[0].model_copy(update={"latency_ms": latency})
    stated = {
        one.attack: one.hypervolume
        for one in record.entry.frontiers or ()
        if (one.width, one.reference) == (curve.width, ORIGIN)
    }
    return Row(
        record,
        curve.width,
        model.n(attack),
        verdict_of(record),
        tuple(doubts(record, attack)),
        _lacking(points, robust, cost, rule),
        model,
        stated.get(attack) or _estimate(model, attack, frontier.hypervolume),
        robust,
        _lams(curve.lambdas(), points, rule.min_sa),
        cost,
    )


def _odd(record: Record, width: float, attack: str) -> Row:
    name = "the worst case" if attack == WORST else attack
    remark = f"{name} was not run"
    if attack in suite(record.entry):
        remark = f"{name} is of other attacks" if attack == WORST else f"its {attack} is another"
    n = min(point.n for point in record.entry.operating_points if point.width == width)
    return Row(record, width, n, verdict_of(record), tuple(doubts(record, attack)), remark)


def _robust_at(points: Floats, sa: float) -> float:
    """Return RA at an SA; none of the images where a resample does not reach it."""
    return float(np.nan_to_num(frontier.robustness_at(sa, points)[0]))


def _estimate(model: Model, attack: str, statistic: Callable[[Floats], float]) -> Estimate:
    """Give a number that grows with every accuracy its interval.

    By bootstrap where there are outcomes; else from the ends of all accuracies' own intervals at
    once, which is wider.
    """
    if model.right is not None:
        return model.right.estimate(statistic)
    both = model.curve.clean(), model.curve.robust(attack)
    low = statistic(np.array([[one.low for one in each] for each in both]).T)
    high = statistic(np.array([[one.high for one in each] for each in both]).T)
    return Estimate(value=statistic(model.points(attack)), low=low, high=high)


def _lams(lams: Sequence[float], points: Floats, sa: float) -> tuple[float, ...]:
    """Return lambda of the Pareto-optimal points that `robustness_at` draws between."""
    best = frontier.pareto(points)
    found = sorted(zip(points[best, 0], np.array(lams)[best], strict=True))
    above = [one for one in found if one[0] >= sa][:1]
    below = [one for one in found if one[0] < sa][-1:]
    if not above or above[0][0] == sa:
        below = []
    return tuple(sorted(float(lam) for _, lam in above + below))


def _lacking(points: Floats, robust: Estimate | None, cost: Cost | None, rule: Rule) -> str:
    if rule.sort == "hypervolume":
        return ""
    if robust is None:
        return f"SA {rule.min_sa:g} is not reached"
    if rule.sort == "cost":
        if not (points >= (rule.min_sa, rule.min_ra)).all(axis=1).any():
            return f"SA {rule.min_sa:g} with RA {rule.min_ra:g} is not reached"
        if cost is None:
            return "its cost was not measured"
    return ""


def _on_one_machine(rows: list[Row], rule: Rule) -> list[Row]:
    machines = Counter(row.cost.machine for row in rows if row.cost and not row.remark)
    if (rule.sort, rule.resource) != ("cost", "latency") or not machines:
        return rows
    usual = machines.most_common(1)[0][0]
    return [
        replace(row, remark=f"timed on another machine: {row.cost.machine}")
        if row.cost and not row.remark and row.cost.machine != usual
        else row
        for row in rows
    ]


def _labelled(rows: list[Row]) -> list[Row]:
    called = Counter(name for name, _ in {(r.record.entry.name, r.record.path) for r in rows})
    labelled = []
    for row in rows:
        entry = row.record.entry
        label = entry.name if called[entry.name] == 1 else f"{entry.name} ({row.record.stem})"
        narrow = len(entry.widths) > 1 or row.width != 1
        labelled.append(replace(row, label=f"{label}, width {row.width:g}" if narrow else label))
    return labelled


# --- ranks


def _ranked(rows: list[Row], rule: Rule) -> list[Row]:
    value, same = _criterion(rule)
    reliable = [row for row in rows if not row.doubts]
    doubted = [row for row in rows if row.doubts]
    ranked: list[Row] = []
    for group in (reliable, doubted):
        placed = sorted((row for row in group if not row.remark), key=value, reverse=True)
        last = [len(reliable) + 1] * len(placed)
        ranks = last if group is doubted else group_ranks(placed, same)
        ranked += [replace(row, rank=place) for row, place in zip(placed, ranks, strict=True)]
        ranked += [row for row in group if row.remark]
    return ranked


def group_ranks(ordered: Sequence[Row], same: Callable[[Row, Row], bool]) -> list[int]:
    """Return the ranks of rows in order: that of the first of a group for all that tie with it."""
    ranks: list[int] = []
    best = 0
    for place, row in enumerate(ordered):
        if place == 0 or not same(ordered[best], row):
            best = place
        ranks.append(best + 1)
    return ranks


def _criterion(rule: Rule) -> tuple[Callable[[Row], float], Callable[[Row, Row], bool]]:
    """Return what rows are sorted by, more is better, and whether two tie."""
    if rule.sort == "cost":
        name = "latency_ms" if rule.resource == "latency" else rule.resource
        cost = attrgetter(f"cost.{name}")
        return lambda row: -cost(row), lambda best, row: bool(cost(best) == cost(row))
    by_volume = rule.sort == "hypervolume"
    score = attrgetter("hypervolume" if by_volume else "robust")

    def statistic(points: Floats) -> float:
        return frontier.hypervolume(points) if by_volume else _robust_at(points, rule.min_sa)

    def same(best: Row, row: Row) -> bool:
        pair = _paired(best, row)
        if pair is None:
            return bool(score(best).low <= score(row).high)
        return pair[0].estimate(statistic, pair[1]).low <= 0

    return lambda row: float(score(row).value), same


def _paired(best: Row, row: Row) -> tuple[Rightness, Rightness] | None:
    """Return both on their common examples; None if there is none, or they are other images."""
    data = {r.record.entry.data_fingerprint for r in (best, row)} - {""}
    if best.model is None or row.model is None or len(data) > 1:
        return None
    with suppress(UserError):
        return common(best.model, row.model)
    return None
