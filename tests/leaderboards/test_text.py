"""Text of others, shown as text."""

import csv
import io
import re
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_bench import escape as text

anything = st.text() | st.text(alphabet="\\{}[]*_^~#$%&<>|`-=+@ \n\t\r\x1b\u2028\u202ea")


@given(anything)
def test_a_line_is_one_and_all_of_it_is_printed(value):
    line = text.one_line(value)
    assert line.splitlines() in ([], [line])
    assert all(unicodedata.category(mark)[0] != "C" for mark in line)
    assert text.one_line(line) == line


def test_nothing_that_is_printed_is_lost():
    assert text.one_line("a\tb\n\nc \u00e9\u4e2d") == "a b c \u00e9\u4e2d"


@given(anything)
def test_markdown_has_no_mark_that_is_not_escaped(value):
    escaped = text.markdown(value)
    rest = re.sub(r"\\[\\`*_\[\]<>#|~@&$]", "", escaped)
    assert not set(rest) & set("\\`*_[]<>#|~@&$")
    assert re.sub(r"\\(.)", r"\1", escaped) == text.one_line(value)


@given(anything)
def test_latex_has_no_command_but_those_of_characters(value):
    escaped = text.latex(value)
    assert "--" not in escaped
    known = r"\\text(backslash|asciitilde|asciicircum|less|greater|bar|asciigrave)\{\}|\\[#$%&_{}]"
    rest = re.sub(rf"{known}|\{{[\[\]*]\}}|-\{{\}}(?=-)", "", escaped)
    assert not set(rest) & set("\\{}[]*#$%&_~^<>|`")
    # after the end of a row these would be its arguments
    assert escaped[:1] not in ("[", "*")


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("50% of a_b & c", r"50\% of a\_b \& c"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("[a]*", "{[}a{]}{*}"),
        ("--attack", "-{}-attack"),
        ("a---b", "a-{}-{}-b"),
    ],
)
def test_latex(value, escaped):
    assert text.latex(value) == escaped


@given(anything)
def test_a_cell_of_csv_is_no_formula(value):
    cell = text.csv(value)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    written = pd.DataFrame({"a": [cell], "b": [1]}).to_csv(index=False)
    assert list(csv.reader(io.StringIO(written))) == [["a", "b"], [cell, "1"]]
