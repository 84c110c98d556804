"""What the values of options may be, and what is said of others."""

import math
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import click

from oat_bench.registry import dataset_meant

T = TypeVar("T")


class Parsed(click.ParamType[T], Generic[T]):
    """A value that a function reads; its ValueError says what was expected."""

    def __init__(self, read: Callable[[str], T], name: str = "LIST") -> None:
        self.read, self.name = read, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Read what was written."""
        try:
            return self.read(str(value).strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Number(click.FloatRange):
    """A number in a range; NaN, which no range shuts out, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _number(text: str, otherwise: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(otherwise) from None


def _within(text: str, what: str, interval: str, such_as: str) -> set[float]:
    """Read a list of numbers in [0, 1] or (0, 1]."""
    numbers = set()
    for part in _parts(text):
        number = _number(part, f"{part!r} is not a number; expected such as {such_as}")
        if not 0 <= number <= 1 or (number == 0 and interval[0] == "("):
            raise ValueError(f"{what} {part} is outside {interval}")
        numbers.add(number)
    return numbers


def _weights(text: str) -> dict[float, float]:
    weights: dict[float, float] = {}
    for part in _parts(text):
        lam, _, weight = part.partition("=")
        form = f"{part!r}; expected such as 0,0.4,1 or 0=1,0.4=2,1=1"
        number, share = _number(lam, form), _number(weight or "1", form)
        if not 0 <= number <= 1:
            raise ValueError(f"lambda {lam.strip()} is outside [0, 1]")
        if not 0 < share < math.inf or number in weights:
            raise ValueError(f"{part!r}; expected each lambda once, with a weight above 0")
        weights[number] = share
    return weights


def _severities(text: str) -> list[int]:
    for part in _parts(text):
        if part not in ("1", "2", "3", "4", "5"):
            raise ValueError(f"{part!r} is no severity; expected some of 1,2,3,4,5")
    return sorted(set(map(int, _parts(text))))


def _counts(text: str) -> dict[str, int]:
    counts = {}
    for part in _parts(text):
        attack, given, number = part.rpartition("=")
        if not number.strip().isdecimal() or int(number) < 1 or (given and not attack.strip()):
            raise ValueError(f"{part!r}; expected such as 1000 or 1000,autoattack=200")
        counts[attack.strip() or "all"] = int(number)
    return counts


def _share(text: str, *, ends: bool = False) -> float:
    share = number = _number(
        text.removesuffix("%"), f"{text!r} is not a number; expected such as 0.95 or 95%"
    )
    if text.endswith("%"):
        share = number / 100
    elif 1 < number <= 100:
        raise ValueError(
            f"{text!r} may be a share or percent; write {number / 100:g} or {number:g}%"
        )
    if not (0 <= share <= 1 if ends else 0 < share < 1):
        expected = "from 0 to 1" if ends else "between 0 and 1, such as 0.95 or 95%"
        raise ValueError(f"{text} is out of range; expected a share {expected}")
    return share


def _eps(text: str) -> float:
    form = f"{text!r}; expected a number or a fraction, such as 0.03 or 8/255"
    above, _, below = text.partition("/")
    number, divisor = _number(above, form), _number(below or "1", form)
    if not (0 <= number < math.inf and 0 < divisor < math.inf):
        raise ValueError(form)
    return number / divisor


def _setting(text: str) -> tuple[str, str]:
    key, given, value = text.partition("=")
    if not given or not key.strip():
        raise ValueError(f"{text!r}; expected KEY=VALUE, such as training.lr=0.05")
    return key.strip(), value.strip()


def _shard(text: str) -> tuple[int, int]:
    number, _, count = (part.strip() for part in text.partition("/"))
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"{text!r}; expected such as 2/5, of 1/5 to 5/5")
    return int(number), int(count)


def _amount(text: str) -> float:
    expected = f"{text!r}; expected a number above 0, such as 1e6 or 1.5M"
    found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([kKMGT]?)", text)
    number = _number(found[1] if found else "", expected)
    if not found or not 0 < number < math.inf:
        raise ValueError(expected)
    return number * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]]


#: what lies between commas
NAMES = Parsed(_parts)
#: numbers in [0, 1], sorted
LAMBDAS = Parsed(lambda text: sorted(_within(text, "lambda", "[0, 1]", "0,0.1,0.4,1")))
#: numbers in (0, 1], the largest first
WIDTHS = Parsed(lambda text: sorted(_within(text, "width", "(0, 1]", "1,0.75,0.5"))[::-1])
#: numbers in [0, 1], each with a weight: ``number`` or ``number=weight``
WEIGHTS = Parsed(_weights)
#: whole numbers from 1 to 5, sorted
SEVERITIES = Parsed(_severities)
#: a number, whose key is "all", then ``attack=number`` for some attacks
COUNTS = Parsed(_counts)
#: a number or a fraction of two
EPS = Parsed(_eps, "EPS")
DATASET = Parsed(dataset_meant, "NAME|FOLDER")
#: a key of a card, and the text of its value
SETTING = Parsed(_setting, "KEY=VALUE")
#: a share between 0 and 1, as a fraction or in percent
SHARE = Parsed(_share, "SHARE")
#: the same, or all or nothing
SHARE_OR_ALL = Parsed(lambda text: _share(text, ends=True), "SHARE")
#: which of how many shares of the work, from 1
SHARD = Parsed(_shard, "I/N")
#: a number above 0, with k, M or G for thousands, millions and billions
AMOUNT = Parsed(_amount, "AMOUNT")
