"""What is wrong with a capture of attention, wherever it came from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import _core
from .arguments import items, path as path_of, text, whole
from .errors import InvalidArgument, Unsupported
from .report import Diagnosis


def diagnose(
    capture: Any, *, axes: str | Sequence[str] = "", shape: Sequence[int] = (), array: str = "", learned_sinks: bool = False
) -> Diagnosis:
    """What is wrong with a capture, what shows it, what can be kept, and how to capture it rightly (docs/diagnose.md).

    ``capture`` is one of

    - a path: a Halo Weave folder, .npy, .npz, .safetensors, raw float32 (with ``shape``), an .attn recording; ``array``
      names the array in an .npz or .safetensors
    - an array (token, layer, head, column), (layer, head, query, key), one token's (layer, head, column), ...; any float dtype
    - what a model of transformers returned as ``attentions``: a tuple of (batch, head, query, key), one a layer; of generate(), a
      tuple of such tuples, one a step
    - a list or iterator of (layer, head, column) arrays, one a token, which may differ in width; or a list of (head, query, key), one
      a layer

    What the axes are is found out from the numbers, as for a file of the same array, and told in ``.axes``; where nothing decides,
    Unsupported asks, and ``axes`` answers: "layer,head,query,key" (of a list: as if it were stacked). ``learned_sinks``: the model is
    one whose rows rightly sum to less than 1. Arrays are not copied.
    """
    axes = axes if isinstance(axes, str) else ",".join(text(name, "an axis") for name in items(axes, "axes"))
    axes, learned_sinks = text(axes, "axes"), bool(learned_sinks)
    if isinstance(capture, (str, bytes, os.PathLike)):
        sizes = [whole(n, "a size in shape", 0) for n in items(shape, "shape")]
        return Diagnosis(_core.diagnose_path(path_of(capture), sizes, text(array, "array"), axes, learned_sinks))
    core = getattr(capture, "_core", None)
    if isinstance(core, _core.Recording):
        if core.sequence != 0:
            raise Unsupported(
                f"sequence {core.sequence} of {core.path}: diagnose() reads a recording's first one. "
                f"`attnscope export --sequence {core.sequence} --to npy` writes a folder that it reads"
            )
        if axes:
            raise InvalidArgument("a recording's axes are known: axes= is for arrays")
        return Diagnosis(_core.diagnose_path(core.path, [], "", "", learned_sinks))
    for name, given in (("shape", len(items(shape, "shape"))), ("array", array)):
        if given:
            raise InvalidArgument(f"{name}= is of a file, and a {type(capture).__name__} was given")
    if isinstance(capture, Mapping):
        names = ", ".join(itertools.islice(map(str, capture), 5))
        raise InvalidArgument(f"a {type(capture).__name__} is no capture: give one of its values, or a list of them; it has {names or 'none'}")
    if _is_array(capture):
        whole_array = _numpy(capture)
        if whole_array.ndim < 3 and not axes:
            raise Unsupported(f"an array of shape {whole_array.shape} is no attention: (token, layer, head, column) is")
        return _of_arrays([("the array", [whole_array], whole_array.shape)], axes, learned_sinks)
    if isinstance(capture, (tuple, list)):
        return _of_list(capture, axes, learned_sinks)
    if isinstance(capture, Iterable):
        if axes:
            raise InvalidArgument("an iterator is read token by token, each (layer, head, column): give a list where the axes are others")
        return _of_tokens((_numpy(c) for c in capture), learned_sinks)
    raise InvalidArgument(f"a {type(capture).__name__} is no capture: give a path, an array, or a list of arrays")


def _is_array(value: Any) -> bool:
    return hasattr(value, "ndim") or hasattr(value, "__array__")


def _of_list(capture: Sequence[Any], axes: str, learned_sinks: bool) -> Diagnosis:
    if capture and all(isinstance(step, (tuple, list)) for step in capture):
        return _of_layers(capture, "generate() of transformers gives a tuple of layers for each step", learned_sinks, axes)
    if any(getattr(layer, "ndim", 0) == 4 for layer in capture):
        return _of_layers([capture], "a tuple of (batch, head, query, key) is one a layer, as transformers gives it", learned_sinks, axes)
    arrays = [_numpy(one) for one in capture]
    alike = len(arrays) > 1 and arrays[0].ndim == 3 and all(a.shape == arrays[0].shape and a.dtype == arrays[0].dtype for a in arrays)
    if axes and not alike:
        raise InvalidArgument("axes= of a list needs arrays of one shape and dtype, three axes each")
    if alike:  # one array that lies in parts
        stacked = [("the list", arrays, (len(arrays), *arrays[0].shape))]
        try:
            return _of_arrays(stacked, axes, learned_sinks)
        except Unsupported:  # nothing decides: what a list of arrays usually is
            if axes or arrays[0].shape[1] == arrays[0].shape[2]:
                raise
    return _of_tokens(iter(arrays), learned_sinks)


def _of_layers(steps: Sequence[Sequence[Any]], why: str, learned_sinks: bool, axes: str) -> Diagnosis:
    """Layers of (batch, head, query, key), of one step or of several. A layer without attention is None."""
    named = []
    for s, step in enumerate(steps):
        for n, layer in enumerate(step):
            if layer is None:
                continue
            values = _numpy(layer)
            if values.ndim != 4 or values.shape[0] != 1:
                raise Unsupported(f"layer {n} has shape {values.shape}: (1, head, query, key) is needed, a batch of one")
            named.append((f"step_{s}_layer_{n}" if len(steps) > 1 else f"layer_{n}", [values], values.shape))
    if not named:
        raise InvalidArgument("there are no layers with attention to diagnose")
    if len(steps) == 1 and any(shape != named[0][2] for _, _, shape in named):
        raise Unsupported("layers of one shape can be diagnosed together")
    return _of_arrays(named, axes or "batch,head,query,key", learned_sinks, "" if axes else why)


def _numpy(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # torch, also bfloat16 and other devices
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        values = values.numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise Unsupported(f"an array of {array.dtype} is no attention: weights are floats")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _of_arrays(named: Sequence[tuple[str, list[np.ndarray], Sequence[int]]], axes: str, learned_sinks: bool, why: str = "") -> Diagnosis:
    """Arrays by name, each in parts that follow one another: the reading of a file that held them."""
    whole_arrays = [
        (name, str(parts[0].dtype), list(size), [np.ascontiguousarray(p).reshape(-1).view(np.uint8) for p in parts])
        for name, parts, size in named
    ]
    return Diagnosis(_core.diagnose_memory(whole_arrays, axes, why, learned_sinks))


def _of_tokens(tokens: Iterator[np.ndarray], learned_sinks: bool) -> Diagnosis:
    def checked() -> Iterator[np.ndarray]:
        for i, token in enumerate(tokens):
            if token.ndim != 3:
                raise Unsupported(f"token {i} has shape {token.shape}: (layer, head, column) is needed")
            yield np.ascontiguousarray(token, np.float32)

    return Diagnosis(_core.diagnose_tokens(checked(), learned_sinks))
