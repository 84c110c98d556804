"""Data out of a pickle that is never unpickled: its opcodes are read, and none can call anything.

What a batch of CIFAR-10 is made of is read: numbers, strings, lists, tuples, dictionaries, and
NumPy's arrays as what was written of them. Time and memory are linear in the file.
"""

import pickletools
from typing import Any

import numpy as np

#: opcodes whose argument is a value
_VALUES = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8""".split()  # noqa: SIM905
)
#: strings of Python 2, which are bytes
_STRINGS = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING"])
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SILENT = frozenset(["PROTO", "FRAME"])
_PUT = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_GET = frozenset(["GET", "BINGET", "LONG_BINGET"])
#: what a pickled array names
_NAMES = frozenset(
    {
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
)


class _Name(str):
    """A name that a pickle asks for; nothing is looked up."""


class Made:
    """What a pickle says of an object of NumPy's: what would make it, and its state."""

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def pixels(self) -> np.ndarray:
        """Read an array of bytes.

        Returns:
            uint8 of the shape that the pickle gives.

        Raises:
            ValueError: if it is something else.
        """
        # of an array: version, shape, type, whether in Fortran's order, content
        _, shape, kind, fortran, content = self.state
        if fortran:
            raise ValueError("an array in Fortran's order")
        if kind.arguments[0] not in (b"u1", "u1") or not isinstance(content, bytes):
            raise ValueError("an array that is not of bytes")
        return np.frombuffer(content, np.uint8).reshape(shape)


def read(content: bytes) -> Any:
    """Read a pickle.

    Args:
        content: of protocol 0 to 4.

    Returns:
        The value; strings that Python 2 wrote are bytes, arrays are `Made`.

    Raises:
        ValueError: if it is damaged, or asks for more than data.
        IndexError, KeyError, TypeError: if it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _STRINGS:
                stack.append(argument.encode("latin-1"))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _PUT:
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case name if name in _GET:
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append(since_mark())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "DICT":
                items = since_mark()
                stack.append(_update({}, items))
            case name if name in _TUPLES:
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                _checked(stack[-1], list).append(item)
            case "APPENDS":
                items = since_mark()
                _checked(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], items)
            case "GLOBAL" | "INST":
                stack.append(_admitted(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_admitted(f"{_checked(module, str)} {_checked(name, str)}"))
            case "REDUCE":
                arguments = stack.pop()
                _checked(stack.pop(), _Name)
                stack.append(Made(_checked(arguments, tuple)))
            case "BUILD":
                state = stack.pop()
                _checked(stack[-1], Made).state = state
            case "STOP":
                break
            case name if name not in _SILENT:
                raise ValueError(f"it holds opcode {name}, which no batch needs")
    return stack.pop()


def _update(target: Any, items: list[Any]) -> Any:
    """Put keys and values in turn into a dictionary."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Python hashes what is nested without end in C, and dies of it
        if not isinstance(key, str | bytes):
            raise ValueError("a key that is no string")
        _checked(target, dict)[key] = value
    return _checked(target, dict)


def _admitted(name: str) -> _Name:
    if name not in _NAMES:
        raise ValueError(f"it asks for {name.replace(' ', '.')}, which no batch needs")
    return _Name(name)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value
