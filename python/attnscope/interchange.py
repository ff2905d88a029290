"""A recording's rows in the shapes that other packages take. None of them is needed to import this."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import path as path_of
from .errors import Error, InvalidArgument, IOFailed, NoSuchKey, Unsupported, require
from .indexing import chosen as chosen_of, number

if TYPE_CHECKING:
    from .run import Run


def _tensor(array: np.ndarray) -> Any:
    """The same memory as a tensor, where there is torch."""
    try:
        import torch
    except ImportError:
        return array
    return torch.from_numpy(array)


def _layers(run: Run, layers: Any) -> list[int]:
    return chosen_of(layers, run.n_layers, "layer")


def _marked(run: Run, block: np.ndarray, tokens: Any, layers: Any, heads: Any = None) -> np.ndarray:
    """``block`` (token, layer, head, column) with NaN in rows that are not there: zeros would be an answer."""
    block[~run.has_rows[tokens][:, layers]] = np.nan
    names = np.arange(block.shape[2]) if heads is None else np.asarray(heads)
    for place, layer in enumerate(layers):
        block[:, place, names >= run.layers[layer].n_head] = np.nan
    return block


def _one_text(run: Run, layers: list[int]) -> slice:
    """The tokens of the square that these layers share: all, or of an encoder and its decoder those of one."""
    roles = {run.layers[layer].role for layer in layers}
    if len(roles) > 1 or "cross" in roles:
        own = {role: [i for i, layer in enumerate(run.layers) if layer.role == role] for role in ("encoder", "decoder")}
        raise Unsupported(
            "such a viewer takes the square pattern of one text, and an encoder and its decoder are two: "
            f"layers={own['encoder']} are the encoder's, layers={own['decoder']} the decoder's"
        )
    there = np.flatnonzero(run.has_rows[:, layers].any(axis=1))
    return slice(0, run.n_tokens) if roles == {""} or not len(there) else slice(int(there[0]), int(there[-1]) + 1)


def to_transformers(run: Run, layers: Any = None) -> tuple:
    chosen = _layers(run, layers)
    block = _marked(run, run[:, chosen], slice(None), chosen)  # (query, layers, heads, key)
    patterns: list[Any] = []
    for place, number in enumerate(chosen):
        layer = run.layers[number]
        if not layer.captured:
            patterns.append(None)
            continue
        patterns.append(_tensor(block[:, place, : layer.n_head].transpose(1, 0, 2)[None]))
    return tuple(patterns)


class PatternCache(Mapping):
    """Patterns by TransformerLens's names, each computed when it is first asked for."""

    def __init__(self, run: Run, remove_batch_dim: bool = False):
        self._run = run
        self.has_batch_dim = not remove_batch_dim
        self._patterns: dict[int, Any] = {}
        if any(layer.role for layer in run.layers):
            raise Unsupported("an encoder and its decoder have several layers of one number: TransformerLens' names do not tell them apart")
        # By the model's own numbers: a recording leaves layers without attention out.
        self._names = {f"blocks.{layer.layer}.attn.hook_pattern": i for i, layer in enumerate(run.layers) if layer.captured}
        self._last = 1 + max((layer.layer for layer in run.layers), default=-1)

    def _resolve(self, key: Any) -> int:
        # As ActivationCache: a full name, or (name, layer[, kind]); its short name of hook_pattern is "pattern" or "attn".
        if isinstance(key, tuple):
            name, layer = key[0], key[1] if len(key) > 1 else None
            if name not in ("pattern", "attn", "hook_pattern") or not isinstance(layer, int):
                raise self._missing(key)
            key = f"blocks.{layer + self._last if layer < 0 else layer}.attn.hook_pattern"
        if not isinstance(key, str) or key not in self._names:
            raise self._missing(key)
        return self._names[key]

    def __getitem__(self, key: Any) -> Any:
        number = self._resolve(key)
        if number not in self._patterns:
            n_head = self._run.layers[number].n_head
            pattern = self._run.pattern(number, head=slice(n_head))
            self._patterns[number] = _tensor(pattern[None] if self.has_batch_dim else pattern)
        return self._patterns[number]

    def _missing(self, key: Any) -> NoSuchKey:
        names = list(self._names)
        there = f"{names[0]} to {names[-1]}" if len(names) > 1 else "".join(names) or "no layer"
        return NoSuchKey(f"there is no {key!r}: a recording has patterns and nothing else of a cache, {there}")

    def stack_activation(self, activation_name: str, layer: int = -1, sublayer_type: str | None = None) -> Any:
        """Patterns of all layers with attention, or of the first ``layer`` of them, along a new first axis, as ActivationCache's."""
        if activation_name not in ("pattern", "attn", "hook_pattern"):
            raise self._missing(activation_name)
        names = list(self._names)[: None if layer == -1 else layer]
        patterns = [self[name] for name in names]
        if not patterns or any(p.shape != patterns[0].shape for p in patterns):
            raise InvalidArgument("layers with the same number of heads can be stacked, at least one")
        return _tensor(np.stack([np.asarray(p) for p in patterns]))

    def remove_batch_dim(self) -> PatternCache:
        """From now on (head, query, key); the cache itself, as ActivationCache's does it."""
        self.has_batch_dim = False
        self._patterns.clear()
        return self

    def __contains__(self, key: object) -> bool:
        try:
            self._resolve(key)
        except NoSuchKey:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<PatternCache of {self._run!r}: {len(self)} layers>"


def to_bertviz(run: Run, layers: Any = None) -> dict[str, Any]:
    chosen = [i for i in _layers(run, layers) if run.layers[i].captured]
    require("torch", "bertviz")
    own = _one_text(run, chosen)
    attention = tuple(pattern[..., own, own] for pattern in to_transformers(run, chosen))
    return {"attention": attention, "tokens": [t or " " for t in run.texts[own]]}


def to_circuitsvis(run: Run, layer: int) -> dict[str, Any]:
    layer = number(layer, run.n_layers, "layer")
    n_head = run.layers[layer].n_head
    if n_head == 0:
        raise InvalidArgument(f"layer {layer} has no attention: {run.layers[layer].absent}")
    own = _one_text(run, [layer])
    return {"tokens": list(run.texts[own]), "attention": np.ascontiguousarray(run.pattern(layer, head=slice(n_head))[:, own, own])}


def _attributes(run: Run) -> dict[str, Any]:
    return {"model": run.model["name"], "architecture": run.model["architecture"], "model_sha256": run.model["sha256"],
            "engine": run.info["engine"], "created": run.info["created"], "units": "1"}


def to_xarray(run: Run, tokens: Any = None, layers: Any = None, heads: Any = None) -> Any:
    xarray = require("xarray", "to_xarray", "attnscope[xarray]")
    token = np.array(chosen_of(tokens, run.n_tokens, "token"), np.int64)
    layer = np.array(_layers(run, layers), np.int64)
    head = np.array(chosen_of(heads, run.n_heads, "head"), np.int64)
    values = run[np.ix_(token, layer, head)] if len(token) * len(layer) * len(head) else run[token][:, layer][:, :, head]
    if values.size:
        values = _marked(run, values, token, layer, head)
    texts = np.array(run.texts, dtype=object)
    columns = np.arange(values.shape[3])
    return xarray.DataArray(
        values,
        dims=run.dims,
        coords={
            "token": token, "layer": layer, "head": head, "column": columns,
            "id": ("token", run.tokens[token]), "text": ("token", texts[token]), "kind": ("token", run.kind[token]),
            "position": ("token", run.positions[token]), "column_text": ("column", texts[columns]),
        },
        name="attention",
        attrs=_attributes(run),
    )


def to_zarr(run: Run, path: str | os.PathLike[str], layers: Any = None, overwrite: bool = False) -> None:
    zarr = require("zarr", "to_zarr", "attnscope[xarray]")
    path = path_of(path)
    chosen = _layers(run, layers)
    if os.path.lexists(path) and not overwrite:
        raise InvalidArgument(f"{path} exists; choose another name, or overwrite=True")
    # What is replaced is deleted, with all that lies in it: only what is a group already.
    if os.path.lexists(path) and not any(os.path.isfile(os.path.join(path, name)) for name in ("zarr.json", ".zgroup")):
        raise InvalidArgument(f"{path} is no Zarr group; choose another name")
    beside = f"{path.rstrip('/')}.{os.getpid()}.part"
    try:
        _write_zarr(zarr, run, beside, chosen)
        if os.path.lexists(path):
            shutil.rmtree(path)
        os.rename(beside, path)
    except OSError as e:
        if isinstance(e, Error):
            raise
        raise IOFailed(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        _remove(beside)


def _remove(folder: str) -> None:
    """Also where Zarr's other writes, which go on for a moment after one has failed, make it anew meanwhile."""
    gone = 0 if os.path.lexists(folder) else 8
    for _ in range(80):
        if gone >= 8:  # for so many looks
            return
        shutil.rmtree(folder, ignore_errors=True)
        gone = 0 if os.path.lexists(folder) else gone + 1
        time.sleep(0.05)


def _write_zarr(zarr: Any, run: Run, path: str, chosen: list[int]) -> None:
    group = zarr.open_group(path, mode="w")

    def create(name: str, values_shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, dims: tuple[str, ...]) -> Any:
        if hasattr(group, "create_array"):  # zarr 3
            return group.create_array(name, shape=values_shape, chunks=chunks, dtype=dtype, dimension_names=dims)
        text = {"object_codec": require("numcodecs", "to_zarr").VLenUTF8()} if dtype is str else {}
        array = group.create_dataset(name, shape=values_shape, chunks=chunks, dtype=object if text else dtype, **text)
        array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
        return array

    _, _, n_heads, n_columns = run.shape
    shape = (run.n_tokens, len(chosen), n_heads, n_columns)
    texts = np.array(run.texts, dtype=object)
    coordinates: dict[str, tuple[str, np.ndarray]] = {
        "token": ("token", np.arange(shape[0])), "layer": ("layer", np.array(chosen, np.int64)),
        "head": ("head", np.arange(n_heads)), "column": ("column", np.arange(n_columns)),
        "id": ("token", run.tokens), "text": ("token", texts), "kind": ("token", run.kind.astype(object)),
        "position": ("token", run.positions), "column_text": ("column", texts[:n_columns]),
    }  # fmt: skip
    # CF's name for coordinates that are no axes: https://cfconventions.org, section 5
    others = [name for name, (axis, _) in coordinates.items() if name != axis]
    group.attrs.update({**_attributes(run), "text": list(run.texts), "coordinates": " ".join(others)})
    at_once = max(1, min(64, (64 << 20) // max(4 * shape[1] * shape[2] * shape[3], 1)))
    chunk = tuple(max(n, 1) for n in (min(at_once, shape[0]), 1, shape[2], shape[3]))
    attention = create("attention", shape, chunk, "float32", run.dims)
    for begin in range(0, run.n_tokens, at_once):
        rows = _marked(run, run[begin : begin + at_once, chosen], slice(begin, begin + at_once), chosen)
        attention[begin : begin + at_once, :, :, : rows.shape[3]] = rows
    for name, (axis, values) in coordinates.items():
        create(name, values.shape, (max(len(values), 1),), str if values.dtype == object else values.dtype, (axis,))[:] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other implementations need not read consolidated metadata: they read the rest
        zarr.consolidate_metadata(group.store)
