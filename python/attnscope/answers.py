"""Answers to requests about attention, and what pruning policies make of them."""

from __future__ import annotations

from typing import Any

import numpy as np


class Answer:
    """One token's answer: an array with what it means. ``numpy.asarray(answer)`` is ``answer.values``.

    values        float32, in the shape of the reduction
    token         whose query these weights belong to
    columns       of 'top_k': (k,) int64, one a value; otherwise None
    n_columns     columns of the whole row; first_column: of the first value, above 0 with a window
    reduce        what was asked for
    """

    def __init__(self, fields: dict[str, Any]):
        self.values: np.ndarray = fields["values"]
        self.token: int = fields["index"]
        self.columns: np.ndarray | None = fields["columns"]
        self.n_columns: int = fields["n_columns"]
        self.first_column: int = fields["first_column"]
        self.reduce: str = fields["reduce"]

    def __getitem__(self, name: str) -> Any:
        """``answer["values"]`` is ``answer.values``."""
        if name not in ("values", "token", "columns", "n_columns", "first_column", "reduce"):
            raise KeyError(f"an answer has no {name!r}: there are values, token, columns, n_columns, first_column and reduce")
        return getattr(self, name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=True) if copy else np.asarray(self.values, dtype=dtype)

    def __repr__(self) -> str:
        values = np.array2string(self.values, precision=4, threshold=8, edgeitems=2, separator=", ", prefix="<Answer: ")
        where = "" if self.columns is None else f" at columns {self.columns.tolist()[:16]}"
        return f"<Answer: {self.reduce} of token {self.token}, {self.values.shape}{where}\n{values}>"


class Answers(list):
    """Answers of many tokens in order, and in ``scores`` what was summed up over them: (positions,) float64 by name."""

    def __init__(self, found: list[dict[str, Any]], scores: dict[str, np.ndarray]):
        super().__init__(Answer(f) for f in found)
        self.scores = scores

    @property
    def tokens(self) -> np.ndarray:
        """(answers,) int64: the token of each answer."""
        return np.array([a.token for a in self], np.int64)

    def stack(self) -> np.ndarray:
        """(answers, ...) float32, the last axis as long as the longest, 0 beyond each answer's end."""
        if not self:
            return np.zeros((0,), np.float32)
        length = max(a.values.shape[-1] for a in self)
        out = np.zeros((len(self), *self[0].values.shape[:-1], length), np.float32)
        for i, a in enumerate(self):
            out[i, ..., : a.values.shape[-1]] = a.values
        return out


class Pruning:
    """What a policy would keep.

    kept            (tokens that stay,) int64, ascending
    dropped_chunks  numbers of the chunks that leave; chunk_scores: (chunks,) float64
    fits            False where what is pinned exceeds the budget by itself
    scores          (tokens,) float64: what the policy went by
    """

    def __init__(self, fields: dict[str, Any], scores: np.ndarray):
        self.kept: np.ndarray = fields["kept"]
        self.dropped_chunks: np.ndarray = fields["dropped_chunks"]
        self.chunk_scores: np.ndarray = fields["chunk_scores"]
        self.fits: bool = fields["fits"]
        self.scores = scores

    def __repr__(self) -> str:
        return f"<Pruning: {len(self.kept)} of {len(self.scores)} tokens stay{'' if self.fits else '; what is pinned exceeds the budget'}>"
