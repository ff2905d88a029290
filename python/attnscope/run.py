"""A recording as an array that is computed where it is looked at."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arguments import path as path_of, whole
from .errors import OutOfRange
from .exports import Exports
from .indexing import axis, checked, chosen, number, plain, select
from .questions import Questions

if TYPE_CHECKING:
    from ._core import LayerInfo


def open(path: str | os.PathLike[str], *, sequence: int = 0) -> Run:
    """Opens a recording, complete or still being written. Reads its header only.

    ``sequence``: which one, where the recording holds several (a server's requests): :attr:`Run.sequences` lists them.
    Raises NotFound, NotARecording, TooNew or Damaged, with a sentence that says what to do.
    """
    return Run(path, sequence=sequence)


class Run(Questions, Exports):
    """A recording: rows of attention by ``run[token, layer, head, column]``, and everything else it knows.

    Indexing follows NumPy: numbers, negative numbers, slices with steps, lists, boolean arrays, ``...`` and ``None``, in
    any combination. The dtype is float32, the unit none: weights of one row sum to 1 (or to 1 minus the share of a learned
    sink). The last axis is as wide as the selected token that sees most:

    - ``run[41]`` is (layers, heads, 42); ``run[41, 3, 5]`` is one row, (42,)
    - ``run[10:20]`` is (10, layers, heads, 20), 0 where a token does not see a column
    - ``run[:, 3]`` is (tokens, heads, tokens)

    Layers without attention (see :attr:`layers`), heads that a layer has not got, and layers in which a token has no rows (see
    :attr:`has_rows`) are rows of zeros. The numbers are bit for bit those of ``attnscope export``, which writes NaN where there is no
    row, as :meth:`to_xarray` does. A Run may be used by several threads at once, and goes to other processes by its path.
    """

    def __init__(self, path: str | os.PathLike[str], *, sequence: int = 0):
        self._core = _core.Recording(path_of(path), whole(sequence, "sequence", 0))

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self._core.path

    @property
    def sequence(self) -> int:
        """Which of the recording's sequences this is; 0 where there is one."""
        return self._core.sequence

    @property
    def sequences(self) -> list[dict[str, Any]]:
        """All sequences of the file, as it is now: ``id``, ``label`` (the captured program's name for it, or ''), ``n_tokens`` (with
        the shared ones), ``parent`` (the sequence whose first ``n_shared`` tokens it shares; -1: none), ``ended``, ``end_reason``."""
        return self._core.sequences

    @property
    def n_tokens(self) -> int:
        """Tokens in the sequence, prompt and generated."""
        return self._core.n_tokens

    @property
    def n_layers(self) -> int:
        """Layers of the model, with attention or without."""
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        """Query heads of the layer that has most."""
        return self._core.max_heads

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(token, layer, head, column), as if every row were computed."""
        return (self.n_tokens, self.n_layers, self.n_heads, int(self._table["columns"].max(initial=0)))

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    ndim = 4
    dims = ("token", "layer", "head", "column")

    @property
    def complete(self) -> bool:
        """Is the file whole? False while it is being written, and after its writer died. A capture that was interrupted closes its file
        as well: :attr:`end_reason` says so."""
        return self._core.complete

    @property
    def end_reason(self) -> str:
        """Why it ended where it did: "interrupted" (a control-C, a signal), or what else ended it; "" where it came to its own end."""
        return self._core.end_reason

    @functools.cached_property
    def _sizes(self) -> tuple[int, int, int]:
        """Of the axes token, layer and head."""
        return self.n_tokens, self.n_layers, self.n_heads

    @functools.cached_property
    def layers(self) -> list[LayerInfo]:
        """Each layer's geometry (``n_head, n_head_kv, head_dim, scale, ...``), or in ``absent`` why it has none."""
        return self._core.layers

    @property
    def model(self) -> dict[str, Any]:
        """What the recording says of the model: name, architecture, n_layer, ..., sha256 (of the file's first and last MiB and its
        size: not what ``sha256sum`` says of it)."""
        return self._core.model

    @property
    def info(self) -> dict[str, Any]:
        """Who recorded this, when, with which engine and settings; ``notice`` says what of the file cannot be seen."""
        c = self._core
        return {
            "created": c.created,
            "writer": c.writer,
            "engine": c.engine,
            "entry": c.entry,
            "format_version": c.format_version,
            "complete": c.complete,
            "end_reason": self.end_reason,
            "settings": json.loads(c.settings_json or "{}"),
            "notice": c.notice,
            "model": c.model,
        }

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        name = self.model["name"] or self.model["path"] or "unknown model"
        reason = self.end_reason
        state = ", incomplete" if not self.complete else f", {reason}" if reason else ""
        return f"<Run of {name}: {self.n_tokens} tokens, {self.n_layers} layers, {self.n_heads} heads{state}; {self.path}>"

    # ---- its tokens -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _table(self) -> dict[str, np.ndarray]:
        return self._core.tokens(0, self.n_tokens)

    @property
    def tokens(self) -> np.ndarray:
        """(token,) int32: vocabulary ids; -1 where unknown."""
        return self._table["token"]

    @property
    def positions(self) -> np.ndarray:
        """(token,) int32: places in the sequence, as the engine numbered them."""
        return self._table["position"]

    @property
    def columns(self) -> np.ndarray:
        """(token,) int64: how many columns the rows of each token have."""
        return self._table["columns"]

    @property
    def has_rows(self) -> np.ndarray:
        """(token, layer) bool: does the token take part in the layer? False in a layer that was not captured, and in one of the encoder's
        for a token of its decoder, or the other way round (``layers[i].role``)."""
        return self._table["has_rows"].view(bool).reshape(len(self.tokens), self.n_layers)

    @property
    def generated(self) -> np.ndarray:
        """(token,) bool: was it generated (or read, as part of the prompt)?"""
        return self._table["generated"].view(bool)

    @property
    def kind(self) -> np.ndarray:
        """(token,) str: 'prompt' or 'generated'."""
        return np.where(self.generated, "generated", "prompt")

    @property
    def verdicts(self) -> np.ndarray:
        """(token,) uint32: what the capture found wrong with each token, as bits (VerdictBits in types.h); 0: proven."""
        return self._table["verdict"]

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        ids, places = np.unique(self.tokens, return_inverse=True)
        texts = self._core.token_text(ids.tolist())
        return [texts[i] for i in places]

    @functools.cached_property
    def texts(self) -> list[str]:
        """The text of each token. A piece that ends in the middle of a character shows U+FFFD; :attr:`text` is whole."""
        return [p.decode("utf-8", "replace") for p in self._pieces]

    @property
    def text(self) -> str:
        """The text of all tokens together."""
        return b"".join(self._pieces).decode("utf-8", "replace")

    @property
    def n_prompt(self) -> int:
        """Tokens before the first generated one."""
        generated = np.flatnonzero(self.generated)
        return int(generated[0]) if len(generated) else self.n_tokens

    # ---- its rows ---------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> np.ndarray:
        sizes = self._sizes
        # The most usual questions without the general answer to all of them.
        if type(index) is int:
            if -sizes[0] <= index < sizes[0]:
                return self._core.token_rows(index % sizes[0], -1, -1)
        elif type(index) is tuple and len(index) == 3 and all(type(i) is int and -n <= i < n for i, n in zip(index, sizes)):
            return self._core.token_rows(*(i % n for i, n in zip(index, sizes)))
        s = select(index, *sizes)
        block = self._core.rows(s.tokens, s.layers, s.heads)
        if s.columns is not None and s.columns != block.shape[3]:
            raise OutOfRange(f"boolean index did not match the axis column: it has {block.shape[3]} entries, the mask {s.columns}")
        try:
            return block[s.index]
        except IndexError as e:  # of a column, or arrays that cannot be broadcast together
            raise OutOfRange(str(e)) from None

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(self.n_tokens):
            yield self[i]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a recording holds no rows: they are computed, so there is no array without a copy")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def pattern(self, layer: int, *, token: Any = None, head: Any = None) -> np.ndarray:
        """The attention pattern of one layer: (heads, query, key) float32, 0 where a token does not see a key: above the diagonal, where
        the model looks back only.

        ``token`` and ``head`` narrow the queries and the heads: a number, a slice, a list or booleans. A number keeps its
        axis away: ``pattern(3, head=5)`` is (query, key). Computed from each query and the layer's keys, which are read
        once; a view of (query, heads, key) memory.
        """
        token, head = plain(token), plain(head)
        tokens = slice(None) if token is None else token
        rows = self[axis(tokens), number(layer, self.n_layers, "layer")]  # (query, heads, key)
        pattern = rows.transpose(1, 0, 2)
        if head is not None:
            pattern = pattern[checked(head, pattern.shape[0], "head")]
        if isinstance(token, (int, np.integer)):
            pattern = pattern[..., 0, :]
        return pattern

    def queries(self, layer: int, tokens: Any = None) -> np.ndarray:
        """(token, head, head_dim) float32: Q as the engine multiplied it, after its position was rotated in."""
        return self._core.queries(number(layer, self.n_layers, "layer"), chosen(tokens, self.n_tokens, "token"))

    def keys(self, layer: int) -> np.ndarray:
        """(column, KV head, head_dim) float32: K as it lies in the engine's cache; quantised types dequantised."""
        return self._core.keys(number(layer, self.n_layers, "layer"))

    # ---- its life ---------------------------------------------------------------------------------------------------

    def refresh(self) -> Run:
        """Looks again at a recording that is still being written."""
        self._core.refresh()
        for name in ("_table", "_pieces", "_sizes", "texts", "layers"):
            self.__dict__.pop(name, None)
        return self

    def close(self) -> None:
        """Lets the file go. Optional: it is read only, and closed with the last reference."""
        self._core.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return (_again, (self._core.file, self.sequence))


def _again(path: str, sequence: int) -> Run:
    """What a pickle calls."""
    return Run(path, sequence=sequence)
