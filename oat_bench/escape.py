"""Text of entries, which anybody may have written, made harmless where it is shown.

Everywhere it is one line without control characters, so that it changes neither a terminal nor the
order in which a line reads.
"""

import re
import unicodedata
from collections.abc import Sequence

#: links to people and issues included
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~@&$])")
#: what a spreadsheet takes for the beginning of a formula
_FORMULA = ("=", "+", "-", "@")
#: brackets and star are arguments of the end of a row where a cell begins with them
_LATEX = {
    **{mark: "\\" + mark for mark in "#$%&_{}"},
    **{mark: "{" + mark + "}" for mark in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
}


def one_line(text: str) -> str:
    """Join lines, and leave out what is not printed: control characters, marks of direction."""
    spaced = (" " if mark.isspace() else mark for mark in text)
    return " ".join("".join(m for m in spaced if unicodedata.category(m)[0] != "C").split())


def markdown(text: str) -> str:
    """Escape what Markdown, a cell of its tables or HTML gives a meaning."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def latex(text: str) -> str:
    """Escape what LaTeX gives a meaning."""
    escaped = "".join(_LATEX.get(mark, mark) for mark in one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)


def csv(text: str) -> str:
    """Keep a spreadsheet from taking text for a formula, by an apostrophe before it."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


def tabular(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Write a LaTeX table in the style of booktabs.

    Args:
        headers: one a column, escaped.
        rows: their cells, escaped.
        align: a letter a column: ``l``, ``r`` or ``c``.
    """
    lines = [" & ".join(cells) + r" \\" for cells in (headers, *rows)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def latex_table(title: str, tables: Sequence[str], notes: Sequence[str]) -> str:
    r"""Write a floating LaTeX table; it needs ``\usepackage{booktabs}``.

    Args:
        title: of the caption, escaped.
        tables: each a `tabular`, with what stands above it, under one another.
        notes: paragraphs below, escaped.
    """
    parts = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{title}}}",
        "\n\n\\medskip\n".join(tables),
        *[rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes],
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"
