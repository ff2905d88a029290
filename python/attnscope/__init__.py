"""See what a GGUF model attends to: exact attention weights, from recordings, running models and servers.

>>> import attnscope as at
>>> run = at.capture("model.gguf", "Why is the sky blue?", n_predict=64)   # or at.open("run.attn")
>>> run[41, 3, 5]              # one row: what token 41 looked at, layer 3, head 5; (columns,) float32
>>> run.pattern(layer=3)       # (heads, query, key) float32
>>> run.answer(reduce="top_k", token=41)
>>> run.verify()
>>> at.show(run)               # the viewer, in a notebook

Axes are named ``token, layer, head, column`` everywhere. A *column* is the index of a token that is looked at; a row is
the softmax over the columns that its token sees: weights without a unit that sum to 1 (or, where the model has learned
sinks, to 1 minus the sink's share). Nothing of a recording is computed before it is asked for.

What there is (``help(at.Run)``, ``help(at.capture)`` ... say more):

- ``open(path, *, sequence=0)`` -> :class:`Run`: a recording as an array; ``.pattern() .answer() .map() .prune() .find() .verify()
  .diagnose() .to_transformers() .to_transformer_lens() .to_bertviz() .to_circuitsvis() .to_xarray() .to_zarr() .save()``
- ``capture(model, prompt, *, path=None, chat=False, n_predict=128, temperature=0.8, seed=..., ...)`` -> :class:`Run`
- ``Session(model, *, n_ctx=4096, ...)``: ``.generate(prompt, *, n_predict=128, ...)`` yields a :class:`Frame` a token
- ``connect(url, *, api_key=None)`` -> :class:`Server`: ``.generate(prompt, *, attention=None, ...)`` yields a :class:`LiveToken`
- ``attach(folder)`` -> :class:`Attachment`: recordings of what another llama.cpp does in this process (llama-cpp-python)
- ``diagnose(capture, *, axes="", ...)`` -> :class:`Diagnosis`: what is wrong with anybody's capture
- ``show(run, *, view="text", token=..., layer=..., head=...)``: the viewer in a notebook
- ``find_model(name)``, ``set_threads(n)``, ``n_threads()``, ``simd()``

Everything that goes wrong is an :class:`Error` with a sentence and a ``kind`` (``help("attnscope.errors")``).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import types
from typing import TYPE_CHECKING

from .attach import Attachment, attach
from .errors import (
    Cancelled,
    Damaged,
    EngineFailed,
    Error,
    InvalidArgument,
    IOFailed,
    MissingPackage,
    NoSuchKey,
    NotARecording,
    NotFound,
    OutOfRange,
    TooNew,
    Unsupported,
    WrongType,
)

if TYPE_CHECKING:
    from ._core import Frame, LayerInfo, PositionScores, n_threads, simd
    from .answers import Answer, Answers, Pruning
    from .capture import capture
    from .connect import LiveToken, Server, ServerError, connect
    from .diagnosis import diagnose
    from .generation import Generation
    from .report import Diagnosis, Verification
    from .run import Run, open
    from .session import Session, find_model
    from .threads import set_threads
    from .widget import show

__version__ = "0.1.0"

# These need the engine's libraries, which a process that attaches to another llama.cpp must be able to do without: they are loaded
# when one of them is asked for.
_BY_MODULE = {
    "_core": ("Frame", "LayerInfo", "PositionScores", "n_threads", "simd"),
    "answers": ("Answer", "Answers", "Pruning"),
    "capture": ("capture",),
    "connect": ("LiveToken", "Server", "ServerError", "connect"),
    "diagnosis": ("diagnose",),
    "generation": ("Generation",),
    "report": ("Diagnosis", "Verification"),
    "run": ("Run", "open"),
    "session": ("Session", "find_model"),
    "threads": ("set_threads",),
    "widget": ("show",),
}
_LATER = {name: module for module, names in _BY_MODULE.items() for name in names}


def _refuse_second_engine() -> None:
    """Two llama.cpps whose libraries have the same names: the linker would give ours the other's functions."""
    if "attnscope._core" in sys.modules or not sys.platform.startswith("linux"):
        return
    ours = os.path.dirname(os.path.realpath(__file__))
    with io.open("/proc/self/maps", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if line.count("/") > 0}
    for path in paths:
        if os.path.basename(path).startswith(("libllama.so", "libggml")) and not path.startswith(ours + os.sep):
            raise Unsupported(
                f"another llama.cpp is loaded in this process ({path}), and two of them do not go together: use attnscope "
                "in another process (attnscope.attach() is what needs none of its own)"
            )


def __getattr__(name: str) -> object:
    if name not in _LATER and name not in _BY_MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _refuse_second_engine()
    if name not in _LATER:
        return importlib.import_module("." + name, __name__)
    found = getattr(importlib.import_module("." + _LATER[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """A module that is loaded does not hide the function of its name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in __all__ or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = [
    "open", "capture", "connect", "attach", "diagnose", "show", "find_model", "set_threads", "n_threads", "simd",
    "Run", "Session", "Attachment", "Generation", "Frame", "LayerInfo", "Answer", "Answers", "Pruning", "PositionScores", "Verification", "Diagnosis",
    "Server", "LiveToken",
    "Error", "InvalidArgument", "WrongType", "OutOfRange", "NotFound", "NoSuchKey", "IOFailed", "NotARecording", "TooNew", "Damaged",
    "Unsupported", "EngineFailed", "Cancelled", "MissingPackage", "ServerError",
]  # fmt: skip
