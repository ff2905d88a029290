"""What a recording can be asked beside its rows, and whether it is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .answers import Answer, Answers, Pruning
from .arguments import function, items, pairs, span, text as text_of, whole
from .errors import NotFound
from .indexing import number, numbers
from .report import Diagnosis, Verification

if TYPE_CHECKING:
    from .run import Run


class Questions:
    """The part of a :class:`Run` that answers with less than rows."""

    def answer(
        self: Run,
        token: int | slice | range | None = None,
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

        ``token``: a number gives an Answer; a slice, a range or None (all) an Answers, a list of one for each ``every``-th token that
        has its queries, and rows in these layers (:attr:`Run.has_rows`). Its ``scores`` hold what ``accumulate`` asks for: 'total'
        (H2O, arXiv 2306.14048), 'mean', 'window_mean' (SnapKV, arXiv 2404.14469; of the last ``window_rows``), 'last' (TOVA, arXiv
        2401.06104), 'brightness'.
        """
        fields: dict[str, Any] = {"reduce": text_of(reduce, "reduce")}
        for name, value in (("window", window), ("top_k", top_k), ("every", every), ("window_rows", window_rows)):
            fields[name] = whole(value, name)
        fields["layers"] = numbers(layers, self.n_layers, "layer")
        fields["heads"] = numbers(heads, self.n_heads, "head")
        fields["spans"] = pairs(spans, "spans")
        fields["accumulate"] = [accumulate] if isinstance(accumulate, str) else items(accumulate, "accumulate")
        if token is not None and not isinstance(token, (slice, range)):
            return Answer(self._core_answer(number(token, self.n_tokens, "token"), fields))
        chosen = span(token, self.n_tokens, "the tokens of answers")
        found, scores = _core.answers(self._core, chosen.start, max(chosen.stop, chosen.start), fields, self.n_prompt)
        return Answers(found, scores)

    def _core_answer(self: Run, token: int, fields: dict[str, Any]) -> dict[str, Any]:
        return _core.answer(self._core, token, fields, self.n_prompt)

    def map(
        self: Run,
        tokens: slice | range | None = None,
        columns: slice | range | None = None,
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

        Tokens whose query was not kept (``prompt_rows``), or that take no part in any of the layers (:attr:`Run.has_rows`), have no rows:
        they count for nothing in a tile's mean, and a line of tiles that has no other token is nan.
        """
        by_token, by_column = pairs([tile], "tile")[0] if isinstance(tile, (tuple, list)) else (whole(tile, "tile"),) * 2
        t = span(tokens, self.n_tokens, "tokens")
        c = span(columns, self.shape[3], "columns") if columns is not None else range(0)
        values, _, n_tokens = _core.attention_map(
            self._core, numbers(layers, self.n_layers, "layer"), numbers(heads, self.n_heads, "head"), (t.start, t.stop), (c.start, c.stop),
            by_token, by_column, bool(each_row), bool(largest), bool(exact),
        )
        values[..., n_tokens == 0, :] = np.nan
        return values

    def prune(self: Run, policy: str, budget: int, *, chunks: Any = (), pinned: Any = (), recent: int = 0, pool: int = 5, window_rows: int = 32) -> Pruning:
        """Which tokens a KV-cache policy would keep: 'h2o', 'snapkv', 'tova' or 'brightness' (include/attnscope/prune.h).

        ``budget``: tokens that may stay. ``chunks``: (begin, end) ranges that leave whole, together all tokens (default:
        each token); ``pinned``: numbers of chunks that stay; ``recent``: last tokens that stay (h2o, snapkv); ``pool``:
        snapkv's smoothing. Scores are means over all layers and heads of every token recorded.
        """
        budget, recent, pool = whole(budget, "budget"), whole(recent, "recent"), whole(pool, "pool", -(2**31), 2**31 - 1)
        held = [whole(n, "a number of a pinned chunk") for n in items(pinned, "pinned")]
        what = {"h2o": "total", "snapkv": "window_mean", "tova": "last", "brightness": "brightness"}.get(text_of(policy, "policy"), "total")
        found = self.answer(reduce="mean", every=max(self.n_tokens, 1), accumulate=what, window_rows=window_rows).scores
        if not len(found[what]):  # scores of 0 would be an answer
            raise NotFound(f"no token of {self.path} was recorded with its queries: there is nothing to go by")
        scores = np.zeros(self.n_tokens)
        scores[: len(found[what])] = found[what]
        return Pruning(_core.prune(policy, scores, budget, pairs(chunks, "chunks"), held, recent, pool), scores)

    def find(self: Run, text: str, start: int = 0) -> tuple[int, int]:
        """The columns (begin, end) of the first place at or after token ``start`` where ``text`` stands."""
        pieces = self._pieces
        wanted = text_of(text, "text").encode()
        first = whole(start, "start", -len(pieces), len(pieces))
        first = first + len(pieces) if first < 0 else first
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
        at = b"".join(pieces).find(wanted, int(offsets[first]))
        if at < 0 or not text:
            raise NotFound(f"the text of {self.path} does not hold {text!r}")
        begin = int(np.searchsorted(offsets, at, side="right")) - 1
        return begin, int(np.searchsorted(offsets, at + len(wanted), side="left"))

    def verify(self: Run, *, proofs: int = 2000, file_check: bool = True, progress: Callable[[str, float], None] | None = None) -> Verification:
        """Checks the whole recording: the file, every token's verdict, and proven rows computed again (-1: all of them)."""
        return Verification(self._core.verify(whole(proofs, "proofs", -1), bool(file_check), function(progress, "progress")))

    def witnesses(self: Run, token: int) -> list[dict[str, Any]]:
        """The proofs of one token: P.V of a layer and head against the engine's own output (docs/fidelity.md)."""
        return self._core.witnesses(number(token, self.n_tokens, "token"))

    def diagnose(self: Run) -> Diagnosis:
        """Its rows, looked at as if a stranger had captured them (docs/diagnose.md)."""
        from .diagnosis import diagnose

        return diagnose(self)
