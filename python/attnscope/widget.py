"""The viewer in a notebook: the page of ``attnscope view`` in a cell."""

from __future__ import annotations

import functools
import pathlib
from typing import Any
from urllib.parse import urlencode

from . import _core
from .arguments import path as path_of
from .errors import InvalidArgument, Unsupported, require
from .run import Run

_MODULE = pathlib.Path(__file__).with_name("widget.js")


@functools.cache
def _widget_class() -> type:
    anywidget = require("anywidget", "show", "attnscope[notebook]")
    import traitlets

    if not _MODULE.exists():
        raise Unsupported("this attnscope was built without npm, and so without the viewer: run `make setup` and build it again")

    class View(anywidget.AnyWidget):
        """The viewer. ``view.state`` is what it shows, as behind "#" of the page's address, and may be set."""

        _esm = _MODULE
        state = traitlets.Unicode("").tag(sync=True)
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


def _path(run: Any) -> str:
    if isinstance(run, Run) and run.sequence != 0:
        raise Unsupported(
            f"sequence {run.sequence} of {run.path}: the viewer shows a recording's first one. "
            f"`attnscope export --sequence {run.sequence} --to html` writes a page of it"
        )
    return run.path if isinstance(run, Run) else path_of(run, "what is shown")


def show(run: Run | str | os.PathLike[str] | list | tuple, *, height: str | int = 640, **state: Any) -> Any:
    """The viewer as a widget: the same page as ``attnscope view``, in JupyterLab and wherever else anywidget runs.

    ``run``: a Run, a path of a recording or of somebody else's capture, or a list of them (two can be compared). ``height``: pixels,
    or a CSS length. ``state``: what is shown first, e.g. ``view="heads"`` (text, heads, matrix, flow, health, compare), ``token=41``,
    ``layer=3, head=5``, ``theme="dark"``.

    The page asks for what it shows, in binary messages; nothing goes over a network of its own. Questions are answered
    while no cell runs. Needs ``pip install attnscope[notebook]``.
    """
    view = _widget_class()
    runs = list(run) if isinstance(run, (list, tuple)) else [run]
    if not runs:
        raise InvalidArgument("there is nothing to show: the list is empty")
    words = {name: int(value) if isinstance(value, bool) else value for name, value in state.items()}
    return view(runs, state=urlencode(words), height=f"{height}px" if isinstance(height, int) else height)
