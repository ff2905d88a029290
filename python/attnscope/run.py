"""A recording as an array that is computed where it is looked at."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, interchange
from .answers import Answer, Answers, Pruning
from .errors import InvalidArgument, NotFound, OutOfRange
from .indexing import select
from .report import Diagnosis, Verification

if TYPE_CHECKING:
    from ._core import LayerInfo


def open(path: str | os.PathLike[str]) -> Run:
    """Opens a recording, complete or still being written. Reads its header only.

    Raises NotFound, NotARecording, TooNew or Damaged, with a sentence that says what to do.
    """
    return Run(path)


class Run:
    """A recording: rows of attention by ``run[token, layer, head, column]``, and everything else it knows.

    Indexing follows NumPy: numbers, negative numbers, slices with steps, lists, boolean arrays, ``...`` and ``None``, in
    any combination. The dtype is float32, the unit none: weights of one row sum to 1 (or to 1 minus the share of a learned
    sink). The last axis is as wide as the selected token that sees most:

    - ``run[41]`` is (layers, heads, 42); ``run[41, 3, 5]`` is one row, (42,)
    - ``run[10:20]`` is (10, layers, heads, 20), 0 where a token does not see a column
    - ``run[:, 3]`` is (tokens, heads, tokens)

    Layers without attention (see :attr:`layers`) and heads that a layer has not got are rows of zeros. The numbers are
    bit for bit those of ``attnscope export``. A Run may be used by several threads at once, and goes to other processes
    by its path.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._core = _core.Recording(os.fspath(path))

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return self._core.path

    @property
    def n_tokens(self) -> int:
        """Tokens in the recording, prompt and generated."""
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
        return np.dtype(np.float32)

    ndim = 4
    dims = ("token", "layer", "head", "column")

    @property
    def complete(self) -> bool:
        """Was the recording closed? False while it is being written, and after its writer died."""
        return self._core.complete

    @functools.cached_property
    def layers(self) -> list[LayerInfo]:
        """Each layer's geometry (``n_head, n_head_kv, head_dim, scale, ...``), or in ``absent`` why it has none."""
        return self._core.layers

    @property
    def model(self) -> dict[str, Any]:
        """What the recording says of the model: name, architecture, sha256, n_layer, ..."""
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
            "settings": json.loads(c.settings_json or "{}"),
            "notice": c.notice,
            "model": c.model,
        }

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        name = self.model["name"] or self.model["path"] or "unknown model"
        state = "" if self.complete else ", incomplete"
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
        s = select(index, self.n_tokens, self.n_layers, self.n_heads)
        block = self._core.rows(s.tokens, s.layers, s.heads)
        if s.columns is not None and s.columns != block.shape[3]:
            raise IndexError(f"boolean index did not match the axis column: it has {block.shape[3]} entries, the mask {s.columns}")
        return block[s.index]

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(self.n_tokens):
            yield self[i]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a recording holds no rows: they are computed, so there is no array without a copy")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def pattern(self, layer: int, *, token: Any = None, head: Any = None) -> np.ndarray:
        """The attention pattern of one layer: (heads, query, key) float32, zero above the diagonal.

        ``token`` and ``head`` narrow the queries and the heads: a number, a slice, a list or booleans. A number keeps its
        axis away: ``pattern(3, head=5)`` is (query, key). Computed from each query and the layer's keys, which are read
        once; a view of (query, heads, key) memory.
        """
        tokens = slice(None) if token is None else token
        rows = self[_axis(tokens), layer.__index__()]  # (query, heads, key)
        pattern = rows.transpose(1, 0, 2)
        if head is not None:
            pattern = pattern[_checked(head, pattern.shape[0], "head")]
        if isinstance(token, (int, np.integer)):
            pattern = pattern[..., 0, :]
        return pattern

    def queries(self, layer: int, tokens: Any = None) -> np.ndarray:
        """(token, head, head_dim) float32: Q as the engine multiplied it, after its position was rotated in."""
        chosen = np.arange(self.n_tokens)[slice(None) if tokens is None else tokens]
        return self._core.queries(_number(layer, self.n_layers, "layer"), np.atleast_1d(chosen).tolist())

    def keys(self, layer: int) -> np.ndarray:
        """(column, KV head, head_dim) float32: K as it lies in the engine's cache; quantised types dequantised."""
        return self._core.keys(_number(layer, self.n_layers, "layer"))

    # ---- questions about them -----------------------------------------------------------------------------------------

    def answer(
        self,
        token: int | slice | None = None,
        *,
        reduce: str = "none",
        layers: Any = None,
        heads: Any = None,
        window: int = 0,
        top_k: int = 16,
        spans: Any = (),
        every: int = 1,
        accumulate: Any = (),
        window_rows: int = 32,
    ) -> Answer | Answers:
        """What ``include/attnscope/attention_request.h`` can be asked, of one token or of many.

        ``reduce``: 'none' (layers, heads, columns), 'mean' (columns), 'max' (columns), 'per_layer' (layers, columns), 'top_k'
        (k) with ``columns`` beside it, 'spans' (spans): sums over ``spans`` [(begin, end), ...], 'lookback_ratio' (layers,
        heads; Lookback Lens, arXiv 2407.07071), 'entropy' (layers, heads; nats), 'first_share' (layers, heads; the attention
        sink, arXiv 2309.17453). ``window``: only the last so many columns.

        ``token``: a number gives an Answer; a slice or None (all) an Answers, a list of one for each ``every``-th token that
        has its queries. Its ``scores`` hold what ``accumulate`` asks for: 'total' (H2O, arXiv 2306.14048), 'mean',
        'window_mean' (SnapKV, arXiv 2404.14469; of the last ``window_rows``), 'last' (TOVA, arXiv 2401.06104), 'brightness'.
        """
        fields: dict[str, Any] = {"reduce": reduce, "window": window, "top_k": top_k, "every": every, "window_rows": window_rows}
        fields["layers"] = _numbers(layers, self.n_layers, "layer")
        fields["heads"] = _numbers(heads, self.n_heads, "head")
        fields["spans"] = [(int(begin), int(end)) for begin, end in spans]
        fields["accumulate"] = [accumulate] if isinstance(accumulate, str) else list(accumulate)
        if token is not None and not isinstance(token, slice):
            return Answer(self._core_answer(_number(token, self.n_tokens, "token"), fields))
        chosen = range(self.n_tokens)[token or slice(None)]
        if chosen.step != 1:
            raise InvalidArgument("answers come for tokens in order: give a slice without a step, and every=")
        found, scores = _core.answers(self._core, chosen.start, max(chosen.stop, chosen.start), fields, self.n_prompt)
        return Answers(found, scores)

    def _core_answer(self, token: int, fields: dict[str, Any]) -> dict[str, Any]:
        return _core.answer(self._core, token, fields, self.n_prompt)

    def map(
        self,
        tokens: slice | None = None,
        columns: slice | None = None,
        *,
        layers: Any = None,
        heads: Any = None,
        tile: int | tuple[int, int] = 1,
        each_row: bool = False,
        largest: bool = False,
        exact: bool = False,
    ) -> np.ndarray:
        """Which tokens looked at which columns, in tiles: (tiles of tokens, tiles of columns) float32.

        A tile holds the share of its tokens' attention that went to its columns (sum over columns, mean over tokens), or the
        ``largest`` weight in it. One map of the mean over the selected layers and heads, or with ``each_row`` one for each:
        (layers, heads, tiles, tiles). ``exact``: from the very weights that ``run[...]`` gives; otherwise sums may be
        ordered for speed, and differ by some units in the last place.
        """
        by_token, by_column = (tile, tile) if isinstance(tile, int) else tile
        t = range(self.n_tokens)[tokens or slice(None)]
        c = range(self.shape[3])[columns] if columns is not None else range(0)
        if t.step != 1 or c.step != 1:
            raise InvalidArgument("a map is of tokens and columns in order: slices without a step")
        values, _, _ = _core.attention_map(
            self._core, _numbers(layers, self.n_layers, "layer"), _numbers(heads, self.n_heads, "head"), (t.start, t.stop), (c.start, c.stop),
            by_token, by_column, each_row, largest, exact,
        )
        return values

    def prune(self, policy: str, budget: int, *, chunks: Any = (), pinned: Any = (), recent: int = 0, pool: int = 5, window_rows: int = 32) -> Pruning:
        """Which tokens a KV-cache policy would keep: 'h2o', 'snapkv', 'tova' or 'brightness' (include/attnscope/prune.h).

        ``budget``: tokens that may stay. ``chunks``: (begin, end) ranges that leave whole, together all tokens (default:
        each token); ``pinned``: numbers of chunks that stay; ``recent``: last tokens that stay (h2o, snapkv); ``pool``:
        snapkv's smoothing. Scores are means over all layers and heads of every token recorded.
        """
        what = {"h2o": "total", "snapkv": "window_mean", "tova": "last", "brightness": "brightness"}.get(policy, "total")
        found = self.answer(reduce="mean", every=max(self.n_tokens, 1), accumulate=what, window_rows=window_rows).scores
        scores = np.zeros(self.n_tokens)
        scores[: len(found[what])] = found[what]
        ranges = [(int(begin), int(end)) for begin, end in chunks]
        return Pruning(_core.prune(policy, scores, budget, ranges, list(pinned), recent, pool), scores)

    def find(self, text: str, start: int = 0) -> tuple[int, int]:
        """The columns (begin, end) of the first place at or after token ``start`` where ``text`` stands."""
        pieces = self._pieces
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])])
        at = b"".join(pieces).find(text.encode(), int(offsets[start]))
        if at < 0 or not text:
            raise NotFound(f"the text of {self.path} does not hold {text!r}")
        begin = int(np.searchsorted(offsets, at, side="right")) - 1
        return begin, int(np.searchsorted(offsets, at + len(text.encode()), side="left"))

    # ---- is it true -------------------------------------------------------------------------------------------------

    def verify(self, *, proofs: int = 2000, file_check: bool = True, progress: Callable[[str, float], None] | None = None) -> Verification:
        """Checks the whole recording: the file, every token's verdict, and proven rows computed again (-1: all of them)."""
        return Verification(self._core.verify(proofs, file_check, progress))

    def witnesses(self, token: int) -> list[dict[str, Any]]:
        """The proofs of one token: P.V of a layer and head against the engine's own output (docs/fidelity.md)."""
        return self._core.witnesses(_number(token, self.n_tokens, "token"))

    def diagnose(self) -> Diagnosis:
        """Its rows, looked at as if a stranger had captured them (docs/diagnose.md)."""
        from .diagnosis import diagnose

        return diagnose(self)

    # ---- for others -------------------------------------------------------------------------------------------------

    def to_transformers(self, layers: Any = None) -> tuple:
        """``outputs.attentions`` of transformers: for each layer (1, head, query, key) float32, None where it has none.

        Tensors where torch is installed, else arrays; views of one block of (query, layers, heads, key).
        """
        return interchange.to_transformers(self, layers)

    def to_transformer_lens(self, *, remove_batch_dim: bool = False) -> interchange.PatternCache:
        """TransformerLens's cache, as far as patterns go: ``cache["blocks.3.attn.hook_pattern"]``, ``cache["pattern", 3]``.

        (1, head, query, key) each, or with ``remove_batch_dim``, as ``run_with_cache`` has it, (head, query, key); a tensor
        where torch is installed; computed when it is first asked for.
        """
        return interchange.PatternCache(self, remove_batch_dim)

    def to_bertviz(self, layers: Any = None) -> dict[str, Any]:
        """Arguments of BertViz's views: ``bertviz.head_view(**run.to_bertviz())``, ``bertviz.model_view(...)``."""
        return interchange.to_bertviz(self, layers)

    def to_circuitsvis(self, layer: int) -> dict[str, Any]:
        """Arguments of CircuitsVis: ``circuitsvis.attention.attention_patterns(**run.to_circuitsvis(3))``."""
        return interchange.to_circuitsvis(self, layer)

    def to_xarray(self, tokens: Any = None, layers: Any = None, heads: Any = None) -> Any:
        """An xarray.DataArray (token, layer, head, column) float32 with ids, texts, kinds and positions as coordinates."""
        return interchange.to_xarray(self, tokens, layers, heads)

    def to_zarr(self, path: str | os.PathLike[str], *, layers: Any = None, overwrite: bool = False) -> None:
        """A Zarr group: ``attention`` (token, layer, head, column) float32, and ids, texts, positions of the tokens.

        Written some tokens at a time; ``xarray.open_zarr`` reads it.
        """
        interchange.to_zarr(self, path, layers, overwrite)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Run:
        """Copies the recording to ``path``, which stays; the copy, open."""
        if not self.complete:
            raise InvalidArgument(f"{self.path} is not complete: its newest tokens may lie beside it, and a copy would lack them")
        if os.path.exists(path) and not overwrite:
            raise InvalidArgument(f"{os.fspath(path)} exists; choose another name, or overwrite=True")
        shutil.copyfile(self.path, path)
        return Run(path)

    # ---- its life ---------------------------------------------------------------------------------------------------

    def refresh(self) -> Run:
        """Looks again at a recording that is still being written."""
        self._core.refresh()
        for name in ("_table", "_pieces", "texts", "layers"):
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
        return (Run, (os.path.abspath(self.path),))


def _axis(part: Any) -> Any:
    """An index that keeps its axis: numbers become lists of one."""
    return [part] if isinstance(part, (int, np.integer)) else part


def _number(value: Any, size: int, name: str) -> int:
    n = value.__index__()
    if not -size <= n < size:
        raise OutOfRange(f"there is no {name} {n}; the recording has {size}")
    return n % size


def _numbers(part: Any, size: int, name: str) -> list[int]:
    """Numbers of one axis as a request lists them; empty: all."""
    if part is None:
        return []
    if isinstance(part, (int, np.integer)):
        return [_number(part, size, name)]
    if isinstance(part, slice):
        chosen = list(range(size)[part])
    else:
        array = np.asarray(part)
        chosen = np.flatnonzero(array).tolist() if array.dtype == bool else [_number(p, size, name) for p in array.tolist()]
    if not chosen:
        raise InvalidArgument(f"no {name}s are selected")
    return chosen


def _checked(part: Any, size: int, name: str) -> Any:
    """An index of one axis, with our sentence where a number is out of range."""
    if isinstance(part, (int, np.integer)):
        return _number(part, size, name)
    if isinstance(part, slice):
        return part
    array = np.asarray(part)
    if array.dtype != bool and array.size and (array.min() < -size or array.max() >= size):
        raise InvalidArgument(f"there are {size} {name}s; {name}={part!r} is out of range")
    return array
