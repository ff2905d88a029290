"""What was handed over, as what it has to be; otherwise an exception that names it."""

from __future__ import annotations

import difflib
import operator
import os
import reprlib
from typing import Any

from .errors import InvalidArgument, OutOfRange, WrongType

_LARGEST = 2**63 - 1


def whole(value: Any, name: str, low: int = -_LARGEST, high: int = _LARGEST) -> int:
    """A whole number: an int, or what NumPy has for one."""
    try:
        n = operator.index(value)
    except TypeError:
        raise WrongType(f"{name} must be a whole number, not {reprlib.repr(value)}") from None
    if not low <= n <= high:
        raise InvalidArgument(f"{name} must be from {low} to {high}, not {n}")
    return n


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise WrongType(f"{name} must be a text, not {reprlib.repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise InvalidArgument(f"{name} holds half a character (a lone surrogate) at {e.start}") from None
    return value


def path(value: Any, name: str = "a path") -> str:
    try:
        decoded = os.fsdecode(value)
        decoded.encode()
    except TypeError:
        raise WrongType(f"{name} must be a text or a pathlib.Path, not {reprlib.repr(value)}") from None
    except UnicodeEncodeError:
        raise InvalidArgument(f"{name} must be UTF-8, which {reprlib.repr(value)} is not: rename the file") from None
    return decoded


def items(value: Any, name: str) -> list:
    if isinstance(value, (str, bytes)):
        raise WrongType(f"{name} must be a list, not {reprlib.repr(value)}")
    try:
        return list(value)
    except TypeError:
        raise WrongType(f"{name} must be a list, not {reprlib.repr(value)}") from None


def pairs(value: Any, name: str) -> list[tuple[int, int]]:
    """[(begin, end), ...]"""
    found = []
    for pair in items(value, name):
        both = items(pair, f"each of {name}")
        if len(both) != 2:
            raise InvalidArgument(f"each of {name} is (begin, end), not {reprlib.repr(pair)}")
        found.append((whole(both[0], f"a begin in {name}"), whole(both[1], f"an end in {name}")))
    return found


def span(value: Any, size: int, name: str) -> range:
    """A slice without a step, of an axis, or a range of it."""
    if value is None:
        return range(size)
    if isinstance(value, range):
        if value.step != 1:
            raise InvalidArgument(f"{name} must be in order: a range without a step")
        if len(value) and not 0 <= value.start < value.stop <= size:
            raise OutOfRange(f"{name}: {value!r} is not within the {size} there are")
        return range(value.start, value.stop) if len(value) else range(0)
    if not isinstance(value, slice):
        raise WrongType(f"{name} must be a slice or a range, as slice(10, 20), not {reprlib.repr(value)}")
    chosen = cut(value, size, name)
    if chosen.step != 1:
        raise InvalidArgument(f"{name} must be in order: a slice without a step")
    return chosen


def cut(value: slice, size: int, name: str) -> range:
    try:
        return range(size)[value]
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"{name}: {value!r} is no slice of {size}: {e}") from None


def function(value: Any, name: str) -> Any:
    if value is not None and not callable(value):
        raise WrongType(f"{name} must be a function, not {reprlib.repr(value)}")
    return value


def meant(name: str, known: Any, others: Any = ()) -> str:
    """The rest of a sentence that says that there is no ``name``: which of ``known`` may have been meant, else all of them."""
    near = difflib.get_close_matches(name, known, 1, 0.75)
    if name in others:
        near = [others[name]]
    return f". Did you mean {near[0]}?" if near else f": there are {', '.join(sorted(known))}"
