"""Numbers of the pages, written anew from the published entries: `make numbers`.

A marker, an HTML comment, says what stands between it and the next ``<!-- end -->``::

    <!-- numbers: points digits/Linf/oat-wrn-10-1 --attacks pgd-20 -->

One at the start of a line stands above a table, one within a line before a number. Entries are
named as in leaderboards/, without ``.json``; only they and the outcomes beside them are read.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NoReturn

from oat_bench.errors import UserError
from oat_bench.reports import comparison as comparisons
from oat_bench.reports import flags, per_lambda
from oat_bench.reports.table import Row, Table
from oat_bench.results import comparison, models, records
from oat_bench.results.comparison import Comparison
from oat_bench.results.entries import Entry
from oat_bench.results.points import PointResult
from oat_bench.statistics.accuracy import Estimate
from oat_bench.statistics.pairs import Paired

ROOT = Path(__file__).parents[1]
MARKER, END = "<!-- numbers: ", "<!-- end -->"
_PART = re.compile(rf"({MARKER}(.*?) -->)(.*?)({END})", re.DOTALL)


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that numbers are written to."""
    return [root / "README.md", *sorted((root / "docs").glob("**/*.md"))]


def rewritten(page: Path) -> str:
    """Return a page with every number between markers as the entries have it."""

    def write(match: re.Match[str]) -> str:
        marker, words, _, end = match.groups()
        own_line = match.start() in (0, text.rfind("\n", 0, match.start()) + 1)
        try:
            found = numbers(words, table=own_line)
        except UserError as error:
            raise UserError(f"{page}: numbers: {words}: {error}") from error
        return f"{marker}\n\n{found}\n\n{end}" if own_line else f"{marker}{found}{end}"

    text = page.read_text()
    if not text.count(MARKER) == text.count(END) == len(_PART.findall(text)):
        raise UserError(f"{page}: each '{MARKER}... -->' needs an '{END}' before the next one")
    return _PART.sub(write, text)


def numbers(words: str, *, table: bool) -> str:
    """Return the table, or the number within a line, that the words of a marker ask for."""
    kinds = _TABLES if table else _WITHIN
    asked = _options().parse_args(shlex.split(words))
    if asked.kind not in kinds:
        raise UserError(f"{asked.kind} is not written there; expected {', '.join(kinds)}")
    return kinds[asked.kind](asked)


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _options() -> argparse.ArgumentParser:
    options = _Options(add_help=False)
    options.add_argument("kind")
    options.add_argument("entries", nargs="+", type=_path)
    options.add_argument("--attacks", type=_names, default=[])
    options.add_argument("--lambda", dest="lams", type=_numbers, default=[])
    options.add_argument("--to-lambda", type=float)  # of one entry, what --lambda is held against
    options.add_argument("--columns", type=_names, default=[])  # of frontiers; all if absent
    return options


def _path(name: str) -> Path:
    return ROOT / "leaderboards" / f"{name}.json"


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


_read = cache(records.read)


def _entries(asked: argparse.Namespace) -> list[Entry]:
    return [_read(path).entry for path in asked.entries]


def _report(asked: argparse.Namespace) -> str:
    """Write the report of one entry, as `oat-bench evaluate` prints it."""
    (entry,) = _entries(asked)
    return per_lambda.of_entry(entry).markdown().strip()


def _flags(asked: argparse.Namespace) -> str:
    """Write what the evaluation of one entry doubts."""
    (entry,) = _entries(asked)
    return "\n>\n".join(f"> {line}" for line in flags.lines(entry.flags or []))


def _points(asked: argparse.Namespace) -> str:
    """Write SA and RA under some attacks: a row for each lambda, a column for each entry."""
    entries = _entries(asked)
    _known(entries, asked.attacks)
    columns = dict(zip(models.labels(entries), entries, strict=True))
    there = {(p.lam, p.trained) for entry in entries for p in entry.operating_points}
    lams = asked.lams or sorted({lam for lam, _ in there})
    rows: list[Row] = []
    for lam in lams:
        row = {"lambda": f"{lam:g}" + ("" if (lam, True) in there else " *")}
        for label, entry in columns.items():
            found = [point for point in entry.operating_points if point.lam == lam]
            row[label] = _accuracies(_widest(found), asked.attacks) if found else ""
        rows.append(row)
    cells = " / ".join(["SA", *(_with_counts(attack, entries) for attack in asked.attacks)])
    star = "; * lambda was not trained" * any(str(row["lambda"]).endswith("*") for row in rows)
    return f"{Table(rows).markdown()}\n\n{cells}, in percent{star}."


def _known(entries: Sequence[Entry], attacks: Sequence[str]) -> None:
    for name in attacks:
        for entry in entries:
            known = list(entry.operating_points[0].robust)
            if name not in known:
                raise UserError(f"{entry.name} has no attack {name}; it has {', '.join(known)}")


def _widest(points: Sequence[PointResult]) -> PointResult:
    return max(points, key=lambda point: point.width)


def _accuracies(point: PointResult, attacks: Sequence[str]) -> str:
    values = [point.clean_acc, *(point.robust[name].value for name in attacks)]
    return " / ".join(f"{value:.1f}" for value in values)


def _with_counts(attack: str, entries: Sequence[Entry]) -> str:
    robust = [point.robust[attack] for entry in entries for point in entry.operating_points]
    counts = sorted({found.n for found in robust if found.n is not None})
    span = f"{counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") if counts else ""
    return f"{attack} (n {span})" if span else attack


def _compared(asked: argparse.Namespace) -> Comparison:
    if len(asked.attacks) != 1:
        raise UserError(f"one attack is compared; --attacks has {len(asked.attacks)}")
    return _compare(tuple(asked.entries), asked.attacks[0], asked.to_lambda)


@cache
def _compare(paths: tuple[Path, ...], attack: str, to_lambda: float | None) -> Comparison:
    return comparison.compare(records.read_all(paths), attack=attack, reference_lam=to_lambda)


def _frontiers(asked: argparse.Namespace) -> str:
    """Write how frontiers compare with the first, as `oat-bench compare` prints it."""
    found = _compared(asked)
    (table,) = comparisons.page(replace(found, rows=[], over_seeds=[])).tables
    wanted = asked.columns or table.columns
    if missing := [name for name in wanted if name not in table.columns]:
        raise UserError(f"no column {missing[0]}; there are {', '.join(table.columns)}")
    rows = [{name: row.get(name) for name in wanted} for row in table.rows]
    written = replace(table, rows=rows).markdown()
    return f"{written}\n\nRA under {found.attack}; differences are to {found.reference}."


def _at(asked: argparse.Namespace) -> str:
    """Write SA and RA under some attacks of one entry at one lambda."""
    entries = _entries(asked)
    _known(entries, asked.attacks)
    (entry,), (lam,) = entries, asked.lams
    found = [point for point in entry.operating_points if point.lam == lam]
    if not found:
        raise UserError(f"{entry.name} has no lambda {lam:g}")
    return _accuracies(_widest(found), asked.attacks)


def _hypervolume(asked: argparse.Namespace) -> str:
    """Write the hypervolume of a frontier; of two entries, by how much the second's is larger."""
    total = _compared(asked).totals[-1]
    if len(asked.entries) == 1:
        return f"{total.hypervolume:.1f}"
    return _signed(total.difference)


def _difference(asked: argparse.Namespace, name: str) -> str:
    """Write by how much the last entry's accuracy is higher at a lambda, on the same images."""
    (lam,) = asked.lams
    rows = [row for row in _compared(asked).rows if row.point.lam == lam]
    if not rows:
        raise UserError(f"{asked.entries[-1].stem} has no lambda {lam:g}")
    found = getattr(rows[-1], f"{name}_difference")
    if not isinstance(found, Paired):
        raise UserError("no outcomes of the same images at these operating points")
    return _signed(found)


def _signed(found: Estimate | float | None) -> str:
    if found is None:
        raise UserError("there is nothing to compare with")
    return f"{found:+z.1f}"


_TABLES: dict[str, Callable[[argparse.Namespace], str]] = {
    "report": _report,
    "flags": _flags,
    "points": _points,
    "frontiers": _frontiers,
}
_WITHIN: dict[str, Callable[[argparse.Namespace], str]] = {
    "at": _at,
    "hypervolume": _hypervolume,
    "sa-difference": lambda asked: _difference(asked, "clean"),
    "ra-difference": lambda asked: _difference(asked, "robust"),
}


def main(words: Sequence[str], root: Path = ROOT) -> int:
    """Rewrite all pages, or with --check tell those that differ; return the exit code."""
    options = argparse.ArgumentParser(description="Write numbers of the pages from the entries.")
    options.add_argument("--check", action="store_true", help="write nothing; 1 where one differs")
    check = options.parse_args(words).check
    try:
        made = {page: rewritten(page) for page in pages(root)}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    changed = [page for page, text in made.items() if text != page.read_text()]
    for page in changed:
        where = page.relative_to(root)
        print(f"{where}: {'differs from the entries; run `make numbers`' if check else 'written'}")
        if not check:
            page.write_text(made[page])
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
