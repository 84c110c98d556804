"""Cards as text: TOML of 80 columns that says what each key means, and is a card itself."""

import json
import math
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from oat_bench.cards import Card, keys

_WIDTH = 80
_HEAD = """\
# The {kind} card {name}.
# A line such as #key = 1 shows a default; numbers may be fractions: "8/255".
"""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_KINDS = {"integer": "whole number", "boolean": "true or false", "string": "text"}


def as_toml(card: Card) -> str:
    """Write a card with what each key means; `oat_bench.cards.read` reads the same card."""
    values = card.stated()
    head = _HEAD.format(kind=card.kind, name=values["name"])
    text = "\n".join([head, *_table(type(card), values, "")]).rstrip("\n") + "\n"
    return text.encode(errors="replace").decode()  # a path need not be UTF-8


def number(value: float) -> str:
    """Write a number of a card: 8/255 as such, where its digits would be many."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    levels = f"{value * 255:.6g}"
    return f"{levels}/255" if len(repr(value)) > 8 and float(levels) / 255 == value else repr(value)


def literal(value: object, *, typed: bool = True) -> str:
    """Write a value of TOML; numbers that are ``typed`` are read as `cards.Fraction`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = number(value) if typed and math.isfinite(value) else repr(value)
        return f'"{text}"' if "/" in text else text
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(item, typed=typed) for item in value)}]"
    if isinstance(value, dict):
        items = (f"{_key(key)} = {literal(item, typed=typed)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return str(value) if isinstance(value, int) else value.isoformat()  # type: ignore[attr-defined]


def _table(model: type[BaseModel], values: dict[str, Any], path: str) -> Iterator[str]:
    """Write the keys of a table of a card, then its own tables."""
    tables: list[tuple[str, str, type[BaseModel] | None, Any]] = []
    schema, hints = keys(model), get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in schema:
            continue
        value, said, inner = values.get(key), field.description or "", _model(field.annotation)
        if inner or (isinstance(value, dict) and value):
            tables.append((key, said, inner, value))
            continue
        default = field.get_default(call_default_factory=True)
        kind = ", ".join([_kind(schema[key]), *_limits(hints[name])])
        if value is not None and default not in (None, "") and not field.is_required():
            kind += f"; default {literal(default)}"
        yield from _comment(f"{said} ({kind})")
        if value is not None:
            yield from _assignment(key, value)
        else:
            yield f"#{key} =" if default is None else f"#{key} = {literal(default)}"
    for key, said, inner, value in tables:
        yield ""
        yield from _comment(said)
        if inner is None:
            yield f"[{path}{key}]"
            for own, item in value.items():
                yield from _assignment(_key(own), item, typed=False)
        elif issubclass(inner, Card):
            yield from (f"[{path}{key}]", *_table(inner, value or {}, f"{path}{key}."))
        else:  # several; an empty list is a default
            for item in value or ():
                yield from (f"[[{path}{key}]]", *_table(inner, item, f"{path}{key}."), "")
            if not value:
                yield f"#[[{path}{key}]]"


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return what a table, or each of several, is read as."""
    kinds = [annotation, *get_args(annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _kind(schema: dict[str, Any]) -> str:
    """Say in words which values a key takes."""
    for one in schema.get("anyOf", ()):
        if one.get("type") != "null":
            return _kind(one)
    *others, last = map(literal, schema.get("enum", [""]))
    if others:
        return f"{', '.join(others)} or {last}"
    kind = schema.get("type", "table")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}s"
    return str(_KINDS.get(kind, "table" if kind == "object" else kind))


def _limits(hint: Any) -> list[str]:
    """Say between what a key's number, or each of its list, lies."""
    infos = getattr(hint, "__metadata__", ())
    rules = [rule for info in infos for rule in getattr(info, "metadata", [info])]
    found = [
        f"{word} {getattr(rule, name):g}"
        for rule in rules
        for name, word in _BOUNDS.items()
        if hasattr(rule, name)
    ]
    return found + [limit for inner in get_args(hint) for limit in _limits(inner)]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(f"# {text}", _WIDTH, subsequent_indent="# ", break_on_hyphens=False)


def _assignment(key: str, value: object, *, typed: bool = True) -> Iterator[str]:
    line = f"{key} = {literal(value, typed=typed)}"
    if len(line) <= _WIDTH or not isinstance(value, str | list):
        yield line
        return
    if isinstance(value, list):
        items = (f"    {literal(item, typed=typed)}," for item in value)
        yield from (f"{key} = [", *items, "]")
        return
    # a line that ends in a backslash goes on where the next begins; an escape is not cut in two
    text = literal(value)[1:-1]
    text = "\\u0020" + text[1:] if text.startswith(" ") else text
    yield f'{key} = """\\'
    row = ""
    for token in re.findall(r"(?:\\u.{4}|\\.|[^\\ ]){1,60} *", text):
        if row and len(row + token) >= _WIDTH:
            yield f"{row}\\"
            row = ""
        row += token
    yield from (f"{row}\\", '"""')


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else literal(key)
