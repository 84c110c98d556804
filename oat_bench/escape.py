"""Text of entries, which anybody may have written, made harmless where it is shown."""

import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~@&$])")  #: links to people and issues included
_FORMULA = ("=", "+", "-", "@")  #: what a spreadsheet takes for the beginning of a formula
_NAMED = ("backslash", "asciitilde", "asciicircum", "less", "greater", "bar", "asciigrave")
#: brackets and star are arguments of the end of a row where a cell begins with them
_LATEX = {
    **{mark: "\\" + mark for mark in "#$%&_{}"},
    **{mark: "{" + mark + "}" for mark in "[]*"},
    **{mark: f"\\text{name}{{}}" for mark, name in zip("\\~^<>|`", _NAMED, strict=True)},
}


def one_line(text: str) -> str:
    """Join lines, without what changes a terminal or the order in which a line reads."""
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
