"""The viewer in a notebook: the page of ``attnscope view`` in a cell."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from . import _core
from .arguments import meant, path as path_of, text, whole
from .errors import InvalidArgument, Unsupported, WrongType, require
from .run import Run

_MODULE = pathlib.Path(__file__).with_name("widget.js")


@functools.cache
def _widget_class() -> type:
    anywidget = require("anywidget", "show", "attnscope[notebook]")
    import traitlets

    if not _MODULE.exists():
        raise Unsupported("this attnscope was built without npm, and so without the viewer: run `make setup` and build it again")

    class State(traitlets.Unicode):
        def validate(self, owner: Any, value: Any) -> Any:
            return _words(value, owner._runs) if isinstance(value, Mapping) else super().validate(owner, value)

        def error(self, *_: Any) -> Any:
            raise WrongType('view.state is a dict, as {"view": "matrix", "layer": 3}, or the words after "#" of the page\'s address')

    class View(anywidget.AnyWidget):
        """The viewer. ``view.state`` is what it shows, the words behind "#" of the page's address; it may be set, to such a text or to
        a dict, as ``view.state = {"view": "matrix", "layer": 3}``, with the names and values of show()."""

        _esm = _MODULE
        state = State("").tag(sync=True)
        height = traitlets.Unicode("640px").tag(sync=True)

        def __init__(self, runs: list[Any], **traits: Any):
            self._runs = runs  # a temporary recording lives as long as its Run
            self._answers = _core.PageAnswers.open([_path(run) for run in runs])
            super().__init__(**traits)
            self.on_msg(self._answer)

        def _answer(self, _: Any, question: Any, __: Any) -> None:
            if not isinstance(question, dict) or question.get("attnscope") != 1:
                return
            status, body = self._answers.answer(str(question.get("path", "")), str(question.get("query", "")))
            self.send({"attnscope": 1, "id": question.get("id"), "status": status}, [body])

    return View


# What the page can show first, as web/src/state.ts has it: choices, or the axis that a number belongs to.
STATE: dict[str, Any] = {
    "view": ("text", "heads", "matrix", "flow", "health", "live", "compare"),
    "token": "token", "layer": "layer", "head": "head",
    "reduce": ("mean", "max"),
    "tint": ("reads", "readers", "total", "brightness", "h2o", "snapkv", "tova"),
    "log": bool, "hide_first": bool, "lines": bool, "rollout": bool, "peaks": bool,
    "sequence": "sequence", "other_sequence": "other_sequence",
    "budget": float, "x": str, "y": str, "c": str, "span": str, "camera": str, "source": str, "other": str,
    "theme": ("auto", "light", "dark"),
    "map": ("viridis", "cividis", "grey", "warm", "cool"),
}  # fmt: skip


def _words(state: Mapping[str, Any], runs: list[Any]) -> str:
    """The words of an address that say what is shown; InvalidArgument for what the page does not know."""
    words: dict[str, Any] = {}
    for name, value in state.items():
        if name not in STATE:
            raise InvalidArgument(f"the viewer shows no {name}{meant(str(name), STATE)}")
        kind = STATE[name]
        if isinstance(kind, tuple):
            if value not in kind:
                raise InvalidArgument(f"{name} must be one of {', '.join(kind)}, not {value!r}")
        elif isinstance(kind, str):
            # -1 is all layers, and all heads; tokens count from the end
            n = whole(value, name, {"token": -(2**31), "sequence": 0}.get(kind, -1), 2**31)
            elsewhere = kind == "token" and "sequence" in state  # how many tokens that one has the page knows
            for size in (_size(run, kind) for run in runs if not elsewhere):
                if size is not None and not (-size if kind == "token" else -1) <= n < size:
                    raise InvalidArgument(f"there is no {name} {n}; the recording has {size}")
            value = n
        elif kind is bool:
            value = int(bool(value))
        elif kind is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InvalidArgument(f"{name} is a share from 0 to 1, not {value!r}")
        else:
            value = text(value, name)
        words[name] = value
    return urlencode(words)


def _size(run: Any, axis: str) -> int | None:
    """How many tokens, layers or heads a recording has; None of somebody else's capture, and of what the page looks up."""
    if not isinstance(run, Run) or "sequence" in axis:
        return None
    return {"token": run.n_tokens, "layer": run.n_layers, "head": run.n_heads}[axis]


def _shown_sequences(runs: list[Any], state: Mapping[str, Any]) -> dict[str, int]:
    """Which sequences of the first recording and of the one beside it are shown first: those that the Runs are, unless `state` says more."""
    sequences = [run.sequence if isinstance(run, Run) else 0 for run in runs]
    if any(sequences[2:]):
        raise Unsupported("of the recordings behind the second one the viewer shows sequence 0 first; choose another on the page")
    first: dict[str, int] = {}
    if sequences[0] > 0 and "sequence" not in state and "source" not in state:
        first["sequence"] = sequences[0]
    if len(runs) > 1 and sequences[1] > 0 and "other_sequence" not in state and "other" not in state:
        first["other_sequence"] = sequences[1]
    return first


def _path(run: Any) -> str:
    return run.path if isinstance(run, Run) else path_of(run, "what is shown")


def show(run: Run | str | os.PathLike[str] | list | tuple, *, height: str | int = 640, **state: Any) -> Any:
    """The viewer as a widget: the same page as ``attnscope view``, in JupyterLab and wherever else anywidget runs.

    ``run``: a Run, a path of a recording or of somebody else's capture, or a list of them (two can be compared). ``height``: pixels,
    or a CSS length. ``state``: what is shown first, e.g. ``view="heads"`` (text, heads, matrix, flow, health, compare), ``token=41``,
    ``layer=3, head=5``, ``theme="dark"``, ``sequence=2`` (unless given, the one that the Run is). The widget's ``state`` can be set to the same in a dict.

    The page asks for what it shows, in binary messages; nothing goes over a network of its own. Questions are answered
    while no cell runs. Needs ``pip install attnscope[notebook]``.
    """
    view = _widget_class()
    runs = list(run) if isinstance(run, (list, tuple)) else [run]
    if not runs:
        raise InvalidArgument("there is nothing to show: the list is empty")
    words = "&".join(filter(None, (_words(state, runs), urlencode(_shown_sequences(runs, state)))))
    return view(runs, state=words, height=f"{height}px" if isinstance(height, int) else height)
