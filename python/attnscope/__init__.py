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
- ``diagnose(capture, *, axes="", ...)`` -> :class:`Diagnosis`: what is wrong with anybody's capture
- ``show(run, *, view="text", token=..., layer=..., head=...)``: the viewer in a notebook
- ``find_model(name)``, ``set_threads(n)``, ``n_threads()``, ``simd()``

Everything that goes wrong is an :class:`Error` with a sentence and a ``kind`` (``help("attnscope.errors")``).
"""

from __future__ import annotations

from ._core import Frame, LayerInfo, PositionScores, n_threads, simd
from .answers import Answer, Answers, Pruning
from .capture import capture
from .connect import LiveToken, Server, ServerError, connect
from .diagnosis import diagnose
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
from .generation import Generation
from .report import Diagnosis, Verification
from .run import Run, open
from .session import Session, find_model
from .threads import set_threads
from .widget import show

__version__ = "0.1.0"

__all__ = [
    "open", "capture", "connect", "diagnose", "show", "find_model", "set_threads", "n_threads", "simd",
    "Run", "Session", "Generation", "Frame", "LayerInfo", "Answer", "Answers", "Pruning", "PositionScores", "Verification", "Diagnosis",
    "Server", "LiveToken",
    "Error", "InvalidArgument", "WrongType", "OutOfRange", "NotFound", "NoSuchKey", "IOFailed", "NotARecording", "TooNew", "Damaged",
    "Unsupported", "EngineFailed", "Cancelled", "MissingPackage", "ServerError",
]  # fmt: skip
