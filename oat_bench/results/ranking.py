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
from statistics import median
from typing import Any, Literal

import numpy as np

from oat_bench.errors import UserError, unknown
from oat_bench.results.checks import Verdict
from oat_bench.results.curves import robust_at
from oat_bench.results.entries import Entry, EntryCost
from oat_bench.results.models import Model, common, models_of
from oat_bench.results.records import Record
from oat_bench.results.reliability import doubts, verdict_of
from oat_bench.statistics import frontier
from oat_bench.statistics.accuracy import WORST
from oat_bench.statistics.frontier import ORIGIN, Floats, Rightness

Sort = Literal["hypervolume", "ra-at-sa", "cost"]
Resource = Literal["flops", "latency", "parameters"]


@dataclass(frozen=True)
class Rule:
    """What models are ranked by.

    Attributes:
        sort: hypervolume of the frontier, RA at a required SA, or cost at a required SA and RA.
        min_sa: the required SA in percent.
        min_ra: the required RA in percent, of `sort` cost alone.
        resource: which cost.
    """

    sort: Sort = "hypervolume"
    min_sa: float = 90.0
    min_ra: float = 0.0
    resource: Resource = "flops"


@dataclass(frozen=True)
class Score:
    """A number in percent with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One model at one width.

    Attributes:
        label: tells it from the others.
        record: its entry.
        width: share of the channels.
        n: number of examples, where that of RA is lower that one.
        model: its curve and outcomes; None where it cannot be compared.
        hypervolume: of its frontier, see `oat_bench.statistics.frontier.hypervolume`.
        robust: RA at the required SA, see `oat_bench.statistics.frontier.robustness_at`; None where
            that is not reached.
        lams: where that RA is: at one lambda, or drawn between two.
        cost: of an image.
        verdict: of the report of attack integrity; None where the model was not examined.
        doubts: why it is unreliable; empty where it is not.
        remark: why it has no place; empty where it has one.
        rank: from 1; shared in ties; None where it has no place.
    """

    label: str
    record: Record
    width: float
    n: int
    model: Model | None
    hypervolume: Score | None
    robust: Score | None
    lams: tuple[float, ...]
    cost: EntryCost | None
    verdict: Verdict | None
    doubts: tuple[str, ...]
    remark: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class Board:
    """A leaderboard: models of one data set and threat model.

    Attributes:
        dataset: its name.
        threat_model: norm.
        eps: bound, as entries write it.
        attack: whose RA; `WORST` for the worst case.
        rule: what they are ranked by.
        rows: the ranked in order; then those without a place; the unreliable last.
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

    Args:
        records: entries of any.
        attack: whose RA; if None the worst case, or the strongest attack that most entries have.
        rule: what they are ranked by.

    Raises:
        UserError: if no entry of any has the attack, or outcomes are damaged.
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

    Raises:
        UserError: if no entry has the attack, or outcomes are damaged.
    """
    rule = rule or Rule()
    attack, suite = _choose(records, attack)
    fit = [record for record in records if _suite(record.entry, attack) == suite]
    rows = [_row(fit[m.curve.entry], m, attack, rule) for m in models_of(fit, attack)]
    rows += [
        _odd(record, width, attack)
        for record in records
        if record not in fit
        for width in _widths(record)
    ]
    rows = _on_one_machine(_labelled(rows), rule)
    entry = records[0].entry
    return Board(entry.dataset, entry.threat_model, entry.eps, attack, rule, _ranked(rows, rule))


# --- whose RA


def _suite(entry: Entry, attack: str) -> Hashable:
    """Say what an attack was, so that the same compare; None if it was not run at every point."""
    if any(robust_at(point, attack) is None for point in entry.operating_points):
        return None
    attacks = {one.name: (one.card, one.eps) for one in entry.attacks}
    return frozenset(attacks.items()) if attack == WORST else attacks.get(attack)


def _attacks(records: Sequence[Record]) -> list[str]:
    """Return the attacks that an entry has at every point, the strongest first.

    They are `WORST`, AutoAttack, and the others from the last on, as entries have the weak first.
    """
    names = [WORST, "autoattack", *(a.name for r in records for a in r.entry.attacks[::-1])]
    return [
        name
        for name in dict.fromkeys(names)
        if any(_suite(record.entry, name) is not None for record in records)
    ]


def _choose(records: Sequence[Record], wanted: str | None) -> tuple[str, Hashable]:
    """Choose an attack, and take it for what it was in most entries.

    That is the strongest which more than half have, or else the one that most have.
    """
    known = _attacks(records)
    if wanted is not None and wanted not in known:
        raise unknown("attack of these entries", wanted, known)
    if not known:
        raise UserError(f"{records[0].path}: the entry has no RA at every operating point")
    counted = {
        name: Counter(
            suite for r in records if (suite := _suite(r.entry, name)) is not None
        ).most_common(1)[0]
        for name in known
    }
    shared = (name for name in known if 2 * counted[name][1] > len(records))
    chosen = wanted or next(shared, max(known, key=lambda name: counted[name][1]))
    return chosen, counted[chosen][0]


# --- what a row says


def _row(record: Record, model: Model, attack: str, rule: Rule) -> Row:
    points = model.points(attack)
    robust = _robust(model, attack, rule.min_sa, points)
    costs = [point.cost for point in model.curve.points if point.cost is not None]
    cost = None
    if costs:
        latency = median(one.latency_ms for one in costs)
        cost = costs[0].model_copy(update={"latency_ms": latency})
    return Row(
        label="",
        record=record,
        width=model.curve.width,
        n=model.n(attack),
        model=model,
        hypervolume=_hypervolume(record.entry, model, attack),
        robust=robust,
        lams=_lams(model.curve.lambdas(), points, rule.min_sa),
        cost=cost,
        verdict=verdict_of(record),
        doubts=tuple(doubts(record, attack)),
        remark=_lacking(points, robust, cost, rule),
    )


def _odd(record: Record, width: float, attack: str) -> Row:
    run = _suite(record.entry, attack) is not None
    name = "the worst case" if attack == WORST else attack
    remark = f"{name} is of other attacks" if run else f"{name} was not run"
    if run and attack != WORST:
        remark = f"its {attack} is another"
    return Row(
        label="",
        record=record,
        width=width,
        n=min(point.n for point in record.entry.operating_points if point.width == width),
        model=None,
        hypervolume=None,
        robust=None,
        lams=(),
        cost=None,
        verdict=verdict_of(record),
        doubts=tuple(doubts(record, attack)),
        remark=remark,
    )


def _widths(record: Record) -> list[float]:
    return sorted({point.width for point in record.entry.operating_points}, reverse=True)


def _hypervolume(entry: Entry, model: Model, attack: str) -> Score:
    for stated in entry.frontiers or ():
        if (stated.attack, stated.width, stated.reference) == (attack, model.curve.width, ORIGIN):
            volume = stated.hypervolume
            return Score(volume.value, volume.low, volume.high)
    return _score(model, attack, frontier.hypervolume)


def _robust(model: Model, attack: str, sa: float, points: Floats) -> Score | None:
    if np.isnan(frontier.robustness_at(sa, points)[0]):
        return None
    return _score(model, attack, lambda points: _robust_at(points, sa))


def _robust_at(points: Floats, sa: float) -> float:
    """Return RA at an SA; none of the images where a resample does not reach it."""
    return float(np.nan_to_num(frontier.robustness_at(sa, points)[0]))


def _score(model: Model, attack: str, statistic: Callable[[Floats], float]) -> Score:
    """Give a number that grows with every accuracy its interval.

    By bootstrap where there are outcomes; else from the ends of all accuracies' own intervals at
    once, which is wider.
    """
    right = model.right
    if right is not None:
        ends = right.interval(lambda index: statistic(right.points(index)), (0.0, 100.0))
        return Score(statistic(model.points(attack)), *ends)
    pairs = list(zip(model.curve.clean(), model.curve.robust(attack), strict=True))
    low = np.array([(clean.low, robust.low) for clean, robust in pairs])
    high = np.array([(clean.high, robust.high) for clean, robust in pairs])
    return Score(statistic(model.points(attack)), statistic(low), statistic(high))


def _lams(lams: Sequence[float], points: Floats, sa: float) -> tuple[float, ...]:
    """Return lambda of the Pareto-optimal points that `robustness_at` draws between."""
    optimal = frontier.pareto(points)
    found = sorted(
        (point[0], lam) for lam, point, best in zip(lams, points, optimal, strict=True) if best
    )
    above = [lam for value, lam in found if value >= sa]
    below = [lam for value, lam in found if value < sa]
    exact = any(value == sa for value, _ in found)
    if not above:
        return ()
    return (above[0],) if exact or not below else tuple(sorted((below[-1], above[0])))


def _lacking(points: Floats, robust: Score | None, cost: EntryCost | None, rule: Rule) -> str:
    """Say why a model has no place by a rule; nothing if it has one."""
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
    """Take the place from what was timed elsewhere than most."""
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
    """Name each row by its entry, where that is needed by its width and its file too."""
    several = {row.record.path for row in rows if len(_widths(row.record)) > 1}
    names: dict[str, set[Any]] = {}
    for row in rows:
        names.setdefault(row.record.entry.name, set()).add(row.record.path)
    labelled = []
    for row in rows:
        name = row.record.entry.name
        label = name if len(names[name]) == 1 else f"{name} ({row.record.stem})"
        narrow = row.record.path in several or row.width != 1
        labelled.append(replace(row, label=f"{label}, width {row.width:g}" if narrow else label))
    return labelled


# --- ranks


def _ranked(rows: list[Row], rule: Rule) -> list[Row]:
    value, same = _criterion(rule)
    placed = sorted(
        (row for row in rows if not row.doubts and not row.remark), key=value, reverse=True
    )
    ranks = group_ranks(placed, same)
    placed = [replace(row, rank=place) for row, place in zip(placed, ranks, strict=True)]
    without = [row for row in rows if not row.doubts and row.remark]
    doubted = [row for row in rows if row.doubts]
    last = len(placed) + len(without) + 1
    doubted = sorted(
        doubted, key=lambda row: value(row) if not row.remark else -np.inf, reverse=True
    )
    doubted = [row if row.remark else replace(row, rank=last) for row in doubted]
    return [*placed, *without, *doubted]


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

        def saved(row: Row) -> float:
            assert row.cost is not None
            name = "latency_ms" if rule.resource == "latency" else rule.resource
            return -float(getattr(row.cost, name))

        return saved, lambda best, row: saved(best) == saved(row)

    def score(row: Row) -> Score:
        found = row.hypervolume if rule.sort == "hypervolume" else row.robust
        assert found is not None
        return found

    def statistic(right: Rightness, index: Any) -> float:
        points = right.points(index)
        if rule.sort == "hypervolume":
            return frontier.hypervolume(points)
        return _robust_at(points, rule.min_sa)

    def same(best: Row, row: Row) -> bool:
        pair = _paired(best, row)
        if pair is None:
            return score(best).low <= score(row).high
        first, second = pair
        low, _ = first.interval(
            lambda index: statistic(first, index) - statistic(second, index), (-100.0, 100.0)
        )
        return low <= 0

    return lambda row: score(row).value, same


def _paired(best: Row, row: Row) -> tuple[Rightness, Rightness] | None:
    """Return both on their common examples; None if there is none, or they are other images."""
    data = {r.record.entry.data_fingerprint for r in (best, row)} - {""}
    if best.model is None or row.model is None or len(data) > 1:
        return None
    with suppress(UserError):
        return common(best.model, row.model)
    return None
