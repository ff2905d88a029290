"""What can go wrong, by kind. Every message is a sentence a person can act on; ``error.kind`` is for programs.

=====================  ====================================================================================
``invalid_argument``   :class:`InvalidArgument` (also a ``ValueError``): what was asked for makes no sense
``not_found``          :class:`NotFound` (also a ``FileNotFoundError``): no such file, token or layer
``io``                 :class:`IOFailed` (also an ``OSError``): the operating system said no
``not_ours``           :class:`NotARecording`: the file is something else
``too_new``            :class:`TooNew`: the file is from a newer version of attnscope
``damaged``            :class:`Damaged`: the content is not what was written
``unsupported``        :class:`Unsupported`: cannot be done with this model, build or machine
``engine``             :class:`EngineFailed`: llama.cpp refused or failed
``cancelled``          :class:`Cancelled`: a generation that was ended by the next one of its session
=====================  ====================================================================================
"""

from __future__ import annotations

import re


class Error(Exception):
    """Base of everything that attnscope raises."""

    kind: str = ""


class InvalidArgument(Error, ValueError):
    """What was asked for makes no sense; the sentence says what would."""

    kind = "invalid_argument"


class WrongType(InvalidArgument, TypeError):
    """Something of another type was needed."""


class OutOfRange(Error, IndexError):
    """An index beyond a recording's tokens, layers, heads or columns, or one that is none."""

    kind = "invalid_argument"


class NotFound(Error, FileNotFoundError):
    """There is no such file, token, layer or text, or a token was recorded without its queries."""

    kind = "not_found"


class IOFailed(Error, OSError):
    """The operating system, or a server, said no."""

    kind = "io"


class NotARecording(Error):
    """The file is something else than a recording (or a model)."""

    kind = "not_ours"


class NoSuchKey(Error, KeyError):
    """A mapping has no such key; the sentence says what it has."""

    kind = "not_found"
    __str__ = Exception.__str__  # a KeyError's own shows its argument in quotes


class TooNew(Error):
    """The file was written by a newer version of attnscope, which can read it."""

    kind = "too_new"


class Damaged(Error):
    """The content is not what was written: changed, cut off, or replaced while it was open."""

    kind = "damaged"


class Unsupported(Error):
    """This cannot be done with this model, build or machine."""

    kind = "unsupported"


class EngineFailed(Error):
    """llama.cpp refused a model or failed while it computed."""

    kind = "engine"


class Cancelled(Error):
    """A generation ended before its end: its session was asked for the next one, or closed, or nobody reads its frames any more."""

    kind = "cancelled"


class MissingPackage(Error, ImportError):
    """A function that hands data to another package was called, and that package is not installed."""

    kind = "unsupported"


_BY_KIND = {
    c.kind: c for c in (InvalidArgument, NotFound, IOFailed, NotARecording, TooNew, Damaged, Unsupported, EngineFailed, Cancelled)
}


# The library speaks to people at the command line; here its options are arguments.
_WORDS = (
    (re.compile(r"--axes ([a-z.]+(?:,[a-z.]+)+)"), r'axes="\1"'),
    (re.compile(r"--array '([^']+)'"), r'array="\1"'),
    (re.compile(r"--array ([^\s),]+)"), r'array="\1"'),
    (re.compile(r"--(axes|array|shape)\b"), r"\1="),
    (re.compile(r"attnscope capture -n 0\b"), "at.capture(..., n_predict=0)"),
    (re.compile(r"\(-n 0\)"), "(n_predict=0)"),
    (re.compile(r"a larger -c\b"), "a larger n_ctx"),
)


def in_python(message: str) -> str:
    """A sentence of the library's, with Python's names for what the command calls otherwise."""
    for command, python in _WORDS:
        message = command.sub(python, message)
    return message


def from_kind(kind: str, message: str) -> Error:
    """The exception for one of the library's errors."""
    return _BY_KIND.get(kind, Error)(in_python(message))


def require(package: str, why: str, install: str | None = None):
    """Imports an optional package, or says how to get it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise MissingPackage(f"{why} needs the package {package}: pip install {install or package}") from e
