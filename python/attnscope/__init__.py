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
"""

from __future__ import annotations

from ._core import Frame, LayerInfo, PositionScores, n_threads, simd
from .answers import Answer, Answers, Pruning
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
    NotARecording,
    NotFound,
    OutOfRange,
    TooNew,
    Unsupported,
    WrongType,
)
from .live import Generation, Session, capture, find_model
from .report import Diagnosis, Verification
from .run import Run, open
from .threads import set_threads
from .widget import show

__version__ = "0.1.0"
