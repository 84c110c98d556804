"""What pydantic complains of, in one line."""

from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from oat_bench.errors import nearest, one_line


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Put pydantic's first complaint in one line: the key, what was wrong, what is allowed."""
    first = first_complaint(error)
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys(model, location[:-1])
        return f"unknown key {key!r}; {nearest(str(location[-1]), allowed)}{more}"
    if first["type"] == "missing":
        return f"key {key!r} is missing{more}"
    message = one_line(first["msg"].removeprefix("Value error, "), limit=None)
    prefix = f"{key}: " if key else ""
    # values that do not go together are too many to repeat
    whole = first["type"] == "value_error" and isinstance(first["input"], dict)
    got = f", got {shown(first['input'])}" if key and not whole else ""
    return f"{prefix}{message[0].lower() + message[1:]}{got}{more}"


def first_complaint(error: ValidationError) -> ErrorDetails:
    """Return the complaint that helps most: a misspelt key is also a missing one."""
    return min(error.errors(), key=lambda complaint: complaint["type"] == "missing")


def shown(value: object) -> str:
    """Write a value as an error shows it."""
    try:
        return repr(str(value)[:80])
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return "a number too long"


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    also = [] if location else ["extends"]
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:  # and not a place in a list or a key of a table
            annotation = fields[str(part)].annotation
            kinds = [annotation, *get_args(annotation)]
            inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
            model = inner[0] if inner else model
    return also + [field.alias or name for name, field in model.model_fields.items()]
