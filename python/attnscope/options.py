"""Options of sessions and of generations, by llama.cpp's names: which there are, and what their numbers may be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arguments import meant, whole
from .errors import InvalidArgument

SESSION_OPTIONS = frozenset(
    "n_ctx n_batch n_threads n_gpu_layers devices rpc_servers flash_attention cache_type_k cache_type_v entry witness quiet".split()
)
GENERATE_OPTIONS = frozenset(
    "n_predict ignore_eos prompt_rows temperature top_k top_p min_p typical_p repeat_penalty repeat_last_n presence_penalty "
    "frequency_penalty seed mirostat mirostat_tau mirostat_eta dry_multiplier xtc_probability logit_bias".split()
)
# What other programs call the same.
OTHER_NAMES = {"temp": "temperature", "max_tokens": "n_predict", "max_new_tokens": "n_predict", "max_length": "n_predict",
               "repetition_penalty": "repeat_penalty", "ctx_size": "n_ctx", "threads": "n_threads", "ngl": "n_gpu_layers"}  # fmt: skip
# As the command's: outside of these a number means nothing, and llama.cpp reads it as something else without a word.
RANGES = {"temperature": (0, 100), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1), "repeat_penalty": (0.01, 100),
          "xtc_probability": (0, 1), "mirostat": (0, 2)}  # fmt: skip


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the session, and of the generation. A number of prompt rows may be 'all' or 'none'."""
    for name in options:
        if name not in SESSION_OPTIONS | GENERATE_OPTIONS:
            raise InvalidArgument(f"there is no option {name}{meant(name, SESSION_OPTIONS | GENERATE_OPTIONS, OTHER_NAMES)}")
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidArgument(f"{name} must be a finite number, not {value}")
        low, high = RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, (int, float, np.number)) and not low <= value <= high:
            raise InvalidArgument(f"{name} must be from {low} to {high}, not {value}")
    rows = options.get("prompt_rows")
    if isinstance(rows, str):
        if rows not in ("all", "none"):
            raise InvalidArgument(f"prompt_rows is 'all', 'none' or how many of the last ones, not {rows!r}")
        options = {**options, "prompt_rows": None if rows == "all" else 0}
    elif rows is not None:
        options = {**options, "prompt_rows": whole(rows, "prompt_rows", 0)}
    for name, low, high in (("n_threads", 0, 1024), ("n_ctx", 0, 1 << 24), ("n_batch", 1, 1 << 16)):  # as the command's
        if options.get(name) is not None:
            options = {**options, name: whole(options[name], name, low, high)}
    if options.get("n_predict") is not None:
        options = {**options, "n_predict": whole(options["n_predict"], "n_predict", -1, 2**31 - 1)}
    return (
        {k: v for k, v in options.items() if k in SESSION_OPTIONS},
        {k: v for k, v in options.items() if k in GENERATE_OPTIONS},
    )
