"""The report of the lambda adversary: every threat model under a heading of its own."""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from oat_bench.attacks.engines import Attack
from oat_bench.cards import format_eps
from oat_bench.classifier import ModelInfo
from oat_bench.evaluation import random_lambda
from oat_bench.evaluation.integrity import LEVEL, fewest
from oat_bench.evaluation.random_lambda import Draw
from oat_bench.evaluation.transfer import any_lambda, masked, matrix, pairs, strongest
from oat_bench.reports.table import Page, Row, Table, ends, to_csv
from oat_bench.results.entries import versions
from oat_bench.results.transfer import Drawn, DrawnAttack, Transfer, TransferCell, TransferPoint
from oat_bench.statistics.accuracy import Accuracy, clean_right

#: headings: what the attacker knows
KNOWN = "Lambda is public: attacked at the lambda that classifies"
UNKNOWN = "Lambda is unknown to the attacker: attacked at one lambda, classified at another"
ANY = "Lambda is public, and the attacker may attack at any lambda: the worst for each image"
DRAWN = "Lambda is drawn at random for each query: the attacker knows the set, not the draw"


def make_report(
    info: ModelInfo,
    frame: pd.DataFrame,
    expectation: pd.DataFrame | None,
    draw: Draw,
    *,
    attack: Attack,
    **about: Any,
) -> Transfer:
    """Build the report; ``draw`` is of the lambda in ``frame``, ``about`` are its other fields.

    ``frame`` is of `evaluation.transfer`, ``expectation``, if there is one, of `random_lambda`.
    """
    first = frame[frame["crafted"] == frame["crafted"].iloc[0]]
    sa = {lam: Accuracy.of(right) for lam, right in clean_right(first).groupby(first["lam"])}
    most = strongest(frame)
    return Transfer(
        dataset=info.dataset,
        method=info.method,
        architecture=info.architecture,
        norm=info.threat.norm,
        eps=format_eps(attack.threat.eps),
        width=float(frame["width"].iloc[0]),
        attack=attack.label,
        card=attack.card.fingerprint(),
        seed=attack.seed,
        n=frame["example"].nunique(),
        cells=[TransferCell(crafted=c, lam=lam, ra=ra) for (c, lam), ra in matrix(frame).items()],
        points=[
            TransferPoint(lam=lam, sa=sa[lam], any_lambda=found, strongest=most[lam])
            for lam, found in any_lambda(frame).items()
        ],
        compared=len(pairs(frame)),
        masked=masked(frame),
        drawn=None if expectation is None else _drawn(frame, expectation, draw),
        versions=versions(),
        **about,
    )


def _drawn(frame: pd.DataFrame, expectation: pd.DataFrame, draw: Draw) -> Drawn:
    single = {source: frame[frame["crafted"] == source] for source in sorted(set(frame["crafted"]))}
    attacks: dict[float | Literal["expectation", "worst"], list[pd.DataFrame]] = {
        "expectation": [expectation],
        **{source: [rows] for source, rows in single.items()},
        "worst": [expectation, *single.values()],
    }
    found = {name: random_lambda.summarize(frames, draw) for name, frames in attacks.items()}
    best = min(single, key=lambda source: found[source].expected.value)
    return Drawn(
        lams=list(draw.lams),
        chances=list(draw.chances),
        expected_clean=found["expectation"].expected_clean,
        worst_clean=found["expectation"].worst_clean,
        attacks=[
            DrawnAttack(attacked=k, expected=v.expected, worst=v.worst) for k, v in found.items()
        ],
        best_single=best,
        gain=random_lambda.gain(expectation, single[best], draw),
    )


def title(report: Transfer) -> str:
    """Name the model, the attack and the examples."""
    width = f", width {report.width:g}" if report.width != 1 else ""
    return (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}{width}: "
        f"{report.attack}, {report.norm} eps {report.eps}, {report.n} images"
    )


def page(report: Transfer) -> Page:
    """Return the report: a table for each threat model, the verdicts, what the columns mean."""
    cells, sources = cells_of(report)
    lams = [point.lam for point in report.points]
    clean: list[dict[str, Any]] = [{"lambda": f"{p.lam:g}", "SA": p.sa} for p in report.points]
    at = zip(clean, lams, strict=True)
    public = [row | {"RA": cells[lam, lam]} for row, lam in at if lam in sources]
    rows: dict[str, Sequence[Row]] = {KNOWN: public}
    if any(source != lam for source, lam in cells):
        # what is attacked where it is classified is another threat model
        rows[UNKNOWN] = [
            {"attacked at": f"{source:g}"}
            | {f"RA at {lam:g}": None if source == lam else cells[source, lam] for lam in lams}
            for source in sources
        ]
        rows[ANY] = [
            row | {"RA, any lambda": point.any_lambda, "strongest": f"{point.strongest:g}"}
            for row, point in zip(clean, report.points, strict=True)
        ]
    if report.drawn is not None:
        rows[DRAWN] = _drawn_rows(report.drawn)
    tables = [Table(found, heading=heading) for heading, found in rows.items() if found]
    return Page(title(report), tables, _notes(report), heading="### ")


def cells_of(report: Transfer) -> tuple[dict[tuple[float, float], Accuracy], list[float]]:
    """Return RA by the lambda attacked and that which classifies, and the lambdas attacked."""
    cells = {(cell.crafted, cell.lam): cell.ra for cell in report.cells}
    return cells, sorted({source for source, _ in cells})


def _drawn_rows(drawn: Drawn) -> list[Row]:
    names: dict[float | str, str] = {
        "expectation": "the expectation",
        drawn.best_single: f"the best one lambda, {drawn.best_single:g}",
        "worst": "the worst of all for each image",
    }
    found = {one.attacked: _numbers(drawn, one) for one in drawn.attacks}
    return [{"attacked": name, **found[key]} for key, name in names.items() if key in found]


def _numbers(drawn: Drawn, attack: DrawnAttack) -> dict[str, Accuracy]:
    return {
        "expected SA": drawn.expected_clean,
        "expected RA": attack.expected,
        "SA at every lambda": drawn.worst_clean,
        "RA at every lambda": attack.worst,
    }


def _notes(report: Transfer) -> list[str]:
    meanings = (
        "Accuracies in percent with 95% intervals (Wilson; of expected ones bootstrap). RA: right "
        "both clean and attacked. strongest: the one lambda whose attacked images break most."
    )
    if len({cell.crafted for cell in report.cells}) > 1:
        meanings += (
            " Attacking at several lambda values is also several tries for each image: a card with "
            "as many restarts tells what tries alone do."
        )
    if report.drawn is None:
        return [_verdict(report), meanings]
    meanings += (
        " expected: the chance that one query is answered right; at every lambda: what is left to "
        "an attacker who asks until one answer is wrong. The worst of all, the expectation and "
        "each lambda that was attacked at, is the honest number of a random lambda."
    )
    return [_verdict(report), _draws(report.drawn), meanings]


def _verdict(report: Transfer) -> str:
    if not report.compared:
        return (
            "Masked gradients were not looked for: that takes a lambda at which images attacked "
            "there and images attacked elsewhere are classified."
        )
    tests = (
        f"exact tests of {report.compared} pairs of lambda values on the same images, level "
        f"{LEVEL:g}, by Holm"
    )
    if not report.masked:
        return (
            "No lambda is broken significantly more by images attacked at another one: no sign "
            f"of gradients masked at one lambda ({tests}; {fewest(report.compared)} images to none "
            "would have been one)."
        )
    found = "; ".join(
        f"at lambda {one.lam:g} what was attacked at {one.crafted:g} breaks {one.only_there} "
        f"images that its own attack does not, against {one.only_here} (p = {one.p_value:.2g})"
        for one in report.masked
    )
    return f"Gradients are masked: {found} ({tests}). RA, any lambda is the honest number."


def _draws(drawn: Drawn) -> str:
    lams = ", ".join(f"{lam:g}" for lam in drawn.lams)
    chances = ", ".join(f"{chance:.3g}" for chance in drawn.chances)
    how = "all alike" if len(set(drawn.chances)) == 1 else f"with chances {chances}"
    verdict = "cannot be told from that of the best one lambda"
    if drawn.gain.high < 0:
        verdict = "breaks more than that of the best one lambda"
    elif drawn.gain.low > 0:
        verdict = "breaks less than that of the best one lambda, and is too weak"
    return (
        f"Lambda is drawn from {lams}, {how}. The attack on the expectation {verdict}: its "
        f"expected RA is {drawn.gain:+z.1f} points from that under images attacked at lambda "
        f"{drawn.best_single:g}."
    )


def csv(report: Transfer) -> str:
    """Write a row for each lambda that classifies; every threat model has columns of its own."""
    cells, sources = cells_of(report)
    rows = []
    for point in report.points:
        lam = point.lam
        row: dict[str, object] = {"lambda": lam, "width": report.width, "n": report.n}
        row |= ends("SA", point.sa) | ends("RA, lambda public", cells.get((lam, lam)))
        for source in sources:
            other = None if source == lam else cells[source, lam]
            row |= ends(f"RA, lambda unknown, attacked at {source:g}", other)
        row |= ends("RA, any lambda", point.any_lambda) | {"strongest": point.strongest}
        masking = [f"{one.crafted:g}" for one in report.masked if one.lam == lam]
        rows.append(row | {"masked, by images attacked at": " ".join(masking)})
    return to_csv(rows)


def random_csv(drawn: Drawn) -> str:
    """Write a row for each attack on a defender who draws lambda."""
    rows: list[dict[str, object]] = [{"attacked": one.attacked} for one in drawn.attacks]
    for row, one in zip(rows, drawn.attacks, strict=True):
        for name, found in _numbers(drawn, one).items():
            row |= ends(name, found)
    return to_csv(rows)
