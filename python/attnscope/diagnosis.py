"""What is wrong with a capture of attention, wherever it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import _core
from .arguments import items, path as path_of, text, whole
from .errors import InvalidArgument, Unsupported
from .report import Diagnosis


def diagnose(capture: Any, *, shape: Sequence[int] = (), array: str = "", learned_sinks: bool = False) -> Diagnosis:
    """What is wrong with a capture, what shows it, what can be kept, and how to capture it rightly (docs/diagnose.md).

    ``capture`` is one of

    - a path: a Halo Weave folder, .npy, .npz, .safetensors, raw float32 (with ``shape``), an .attn recording; ``array``
      names the array in an .npz or .safetensors
    - an array (token, layer, head, column), or (layer, head, column) of one token; any float dtype. Where it may be
      (layer, head, query, key) as well, which one is asked for
    - a list or iterator of (layer, head, column) arrays, one a token, which may differ in width
    - what a model of transformers returned as ``attentions``: a tuple of (batch, head, query, key), one a layer; or that
      stacked: (layer, 1, head, query, key)

    ``learned_sinks``: the model is one whose rows rightly sum to less than 1. Arrays in float32 are not copied.
    """
    if isinstance(capture, (str, bytes, os.PathLike)):
        sizes = [whole(n, "a size in shape", 0) for n in items(shape, "shape")]
        return Diagnosis(_core.diagnose_path(path_of(capture), sizes, text(array, "array")))
    core = getattr(capture, "_core", None)
    if isinstance(core, _core.Recording):
        if core.sequence != 0:
            raise Unsupported(
                f"sequence {core.sequence} of {core.path}: diagnose() reads a recording's first one. "
                f"`attnscope export --sequence {core.sequence} --to npy` writes a folder that it reads"
            )
        return Diagnosis(_core.diagnose_path(core.path, [], ""))
    if isinstance(capture, tuple) and capture and all(getattr(c, "ndim", 0) == 4 for c in capture):
        return _of_tokens(_from_layers([_numpy(c) for c in capture]), "float32", True, capture[0].shape[2], learned_sinks)
    if hasattr(capture, "ndim") or hasattr(capture, "__array__"):
        all_tokens = _numpy(capture)
        if all_tokens.ndim == 3:
            all_tokens = all_tokens[None]
        if all_tokens.ndim == 5 and all_tokens.shape[1] == 1 and all_tokens.shape[3] == all_tokens.shape[4]:
            return diagnose(tuple(all_tokens), learned_sinks=learned_sinks)  # numpy.stack(outputs.attentions)
        if all_tokens.ndim != 4:
            raise Unsupported(f"an array of shape {all_tokens.shape} is no attention: (token, layer, head, column) is")
        if all_tokens.shape[2] == all_tokens.shape[3] > 1:
            raise Unsupported(
                f"an array of shape {all_tokens.shape} may be (layer, head, query, key) or (token, layer, head, column): give "
                "tuple(array[:, None]) for the first, list(array) for the second"
            )
        return _of_tokens(iter(all_tokens), str(all_tokens.dtype), True, len(all_tokens), learned_sinks)
    if isinstance(capture, Iterable):
        n = len(capture) if hasattr(capture, "__len__") else 0
        return _of_tokens((_numpy(c) for c in capture), "float32", False, n, learned_sinks)
    raise InvalidArgument(f"a {type(capture).__name__} is no capture: give a path, an array, or a list of arrays")


def _numpy(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # torch, also bfloat16 and other devices
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        values = values.numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise Unsupported(f"an array of {array.dtype} is no attention: weights are floats")
    return array


def _from_layers(layers: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Tokens of (batch, head, query, key) arrays, one a layer: the row of each query, as wide as it sees."""
    if any(layer.shape != layers[0].shape or layer.shape[0] != 1 for layer in layers):
        raise Unsupported("layers of one shape and a batch of one can be diagnosed")
    n_query, n_key = layers[0].shape[2:]
    for query in range(n_query):
        yield np.stack([layer[0, :, query, : n_key - n_query + query + 1] for layer in layers])


def _of_tokens(tokens: Iterator[np.ndarray], storage: str, rectangular: bool, n: int, learned_sinks: bool) -> Diagnosis:
    def checked() -> Iterator[np.ndarray]:
        for i, token in enumerate(tokens):
            if token.ndim != 3:
                raise Unsupported(f"token {i} has shape {token.shape}: (layer, head, column) is needed")
            yield np.ascontiguousarray(token, np.float32)

    return Diagnosis(_core.diagnose_arrays(checked(), storage, rectangular, n, learned_sinks))
