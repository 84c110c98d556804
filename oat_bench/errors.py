"""What the command line turns into a single line: a user's error, and an end without a report."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Input that only the user can mend: one line on what was wrong, expected, and how to mend."""


class Finished(Exception):  # noqa: N818
    """What was asked for is done, and there is no report: one line, exit code 0."""


def one_line(text: object, limit: int | None = 200) -> str:
    """Write the first of text from elsewhere in one line, with nothing that steers a terminal."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line[:limit]


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Say which of the known names was probably meant; if none, ``otherwise``, or all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return otherwise or f"known: {', '.join(names)}"


def network_reason(error: Exception) -> str:
    """Say in one line why a download failed; urllib wraps the errors of the system."""
    reason = getattr(error, "reason", None) or error
    return one_line(getattr(reason, "strerror", None) or reason) or type(error).__name__


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist, with the nearest ones that do."""
    return UserError(f"unknown {kind} {name!r}; {nearest(name, known)}")
