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
``cancelled``          :class:`Cancelled`: a generation whose frames nobody reads any more
=====================  ====================================================================================
"""

from __future__ import annotations


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
    """A generation ended because nobody reads its frames any more."""

    kind = "cancelled"


class MissingPackage(Error, ImportError):
    """A function that hands data to another package was called, and that package is not installed."""

    kind = "unsupported"


_BY_KIND = {
    c.kind: c for c in (InvalidArgument, NotFound, IOFailed, NotARecording, TooNew, Damaged, Unsupported, EngineFailed, Cancelled)
}


def from_kind(kind: str, message: str) -> Error:
    """The exception for one of the library's errors."""
    return _BY_KIND.get(kind, Error)(message)


def require(package: str, why: str, install: str | None = None):
    """Imports an optional package, or says how to get it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise MissingPackage(f"{why} needs the package {package}: pip install {install or package}") from e
