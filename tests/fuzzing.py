"""What fuzz tests share: damaged copies of true files, and what a reader may do with them."""

import copy
import math
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oat_bench.errors import UserError

#: inputs of a fuzz test: some hundred always, some thousand where tests are to be exhaustive
COUNTS = pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.exhaustive)])
#: what reading a small file may take on a busy machine: bytes of address space, seconds
MEMORY, SECONDS = 3 << 29, 20


def fuzz(check: Callable[[Any], None], inputs: st.SearchStrategy, count: int) -> None:
    """Run a check on inputs, the same ones in every run but that of `make explore`."""

    @settings(
        max_examples=count,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def run(case: Any) -> None:
        check(case)

    run()


@contextmanager
def bounded_memory(more: int = MEMORY):
    """Make every allocation fail that would need much more than the process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_or_refusal(read: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a reader returns, or in how many words it refuses: one line, soon, in bounds."""
    started = time.monotonic()
    result, message = None, ""
    with bounded_memory():
        try:
            result = read()
        except UserError as error:
            message = str(error)
            assert message
    assert len(message.splitlines()) <= 1, message
    assert len(message) < 2000, message
    assert time.monotonic() - started < SECONDS
    return result, message


# --- bytes

_NUMBERS = [0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
_NUMBERS += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def _edit(draw: st.DrawFn, length: int) -> Callable[[bytearray], None]:
    place = draw(st.integers(0, max(0, length - 1)))
    kind = draw(st.sampled_from(["flip", "set", "cut", "number", "insert", "drop", "copy"]))
    if kind == "flip":
        bit = draw(st.integers(0, 7))

        def edit(content: bytearray) -> None:
            if place < len(content):
                content[place] ^= 1 << bit

    elif kind == "set":
        value = draw(st.integers(0, 255))

        def edit(content: bytearray) -> None:
            if place < len(content):
                content[place] = value

    elif kind == "cut":

        def edit(content: bytearray) -> None:
            del content[place:]

    elif kind == "number":  # a length, an offset, a count
        code = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
        size = struct.calcsize(code)
        number = draw(st.sampled_from(_NUMBERS)) % (1 << (8 * size))

        def edit(content: bytearray) -> None:
            content[place : place + size] = struct.pack(code, number)

    elif kind == "insert":
        added = draw(st.binary(min_size=1, max_size=9))

        def edit(content: bytearray) -> None:
            content[place:place] = added

    elif kind == "drop":
        size = draw(st.integers(1, 40))

        def edit(content: bytearray) -> None:
            del content[place : place + size]

    else:
        origin, size = draw(st.integers(0, length)), draw(st.integers(1, 200))

        def edit(content: bytearray) -> None:
            content[place : place + size] = content[origin : origin + size]

    return edit


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and copies of a file with some of it changed; the head more often."""

    def apply(edits: list[Callable[[bytearray], None]]) -> bytes:
        changed = bytearray(content)
        for edit in edits:
            edit(changed)
        return bytes(changed)

    near = st.lists(_edit(min(len(content), 300)), min_size=1, max_size=3)
    far = st.lists(_edit(len(content)), min_size=1, max_size=3)
    return st.one_of(near.map(apply), far.map(apply), st.binary(max_size=200))


# --- JSON and what else is a tree


def nested(depth: int) -> list:
    """Return a list in a list in a list ..."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**30), 10**400, 1e308, -0.0, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "\n", "\x1b[2J", "\ud800", "\u2028", "../../x", "/etc/passwd", "8/255"]),
    st.sampled_from(["1e999", "nan", "x" * 5000, "__class__", "worst", "all", "Linf", "oat"]),
    st.lists(st.none() | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.integers(2, 300).map(nested),
)


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Change one to three things in a tree of dictionaries and lists."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        at = tree
        while True:  # walk down to somewhere
            keys = list(at) if isinstance(at, dict) else range(len(at))
            if not keys:
                break
            key = draw(st.sampled_from(list(keys)))
            if isinstance(at[key], dict | list) and at[key] and draw(st.integers(0, 4)):
                at = at[key]
                continue
            what = draw(st.sampled_from(["odd", "odd", "odd", "drop", "add", "twice"]))
            if what == "odd":
                at[key] = draw(ODD)
            elif what == "drop":
                del at[key]
            elif isinstance(at, dict):
                at[draw(st.text(max_size=5))] = copy.deepcopy(at[key])
            elif what == "add":
                at.append(draw(ODD))
            else:
                at.insert(key, copy.deepcopy(at[key]))
            break
    return tree


# --- one foreign value in what is otherwise true

FOREIGN = ["mystery", "../../x", "a\n\x1b[2J", 0, -1, 3, 0.123, 1e30, 10**30, True, None, [], {}]


def leaves(tree: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all values in a tree that are no trees themselves, or empty ones."""
    if not isinstance(tree, dict | list) or not tree:
        return [path]
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [found for key, value in pairs for found in leaves(value, (*path, key))]


def foreign(tree: Any, *, every: bool) -> Iterator[tuple[str, Any]]:
    """Change each value of a tree in turn, to all that is foreign or to one word and two others."""
    for place, path in enumerate(leaves(tree)):
        some = [FOREIGN[0], *(FOREIGN[1 + (place + k) % (len(FOREIGN) - 1)] for k in (0, 5))]
        for value in FOREIGN if every else some:
            changed = copy.deepcopy(tree)
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            yield f"{'.'.join(map(str, path))} = {value!r}", changed
