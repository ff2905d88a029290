"""A recording for others: the shapes that other packages take, and copies."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from . import interchange
from .arguments import path as path_of
from .errors import InvalidArgument, IOFailed

if TYPE_CHECKING:
    from .run import Run


class Exports:
    """The part of a :class:`Run` that hands it to others."""

    def to_transformers(self: Run, layers: Any = None) -> tuple:
        """``outputs.attentions`` of transformers: for each layer (1, head, query, key) float32, None where it has none; NaN in the rows of
        tokens that take no part in the layer (:attr:`Run.has_rows`).

        Tensors where torch is installed, else arrays; views of one block of (query, layers, heads, key).
        """
        return interchange.to_transformers(self, layers)

    def to_transformer_lens(self: Run, *, remove_batch_dim: bool = False) -> interchange.PatternCache:
        """TransformerLens's cache, as far as patterns go: ``cache["blocks.3.attn.hook_pattern"]``, ``cache["pattern", 3]``.

        (1, head, query, key) each, or with ``remove_batch_dim``, as ``run_with_cache`` has it, (head, query, key); a tensor
        where torch is installed; computed when it is first asked for.
        """
        return interchange.PatternCache(self, remove_batch_dim)

    def to_bertviz(self: Run, layers: Any = None) -> dict[str, Any]:
        """Arguments of BertViz's views: ``bertviz.head_view(**run.to_bertviz())``, ``bertviz.model_view(...)``.

        Of an encoder and its decoder choose the ``layers`` of one: the square is of its text alone.
        """
        return interchange.to_bertviz(self, layers)

    def to_circuitsvis(self: Run, layer: int) -> dict[str, Any]:
        """Arguments of CircuitsVis: ``circuitsvis.attention.attention_patterns(**run.to_circuitsvis(3))``."""
        return interchange.to_circuitsvis(self, layer)

    def to_xarray(self: Run, tokens: Any = None, layers: Any = None, heads: Any = None) -> Any:
        """An xarray.DataArray (token, layer, head, column) float32 with ids, texts, kinds and positions as coordinates.

        Rows that are not there are NaN: of layers that were not captured, heads that a layer has not got, and layers that a token takes no
        part in.
        """
        return interchange.to_xarray(self, tokens, layers, heads)

    def to_zarr(self: Run, path: str | os.PathLike[str], *, layers: Any = None, overwrite: bool = False) -> None:
        """A Zarr group: ``attention`` (token, layer, head, column) float32, with the coordinates of :meth:`to_xarray`.

        Written some tokens at a time, beside ``path``, whose place it takes when it is whole; ``xarray.open_zarr`` reads it.
        """
        interchange.to_zarr(self, path, layers, overwrite)

    def save(self: Run, path: str | os.PathLike[str], *, overwrite: bool = False) -> Run:
        """Copies the recording, with all its sequences, to ``path``, which stays; the copy, open at the same sequence.

        The copy is written beside ``path`` and takes its place when it is whole and opens.
        """
        if not self.complete:
            raise InvalidArgument(f"{self.path} is not complete: its newest tokens may lie beside it, and a copy would lack them")
        path = path_of(path)
        if os.path.exists(path) and not overwrite:
            raise InvalidArgument(f"{path} exists; choose another name, or overwrite=True")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidArgument(f"{path} is no regular file")
        beside = f"{path}.{os.getpid()}.part"
        try:
            if os.path.exists(path) and os.path.samefile(self.path, path):
                raise InvalidArgument(f"{path} is this recording itself")
            shutil.copyfile(self.path, beside)
            type(self)(beside, sequence=self.sequence).close()
            os.replace(beside, path)
        except OSError as e:
            raise IOFailed(f"cannot copy {self.path} to {path}: {e.strerror or e}") from e
        finally:
            if os.path.exists(beside):
                os.unlink(beside)
        return type(self)(path, sequence=self.sequence)
