"""The report of the lambda adversary: every threat model under a heading of its own."""

from dataclasses import asdict
from typing import Literal

import pandas as pd
from pydantic import Field
from rich.table import Table

from oat_bench.classifier import ModelInfo
from oat_bench.evaluation import random_lambda
from oat_bench.evaluation.integrity import LEVEL, fewest
from oat_bench.evaluation.random_lambda import Draw
from oat_bench.evaluation.transfer import any_lambda, masked, matrix, pairs, strongest
from oat_bench.reports import comparison
from oat_bench.results.entries import Interval, Written, format_eps, versions
from oat_bench.statistics.accuracy import Accuracy, clean_right

#: what the attacker knows, in the words of the headings
KNOWN = "Lambda is public: attacked at the lambda that classifies"
UNKNOWN = "Lambda is unknown to the attacker: attacked at one lambda, classified at another"
ANY = "Lambda is public, and the attacker may attack at any lambda: the worst for each image"
DRAWN = "Lambda is drawn at random for each query: the attacker knows the set, not the draw"


class Difference(Written):
    """A difference of accuracies in points, with its 95% interval."""

    value: float
    low: float
    high: float


class TransferCell(Written):
    """RA where images are attacked at one lambda and classified at another."""

    crafted: float
    lam: float
    ra: Interval


class TransferPoint(Written):
    """One lambda that images are classified at."""

    lam: float
    sa: Interval
    any_lambda: Interval = Field(description="RA where each image is attacked at its worst lambda")
    strongest: float = Field(description="the one lambda that, attacked at, breaks most")


class MaskedGradients(Written):
    """A lambda at which images attacked elsewhere break more, beyond chance."""

    lam: float
    crafted: float
    only_there: int
    only_here: int
    p_value: float


class DrawnAttack(Written):
    """Accuracies of a defender who draws lambda, under one attack."""

    attacked: float | Literal["expectation", "worst"] = Field(
        description="one lambda; worst: of all of these the worst for each image"
    )
    expected: Interval = Field(description="chance that one query is answered right")
    worst: Interval = Field(description="right at every lambda of the set")


class Drawn(Written):
    """A defender who draws lambda from a set."""

    lams: list[float]
    chances: list[float]
    expected_clean: Interval
    worst_clean: Interval
    attacks: list[DrawnAttack]
    best_single: float = Field(description="the one lambda with the lowest expected RA")
    gain: Difference = Field(description="expected RA: of the expectation less of the best single")


class Transfer(Written):
    """What is written as transfer.json."""

    format_version: Literal[1] = 1
    dataset: str
    method: str
    architecture: str
    norm: str
    eps: str
    width: float
    attack: str
    card: str = Field(description="fingerprint of the attack card")
    seed: int
    gradients: str
    n: int
    cells: list[TransferCell]
    points: list[TransferPoint]
    compared: int = Field(description="pairs of lambda that were tested for masked gradients")
    masked: list[MaskedGradients]
    drawn: Drawn | None
    model_fingerprint: str
    data_fingerprint: str
    command: str
    versions: dict[str, str]


def make_report(
    info: ModelInfo,
    frame: pd.DataFrame,
    expectation: pd.DataFrame | None,
    draw: Draw,
    *,
    attack: str,
    card: str,
    eps: float,
    seed: int,
    gradients: str,
    model_fingerprint: str,
    data_fingerprint: str,
    command: str,
) -> Transfer:
    """Build the report.

    Args:
        info: the classifier's.
        frame: from `oat_bench.evaluation.transfer.transfer`.
        expectation: from `oat_bench.evaluation.random_lambda.evaluate`; None if not asked for.
        draw: how lambda is drawn, of those that ``frame`` has.
        attack: name of the card.
        card: its fingerprint.
        eps: of the attack.
        seed: of the attack.
        gradients: precision that it computed in.
        model_fingerprint: names the weights.
        data_fingerprint: names the data.
        command: what made the numbers.
    """
    first = frame[frame["crafted"] == frame["crafted"].iloc[0]]
    clean = clean_right(first).groupby(first["lam"])
    most = strongest(frame)
    return Transfer(
        dataset=info.dataset,
        method=info.method,
        architecture=info.architecture,
        norm=info.threat.norm,
        eps=format_eps(eps),
        width=float(frame["width"].iloc[0]),
        attack=attack,
        card=card,
        seed=seed,
        gradients=gradients,
        n=frame["example"].nunique(),
        cells=[
            TransferCell(crafted=source, lam=lam, ra=Interval.of(accuracy))
            for (source, lam), accuracy in matrix(frame).items()
        ],
        points=[
            TransferPoint(
                lam=lam,
                sa=Interval.of(Accuracy.of(clean.get_group(lam))),
                any_lambda=Interval.of(accuracy),
                strongest=most[lam],
            )
            for lam, accuracy in any_lambda(frame).items()
        ],
        compared=len(pairs(frame)),
        masked=[MaskedGradients(**asdict(one)) for one in masked(frame)],
        drawn=None if expectation is None else _drawn(frame, expectation, draw),
        model_fingerprint=model_fingerprint,
        data_fingerprint=data_fingerprint,
        command=command,
        versions=versions(),
    )


def _drawn(frame: pd.DataFrame, expectation: pd.DataFrame, draw: Draw) -> Drawn:
    sources = sorted(set(frame["crafted"]))
    single = {source: frame[frame["crafted"] == source] for source in sources}
    attacks: dict[float | Literal["expectation", "worst"], list[pd.DataFrame]] = {
        "expectation": [expectation],
        **{source: [rows] for source, rows in single.items()},
        "worst": [expectation, *single.values()],
    }
    found = {name: random_lambda.summarize(frames, draw) for name, frames in attacks.items()}
    best = min(single, key=lambda source: found[source].expected.value)
    gain = random_lambda.gain(expectation, single[best], draw)
    clean = found["expectation"]
    return Drawn(
        lams=list(draw.lams),
        chances=list(draw.chances),
        expected_clean=Interval.of(clean.expected_clean),
        worst_clean=Interval.of(clean.worst_clean),
        attacks=[
            DrawnAttack(
                attacked=name, expected=Interval.of(one.expected), worst=Interval.of(one.worst)
            )
            for name, one in found.items()
        ],
        best_single=best,
        gain=Difference(**{name: round(value, 2) for name, value in asdict(gain).items()}),
    )


# --- as text


def title(report: Transfer) -> str:
    """Name the model, the attack and the examples."""
    width = f", width {report.width:g}" if report.width != 1 else ""
    return (
        f"{report.dataset}, {report.architecture}, {report.method.upper()}{width}: "
        f"{report.attack}, {report.norm} eps {report.eps}, {report.n} images"
    )


def tables(report: Transfer) -> dict[str, pd.DataFrame]:
    """Return the tables, by heading; accuracies in percent with 95% intervals."""
    cells = {(cell.crafted, cell.lam): cell.ra for cell in report.cells}
    sources = sorted({source for source, _ in cells})
    known = [point for point in report.points if point.lam in sources]
    found: dict[str, pd.DataFrame] = {}
    if known:
        found[KNOWN] = pd.DataFrame(
            {
                "lambda": [f"{point.lam:g}" for point in known],
                "SA": [comparison.written(point.sa) for point in known],
                "RA": [comparison.written(cells[(point.lam, point.lam)]) for point in known],
            }
        )
    if any(source != lam for source, lam in cells):
        # what is attacked where it is classified is another threat model
        square = {"attacked at": [f"{source:g}" for source in sources]}
        for lam in [point.lam for point in report.points]:
            square[f"RA at {lam:g}"] = [
                "" if source == lam else comparison.written(cells[(source, lam)])
                for source in sources
            ]
        found[UNKNOWN] = pd.DataFrame(square)
        found[ANY] = pd.DataFrame(
            {
                "lambda": [f"{point.lam:g}" for point in report.points],
                "SA": [comparison.written(point.sa) for point in report.points],
                "RA, any lambda": [comparison.written(point.any_lambda) for point in report.points],
                "strongest": [f"{point.strongest:g}" for point in report.points],
            }
        )
    if report.drawn is not None:
        drawn = report.drawn
        shown = [a for a in drawn.attacks if a.attacked in ("expectation", drawn.best_single)]
        shown += [a for a in drawn.attacks if a.attacked == "worst"]
        found[DRAWN] = pd.DataFrame(
            {
                "attacked": [_attacked(one) for one in shown],
                "expected SA": comparison.written(drawn.expected_clean),
                "expected RA": [comparison.written(one.expected) for one in shown],
                "SA at every lambda": comparison.written(drawn.worst_clean),
                "RA at every lambda": [comparison.written(one.worst) for one in shown],
            }
        )
    return found


def _attacked(one: DrawnAttack) -> str:
    if one.attacked == "expectation":
        return "the expectation"
    if one.attacked == "worst":
        return "the worst of all for each image"
    return f"the best one lambda, {one.attacked:g}"


def notes(report: Transfer) -> list[str]:
    """Return what stands below the tables: the verdicts, and what the columns mean."""
    paragraphs = [_verdict(report)]
    if report.drawn is not None:
        paragraphs.append(_draws(report.drawn))
    meanings = (
        "Accuracies in percent with 95% intervals (Wilson; of expected ones bootstrap). RA: right "
        "both clean and attacked. strongest: the one lambda whose attacked images break most."
    )
    if len({cell.crafted for cell in report.cells}) > 1:
        meanings += (
            " Attacking at several lambda is also several tries for each image: a card with as "
            "many restarts tells what tries alone do."
        )
    if report.drawn is not None:
        meanings += (
            " expected: the chance that one query is answered right; at every lambda: what is left "
            "to an attacker who asks until one answer is wrong. The worst of all, the expectation "
            "and each lambda that was attacked at, is the honest number of a random lambda."
        )
    return [*paragraphs, meanings]


def _verdict(report: Transfer) -> str:
    if not report.compared:
        return (
            "Masked gradients were not looked for: that takes a lambda at which images attacked "
            "there and images attacked elsewhere are classified."
        )
    tests = f"exact tests of {report.compared} pairs of lambda on the same images, level {LEVEL:g}"
    if not report.masked:
        return (
            "No lambda is broken more, beyond chance, by images attacked at another one: no sign "
            f"of gradients masked at one lambda ({tests}, by Holm; {fewest(report.compared)} "
            "images to none would have been one)."
        )
    found = "; ".join(
        f"at lambda {one.lam:g} what was attacked at {one.crafted:g} breaks {one.only_there} "
        f"images that its own attack does not, against {one.only_here} (p = {one.p_value:.2g})"
        for one in report.masked
    )
    return f"Gradients are masked: {found} ({tests}, by Holm). RA, any lambda is the honest number."


def _draws(drawn: Drawn) -> str:
    lams = ", ".join(f"{lam:g}" for lam in drawn.lams)
    chances = ", ".join(f"{chance:.3g}" for chance in drawn.chances)
    how = "all alike" if len(set(drawn.chances)) == 1 else f"with chances {chances}"
    gain = drawn.gain
    verdict = "cannot be told from that of the best one lambda"
    if gain.high < 0:
        verdict = "breaks more than that of the best one lambda"
    elif gain.low > 0:
        verdict = "breaks less than that of the best one lambda, and is too weak"
    return (
        f"Lambda is drawn from {lams}, {how}. The attack on the expectation {verdict}: its "
        f"expected RA is {gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}] points from that "
        f"under images attacked at lambda {drawn.best_single:g}."
    )


def markdown(report: Transfer) -> str:
    """Write the report as Markdown."""
    parts = [f"**{title(report)}**"]
    for heading, table in tables(report).items():
        parts += [
            f"### {heading}",
            table.to_markdown(index=False, disable_numparse=True, stralign="right"),
        ]
    return "\n\n".join([*parts, *notes(report)]) + "\n"


def terminal(frame: pd.DataFrame) -> Table:
    """Draw one of the `tables` for a terminal, each interval below its accuracy."""
    return comparison.terminal(frame.map(lambda cell: cell.replace(" [", "\n[")))


def csv(report: Transfer) -> str:
    """Write a row for each lambda that classifies; every threat model has columns of its own."""
    cells = {(cell.crafted, cell.lam): cell.ra for cell in report.cells}
    sources = sorted({source for source, _ in cells})
    rows = []
    for point in report.points:
        lam = point.lam
        accuracies: dict[str, Interval | None] = {
            "SA": point.sa,
            "RA, lambda public": cells.get((lam, lam)),
            **{
                f"RA, lambda unknown, attacked at {source:g}": cells[(source, lam)]
                if source != lam
                else None
                for source in sources
            },
            "RA, any lambda": point.any_lambda,
        }
        row: dict[str, object] = {"lambda": lam, "width": report.width, "n": report.n}
        for name, found in accuracies.items():
            row |= _columns(name, found)
        masking = [one.crafted for one in report.masked if one.lam == lam]
        row |= {
            "strongest": point.strongest,
            "masked, by images attacked at": " ".join(f"{source:g}" for source in masking),
        }
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def random_csv(drawn: Drawn) -> str:
    """Write a row for each attack on a defender who draws lambda."""
    rows = []
    for one in drawn.attacks:
        row: dict[str, object] = {"attacked": one.attacked}
        row |= _columns("expected SA", drawn.expected_clean)
        row |= _columns("expected RA", one.expected)
        row |= _columns("SA at every lambda", drawn.worst_clean)
        row |= _columns("RA at every lambda", one.worst)
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def _columns(name: str, found: Interval | None) -> dict[str, float | None]:
    values = (None,) * 3 if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name} low", f"{name} high"), values, strict=True))
