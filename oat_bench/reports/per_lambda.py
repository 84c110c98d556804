"""The accuracies of a run at every lambda: a table for each width."""

from collections.abc import Sequence
from itertools import groupby

from oat_bench.reports.table import Cell, Content, Page, Row, Table, ends, short, to_csv
from oat_bench.results.entries import Entry, EntryAttack
from oat_bench.results.points import Cost, PointResult, total_costs
from oat_bench.results.published import Published
from oat_bench.statistics.accuracy import WORST, Accuracy
from oat_bench.statistics.frontier import Summary

NOTE = "Accuracies in percent with 95% Wilson intervals. SA: clean images. RA: under the attack"
SEVERAL = "; worst: right under every attack"
UNTRAINED = "* lambda was not trained"
MIXED = "; between 0 and the first trained value dual batch norms are mixed (folded-affine)"
RANDOM = (
    "Random: each image is answered by a draw of its own, clean as attacked; attacks are on the "
    "expectation over draws."
)

#: what was published, each with its row, by lambda, width and the name of the accuracy
_Quoted = dict[tuple[float, float, str], list[tuple[float, Published]]]


def page(
    results: Sequence[PointResult],
    trained: Sequence[float],
    title: str,
    published: Sequence[Published] = (),
    frontiers: Sequence[Summary] = (),
    attacks: Sequence[EntryAttack] = (),
    ancestry: str = "",
    *,
    dial: bool = True,
    random: bool = False,
) -> Page:
    """Return the report: a table for each width; ``dial`` is false where lambda changes nothing.

    Lambda values outside ``trained`` have a star; of ``frontiers``, the last attack's are said.
    """
    quoted, tables = _quoted(published), []
    several = len({result.width for result in results}) > 1
    ordered = sorted(results, key=lambda result: -result.width)
    for share, group in groupby(ordered, key=lambda result: result.width):
        points = list(group)
        width = [f"width {share:g}"] if several else []
        heading = ": ".join([*width, *_cost(points)])
        tables.append(Table(_rows(points, trained, quoted, dial), heading=heading, digits=0))
    many = _several(results)
    summed = [one for one in frontiers if dial and (many or one.attack != WORST)]
    notes = _notes(published, summed, attacks)
    notes += _attacking(results)
    if ancestry:
        notes.insert(0, f"Training {ancestry}.")
    marks = [RANDOM] if random else []
    if any(_untrained(result, trained) for result in results):
        marks.append(f"{UNTRAINED}{'' if random else MIXED}.")
    return Page(title, tables, [" ".join([f"{NOTE}{SEVERAL * many}.", *marks]), *notes])


def of_entry(entry: Entry) -> Page:
    """Return the report of an entry alone."""
    results = entry.operating_points
    model = f"{entry.architecture}, {entry.method.upper()}"
    title = f"{entry.dataset}, {model}, {entry.threat_model} eps {entry.eps}"
    summed = (entry.frontiers or (), entry.attacks, entry.ancestry)
    return page(results, trained_of(entry), title, (), *summed, random=entry.randomized)


def trained_of(entry: Entry) -> list[float]:
    """Return lambda of the operating points that were trained."""
    return [point.lam for point in entry.operating_points if point.trained]


def _untrained(result: PointResult, trained: Sequence[float]) -> bool:
    return bool(trained) and result.lam not in trained


def _several(results: Sequence[PointResult]) -> bool:
    """Whether there are several attacks; of one the worst case is the same again."""
    return len({name for result in results for name in result.robust_acc}) > 1


def _quoted(published: Sequence[Published]) -> _Quoted:
    found: _Quoted = {}
    for row in published:
        for name, value in (("SA", row.sa), (row.attack, row.ra)):
            if value is not None:
                found.setdefault((row.lam, row.width, name), []).append((value, row))
    return found


def _rows(
    results: Sequence[PointResult], trained: Sequence[float], quoted: _Quoted, dial: bool
) -> list[Row]:
    ns = {name: found.n for name, found in results[0].accuracies.items()}
    many, rows = _several(results), list[Row]()
    for result in results:
        star = " *" if _untrained(result, trained) else ""
        lam = f"{result.lam:g}{star}" if dial else "-"
        row: dict[str, Content | Cell] = {"lambda": lam}
        if result.place is not None:
            row["place"] = f"{result.place:.3g}"
        row["n"] = str(result.n)
        told: set[str] = set()
        for name, found in result.accuracies.items():
            if name == WORST and not many:
                continue
            header = f"{name} (n {ns[name]})" if ns.get(name) else name
            sample = "" if found.sampled is None else f"{found.sampled} of {found.left}"
            beside = "" if name == WORST and sample in told else sample
            row[header] = Cell(found, "bold" if name == WORST else "", beside=beside)
            told.add(sample)
            others = quoted.get((result.lam, result.width, name), ())
            row[f"{name} published"] = "; ".join(_beside(found, *other) for other in others)
        rows.append(row)
    return rows


def _beside(measured: Accuracy, value: float, row: Published) -> str:
    doubt = row.uncertainty
    written = f"{value:.1f} +/- {doubt:.1f}" if doubt >= 0.05 else f"{value:.2f}"
    return f"{written} ({measured.value - value:+z.1f})"


def _notes(
    published: Sequence[Published], frontiers: Sequence[Summary], attacks: Sequence[EntryAttack]
) -> list[str]:
    paragraphs = [
        f"{attack.name}: an image is broken where it is taken for its target ({attack.targeted}), "
        "and no other class counts; not part of worst."
        for attack in attacks
        if attack.targeted
    ]
    paragraphs += [
        f"{attack.name}: images that were attacked on that model and lambda; one outside the ball "
        "of this threat model counts as not broken."
        for attack in attacks
        if attack.engine == "file"
    ]
    paragraphs += [
        f"{attack.name}: run at each lambda on {_standing(attack.after)}, or on a random sample of "
        "them (in brackets: how many of how many). RA: the share of n that they are times the "
        "share of the sample that survives; see docs/two-phase.md."
        for attack in attacks
        if attack.after is not None
    ]
    if published:
        sources = dict.fromkeys(r.source + (f" ({r.note})" if r.note else "") for r in published)
        paragraphs.append(
            "Published: the value, its uncertainty, in brackets measured less published in points. "
            f"From {'; '.join(sources)}."
        )
    shown = [s for s in frontiers if s.attack == frontiers[-1].attack]
    return [*paragraphs, *(_summary(one, with_width=len(shown) > 1) for one in shown)]


def _standing(after: Sequence[str]) -> str:
    """Say what is left after the attacks of a first phase."""
    if not after:
        return "the images that are right clean"
    *others, last = after
    return f"the images that {', '.join(others)}{' and ' * bool(others)}{last} left standing"


def _summary(frontier: Summary, *, with_width: bool) -> str:
    name = "worst-case RA" if frontier.attack == WORST else f"RA under {frontier.attack}"
    where = f" at width {frontier.width:g}" if with_width else ""
    (sa, ra), volume = frontier.reference, frontier.hypervolume
    said = (
        f"Frontier of SA and {name}{where}: hypervolume {volume.value:.1f}% "
        f"[{volume.low:.1f}, {volume.high:.1f}] of the box from ({sa:g}, {ra:g})% to "
        f"(100, 100)%; Pareto-optimal lambda {', '.join(f'{lam:g}' for lam in frontier.pareto)}"
    )
    if (hole := frontier.hole) is not None:
        said += (
            f"; hole between lambda 0 and {hole.lam:g}: SA {-hole.sa:+z.1f}, RA {hole.ra:+z.1f}, "
            f"{hole.distance:.1f} points apart"
        )
    return said + "."


def _cost(results: Sequence[PointResult]) -> list[str]:
    """Say what one width costs; lambda makes no difference but by chance, in the latency."""
    cost = Cost.typical([result.cost for result in results if result.cost is not None])
    if cost is None:
        return []
    counted = f"{short(cost.parameters)} parameters, {short(cost.flops)} FLOPs"
    return [f"{counted} and {cost.latency()} ({cost.machine})"]


def _attacking(results: Sequence[PointResult]) -> list[str]:
    """Say what the attacks took, at all operating points together."""
    costs = [cost for cost in total_costs(results) if cost.n]
    if not costs:
        return []
    machines = {cost.machine for cost in costs}
    said = [
        f"{' + '.join(cost.attacks)} {cost.n} images, {cost.passes:,.1f} passes each, "
        f"{cost.seconds:,.1f} s" + (f" ({cost.machine})" if len(machines) > 1 else "")
        for cost in costs
    ]
    where = f" ({costs[0].machine})" if len(machines) == 1 else ""
    return [
        f"Cost of the attacks, forward and backward passes: {'; '.join(said)}{where}. "
        "What attacks joined by + shared counts once."
    ]


def csv(
    results: Sequence[PointResult], trained: Sequence[float], published: Sequence[Published] = ()
) -> str:
    """Write a row for each point, every number in its own column; of several published the mean."""
    quoted, points = _quoted(published), {(result.lam, result.width) for result in results}
    compared = {name for lam, width, name in quoted if (lam, width) in points}
    rows = []
    for result in results:
        row: dict[str, object] = {"lambda": result.lam, "width": result.width}
        row |= {} if result.place is None else {"place": f"{result.place:.4g}"}
        row |= {"trained": result.lam in trained, "n": result.n}
        if (cost := result.cost) is not None:
            row |= {"parameters": cost.parameters, "FLOPs": cost.flops}
            row["latency, ms"] = f"{cost.latency_ms:.3f}"
        for name, found in result.accuracies.items():
            row |= {column: f"{value:.2f}" for column, value in ends(name, found).items()}
            known = {"n": found.n, "left": found.left, "sampled": found.sampled}
            row |= {f"{name} {key}": count for key, count in known.items() if count is not None}
            if name in compared:
                values = [value for value, _ in quoted.get((result.lam, result.width, name), ())]
                mean = sum(values) / len(values) if values else None
                row[f"{name} published"] = "" if mean is None else f"{mean:.2f}"
                row[f"{name} difference"] = "" if mean is None else f"{found.value - mean:.2f}"
        rows.append(row)
    return to_csv(rows)
