"""Tables of reports, and the page around them: for a terminal, as Markdown, LaTeX and CSV.

What comes from files of strangers is escaped here.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Drawing
from rich.text import Text
from tabulate import tabulate

from oat_bench import escape
from oat_bench.statistics.accuracy import Estimate

Content = str | Estimate | None
_ENDLESS, _GAP = 10_000, 2  # characters: where there is no terminal, and between two columns
_FOLDED = 24  # a column of words is not narrower, unless all fits


@dataclass(frozen=True)
class Cell:
    """What stands in one cell: a line, or a number with its interval; nothing if None."""

    content: Content
    style: str = ""  # in a terminal, as rich has it
    strong: bool = False  # bold in Markdown
    beside: str = ""  # what stands in brackets behind the interval
    signed: bool = False  # a difference

    @property
    def text(self) -> str:
        """The line, or the number alone."""
        if isinstance(self.content, Estimate):
            return self._number(self.content.value)
        return self.content or ""

    @property
    def line(self) -> str:
        """The text and what stands beside it."""
        return f"{self.text} ({self.beside})" if self.beside else self.text

    def _number(self, value: float, digits: int = 1) -> str:
        return f"{value:+z.{digits}f}" if self.signed else f"{value:.{digits}f}"

    def interval(self, digits: int = 1, between: str = ", ") -> str:
        """Write the ends of the interval; nothing if there is none."""
        if not isinstance(self.content, Estimate):
            return ""
        ends = (self.content.low, self.content.high)
        return between.join(self._number(end, digits) for end in ends)


Row = Mapping[str, Content | Cell]


def _names(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))


def _cell(row: Row, column: str) -> Cell:
    content = row.get(column)
    return content if isinstance(content, Cell) else Cell(content)


@dataclass(frozen=True)
class Table:
    """A table; columns that say nothing are left out."""

    rows: Sequence[Row]  # by column; columns are in the order of the longest row
    words: Collection[str] = ()  # the columns of text, to the left; numbers stand to the right
    heading: str = ""
    foreign: bool = True  # words may be anybody's, and are escaped
    keys: Collection[str] = ()  # the columns that tell rows apart; the first if none is named
    digits: int = 1  # of the ends of intervals in a terminal
    gaps: Collection[int] = ()  # rows that a terminal sets apart from the one before

    @property
    def columns(self) -> list[str]:
        """The columns that say something."""
        names = _names(self.rows)
        return [name for name in names if any(_cell(row, name).text for row in self.rows)]

    def _written(self, write: Callable[[str, Cell], str]) -> list[list[str]]:
        return [[write(name, _cell(row, name)) for name in self.columns] for row in self.rows]

    def markdown(self) -> str:
        """Write it as Markdown."""

        def write(name: str, cell: Cell) -> str:
            text = cell.text
            if self.foreign and name in self.words:
                text = escape.markdown(text)
            text = f"**{text}**" if cell.strong else text
            text = f"{text} [{interval}]" if (interval := cell.interval()) else text
            return f"{text} ({cell.beside})" if cell.beside else text

        columns, rows = self.columns, self._written(write)
        align = ["left" if name in self.words else "right" for name in columns]
        return str(tabulate(rows, columns, "pipe", disable_numparse=True, colalign=align))

    def latex(self) -> str:
        """Write it as LaTeX, in the style of booktabs."""

        def write(name: str, cell: Cell) -> str:
            text = escape.latex(cell.text) if name in self.words else cell.text
            beside = f" ({cell.beside})" if cell.beside else ""
            interval = cell.interval()
            return rf"{text} {{\scriptsize [{interval}]{beside}}}" if interval else text + beside

        columns, rows = self.columns, self._written(write)
        align = "".join("l" if name in self.words else "r" for name in columns)
        header, *body = [" & ".join(row) + r" \\" for row in [map(escape.latex, columns), *rows]]
        lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", header, r"\midrule", *body]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])

    def _drawn(self, cell: Cell) -> Text:
        text = Text(escape.one_line(cell.text), style=cell.style)
        interval = cell.interval(self.digits, ", " if self.digits else "-")
        for line in filter(None, (interval, cell.beside)):
            text.append(f"\n{line}", "dim")
        return text

    def draw(self, console: Console) -> None:
        """Print it, each interval below its number; all of it fits into a terminal.

        Of a table that is too wide, what all rows share is said above, and the other columns stand
        in parts below one another, each with the `keys`.
        """
        room = console.width if console.is_terminal else _ENDLESS
        shared, columns = self._split(room)
        widths = [self._fitted(part, room) for part in columns]
        if shared:
            console.print(shared, style="dim")
        room = max(room, *(sum(part.values()) + _GAP * (len(part) - 1) for part in widths))
        wide = Console(file=console.file, force_terminal=console.is_terminal, width=room)
        for place, part in enumerate(widths):
            if place or shared:
                console.print()
            wide.print(self._drawing(part))

    def _drawing(self, widths: Mapping[str, int]) -> Drawing:
        drawn = Drawing(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        for name, width in widths.items():
            # what is in brackets stays in one line
            header = name if cell_len(name) <= width else name.replace(" (", "\n(")
            drawn.add_column(header, overflow="fold", width=width, vertical="top")
            drawn.columns[-1].justify = "left" if name in self.words else "right"
        for place, row in enumerate(self.rows):
            if place in self.gaps:
                drawn.add_section()
            drawn.add_row(*[self._drawn(_cell(row, name)) for name in widths])
        return drawn

    def _split(self, room: int) -> tuple[str, list[list[str]]]:
        """Return what all rows share, in words, if there is no room for all columns, and parts."""
        columns, widths = self.columns, {name: self._widths(name) for name in self.columns}

        def needed(names: Sequence[str], which: int) -> int:
            return sum(widths[name][which] + _GAP for name in names) - _GAP

        if needed(columns, 2) <= room:
            return "", [columns]
        keys = [name for name in columns if name in self.keys] or columns[:1]
        shared = [name for name in columns if name not in keys and self._is_shared(name)]
        columns = [name for name in columns if name not in shared]
        said = [f"{name} {_cell(self.rows[0], name).line}" for name in shared]
        if needed(columns, 0) <= room:
            parts = [columns]
        else:
            parts = [keys]
            for name in (name for name in columns if name not in keys):
                if parts[-1] == keys or needed([*parts[-1], name], 1) <= room:
                    parts[-1] = [one for one in columns if one in (*parts[-1], name)]
                else:
                    parts.append([one for one in columns if one in (*keys, name)])
        return escape.one_line(", ".join(said)), parts

    def _is_shared(self, name: str) -> bool:
        cells = [_cell(row, name) for row in self.rows]
        alike = len({(cell.text, cell.beside) for cell in cells}) == 1
        short = all(len(cell.text) <= _FOLDED and not cell.interval() for cell in cells)
        return len(cells) > 1 and alike and short

    def _widths(self, name: str) -> tuple[int, int, int]:
        """Return what a column takes at least, with words folded; what is enough; and at most."""
        cells = [self._drawn(_cell(row, name)).plain for row in self.rows]
        whole = max(cell_len(line) for cell in cells for line in cell.split("\n"))
        most = max(cell_len(name), whole)
        least = max(map(cell_len, re.findall(r"\(.*?\)|\S+", name)))
        if name not in self.words:
            least = max(least, whole)
            return least, least, most
        least = max(least, *(cell_len(word) for cell in cells for word in ["", *cell.split()]))
        return least, max(least, min(most, _FOLDED)), most

    def _fitted(self, columns: Sequence[str], room: int) -> dict[str, int]:
        """Share the room out: what columns need, then to those first that would take more."""
        widths = [self._widths(name) for name in columns]
        free, fitted = room - _GAP * (len(columns) - 1), {}
        which = int(sum(enough for _, enough, _ in widths) <= free)
        free -= sum(width[which] for width in widths)
        for name, width in zip(columns, widths, strict=True):
            more = min(max(free, 0), width[2] - width[which])
            fitted[name], free = width[which] + more, free - more
        return fitted


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()  # paragraphs below
    said: Sequence[str] = ()  # what it comes to, in Markdown; a terminal has it below the tables
    code: str = ""  # Python
    heading: str = ""  # what headings of tables begin with in Markdown

    def markdown(self) -> str:
        """Write it as Markdown."""
        parts = [f"**{escape.markdown(self.title)}**", *self.said]
        parts += [f"```py\n{self.code}\n```"] if self.code else []
        for table in self.tables:
            above = [self.heading + escape.markdown(table.heading)] if table.heading else []
            parts += [*above, table.markdown()]
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def latex(self) -> str:
        r"""Write it as a floating table of LaTeX; it needs ``\usepackage{booktabs}``."""
        tables = []
        for table in self.tables:
            above = f"{escape.latex(table.heading)}\\\\[2pt]\n" if table.heading else ""
            tables.append(above + table.latex())
        parts = [
            "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering",
            rf"\caption{{{escape.latex(self.title)}}}",
            "\n\n\\medskip\n".join(tables),
            *[rf"\par\smallskip{{\footnotesize {escape.latex(one)}\par}}" for one in self.notes],
            r"\end{table}",
        ]
        return "\n".join(parts) + "\n"

    def draw(self, console: Console) -> None:
        """Print it to a terminal."""
        console.print(escape.one_line(self.title), style="italic")
        for place, table in enumerate(self.tables):
            if place or table.heading:
                console.print()
            if table.heading:
                console.print(escape.one_line(table.heading), style="bold")
            table.draw(console)
        console.print()
        for sentence in self.said:
            console.print(sentence, style="bold")
        if self.code:
            console.print(self.code, style="green")
        if self.said:
            console.print()
        for note in self.notes:
            console.print(escape.one_line(note), style="dim")


def short(count: int) -> str:
    """Write a count in three digits: 1.16 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def span(values: Sequence[float]) -> str:
    """Write the range of numbers; one where they are the same in one decimal."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    if low == high:
        return low
    return f"{low} and more" if high == "inf" else f"{low} to {high}"


def ends(name: str, found: Estimate | None) -> dict[str, float | None]:
    """Return a number with its interval as columns of a CSV."""
    numbers = (None,) * 3 if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name} low", f"{name} high"), numbers, strict=True))


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows as CSV, every number in a column of its own."""
    harmless = [{name: _harmless(value) for name, value in row.items()} for row in rows]
    return pd.DataFrame(harmless, columns=_names(rows), dtype=object).to_csv(index=False)


def _harmless(value: object) -> object:
    """Keep text from being a formula; a number may begin with a minus."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return escape.csv(value)
