"""NumPy's indexing for an array that is computed only where it is looked at.

The array is (token, layer, head, column). What an index selects of the first three axes decides what is computed; then
NumPy itself applies the rest of the index to that block, so that every combination of numbers, slices, lists, arrays of
booleans, ``...`` and ``None`` means what it means there.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from .arguments import cut, whole
from .errors import InvalidArgument, OutOfRange, WrongType

AXES = ("token", "layer", "head", "column")


class Selection(NamedTuple):
    """What to compute, and the index that takes the answer out of it."""

    tokens: list[int]
    layers: list[int]
    heads: list[int]
    index: tuple
    columns: int | None = None  # how many a mask over several axes takes for granted


def _count(part: Any) -> int:
    """How many axes a part of an index consumes."""
    if part is None:
        return 0
    if isinstance(part, np.ndarray) and part.dtype == bool:
        return part.ndim
    return 1


def _as_array(part: Any) -> Any:
    """Lists become arrays; numbers, slices, None and ... stay."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, (bool, np.bool_)):
        return np.asarray(part)
    if hasattr(part, "__index__") and not isinstance(part, np.ndarray):
        return part.__index__()
    array = as_array(part, "an index")
    if array.size == 0 and not isinstance(part, np.ndarray):
        array = array.astype(np.intp)
    if array.dtype.kind in "biu":  # np.timedelta64 calls itself an integer, too
        return array
    if array.dtype == object and all(isinstance(n, int) for n in array.flat):
        raise OutOfRange("the numbers of an index must be below 2^63")
    raise OutOfRange("only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are valid indices")


def _out_of_range(value: int, axis: int, size: int) -> OutOfRange:
    return OutOfRange(f"there is no {AXES[axis]} {value}; the recording has {size}")


def _place(part: Any, axis: int, size: int) -> tuple[list[int], Any]:
    """Values of one axis that are needed, ascending and each once, and the index into them."""
    if isinstance(part, int):
        if not -size <= part < size:
            raise _out_of_range(part, axis, size)
        return [part % size], 0
    if isinstance(part, slice):
        values = cut(part, size, AXES[axis])
        if values.step < 0 and len(values) > 1:
            return list(reversed(values)), slice(None, None, -1)
        return list(values), slice(None)
    values = np.asarray(part)
    if values.size and (values.min() < -size or values.max() >= size):
        wrong = values[(values < -size) | (values >= size)].flat[0]
        raise _out_of_range(int(wrong), axis, size)
    values = np.where(values < 0, values + size, values)
    needed, places = np.unique(values, return_inverse=True)
    return needed.tolist(), places.reshape(values.shape)


def select(index: Any, n_tokens: int, n_layers: int, n_heads: int) -> Selection:
    """What ``run[index]`` needs. Raises OutOfRange (an IndexError) as NumPy raises IndexError."""
    parts = [_as_array(p) for p in (index if isinstance(index, tuple) else (index,))]
    if sum(p is Ellipsis for p in parts) > 1:
        raise OutOfRange("an index can only have a single ellipsis ('...')")
    n_axes = sum(_count(p) for p in parts if p is not Ellipsis)
    if n_axes > 4:
        raise OutOfRange(f"too many indices: the axes are {', '.join(AXES)}, but {n_axes} were indexed")
    if not any(p is Ellipsis for p in parts):
        parts.append(Ellipsis)
    sizes = (n_tokens, n_layers, n_heads)
    needed: list[list[int]] = []
    out: list[Any] = []
    columns = None
    axis = 0
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype == bool and part.ndim > 1 and axis + part.ndim == 4:
            columns = part.shape[-1]
        if part is Ellipsis:
            fill: list[Any] = [slice(None)] * (4 - n_axes)
        elif isinstance(part, np.ndarray) and part.dtype == bool and part.ndim != 1:
            fill = [part] if part.ndim == 0 else _nonzero(part, axis, sizes)
        else:
            fill = [part]
        for piece in fill:
            if piece is None or (isinstance(piece, np.ndarray) and piece.dtype == bool and piece.ndim == 0):
                out.append(piece)
                continue
            if axis < 3:
                if isinstance(piece, np.ndarray) and piece.dtype == bool:
                    (piece,) = _nonzero(piece, axis, sizes)
                values, place = _place(piece, axis, sizes[axis])
                needed.append(values)
                out.append(place)
            else:
                out.append(piece)
            axis += 1
    return Selection(needed[0], needed[1], needed[2], tuple(out), columns)


def _nonzero(mask: np.ndarray, axis: int, sizes: tuple[int, ...]) -> list[Any]:
    """A mask over one or more axes as one array of numbers for each of them, which is what NumPy makes of it."""
    for i, n in enumerate(mask.shape):
        if axis + i < 3 and n != sizes[axis + i]:
            raise OutOfRange(f"boolean index did not match the axis {AXES[axis + i]}: it has {sizes[axis + i]} entries, the mask {n}")
    return list(mask.nonzero())


def axis(part: Any) -> Any:
    """An index that keeps its axis: numbers become lists of one."""
    return [part] if isinstance(part, (int, np.integer)) else part


def number(value: Any, size: int, name: str) -> int:
    n = whole(value, name, -(2**200), 2**200)
    if not -size <= n < size:
        raise OutOfRange(f"there is no {name} {n}; the recording has {size}")
    return n % size


def numbers(part: Any, size: int, name: str) -> list[int]:
    """Numbers of one axis as a request lists them; empty: all."""
    if part is None:
        return []
    found = chosen(part, size, name)
    if not found:
        raise InvalidArgument(f"no {name}s are selected")
    return found


def chosen(part: Any, size: int, name: str) -> list[int]:
    """Numbers of one axis, from 0: None chooses all, a number itself, a slice, a list or booleans what they choose."""
    if part is None:
        return list(range(size))
    if isinstance(part, slice):
        return list(cut(part, size, name))
    if isinstance(part, (str, bytes)) or not hasattr(part, "__len__"):
        return [number(part, size, name)]
    array = as_array(part, name)
    if array.ndim == 0:
        return [number(array[()], size, name)]
    if array.ndim != 1:
        raise InvalidArgument(f"{name}s are chosen by a list, not by an array of shape {array.shape}")
    if array.dtype == bool:
        if array.shape != (size,):
            raise InvalidArgument(f"{len(array)} booleans cannot choose from {size} {name}s")
        return np.flatnonzero(array).tolist()
    return [number(n, size, name) for n in array.tolist()]


def as_array(part: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(part)
    except ValueError as e:  # lists of several lengths in a list
        raise InvalidArgument(f"{name}: {e}") from None


def checked(part: Any, size: int, name: str) -> Any:
    """An index of one axis, with our sentence where a number is out of range."""
    if isinstance(part, (int, np.integer)):
        return number(part, size, name)
    if isinstance(part, slice):
        cut(part, size, name)
        return part
    array = as_array(part, name)
    if array.size == 0:
        array = array.astype(np.intp)
    if array.dtype.kind not in "biu":
        raise WrongType(f"{name} is a number, a slice, a list or booleans, not {part!r}")
    if array.dtype == bool and array.shape != (size,):
        raise InvalidArgument(f"booleans of shape {array.shape} cannot choose from {size} {name}s")
    if array.dtype != bool and array.size and (array.min() < -size or array.max() >= size):
        raise InvalidArgument(f"there are {size} {name}s; {name}={part!r} is out of range")
    return array


def plain(part: Any) -> Any:
    """What says that it is a number (``__index__``) as an int; everything else as it is."""
    if part is None or isinstance(part, (bool, np.bool_, np.ndarray)):
        return part
    try:
        return operator.index(part)
    except TypeError:
        return part
