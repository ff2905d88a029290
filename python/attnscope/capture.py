"""A recording made without a server."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any

from .arguments import path as path_of
from .errors import InvalidArgument, IOFailed, NotFound
from .options import split
from .progress import Progress
from .run import Run
from .session import Session


class _Recorded(Session):
    _encoder_decoder = True


class _Reader(_Recorded):
    _only_read = True


def _free(path: str, overwrite: bool) -> str:
    """``path``, where a recording can be written there: said before a model is loaded for it."""
    folder = os.path.dirname(path) or "."
    if not path:
        raise InvalidArgument("the path of the recording is empty")
    if not os.path.isdir(folder):
        raise NotFound(f"no folder {folder} to write into")
    if not os.access(folder, os.W_OK):
        raise IOFailed(f"the folder {folder} is not writable")
    if os.path.isdir(path):
        raise InvalidArgument(f"{path} is a folder")
    if os.path.lexists(path) and not overwrite:
        raise InvalidArgument(f"{path} exists; choose another name, or overwrite=True")
    return path


def capture(
    model: str | os.PathLike[str],
    prompt: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    chat: bool = False,
    parse_special: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Generates after ``prompt`` and records the attention of every token; the recording, open.

    >>> run = at.capture("model.gguf", "Why is the sky blue?", chat=True, n_predict=64)

    ``model``: a GGUF file, or a name that ``attnscope models`` knows. ``n_predict=0`` only reads the prompt, which embedding models,
    encoders and diffusion writers do as well: their rows look both ways. Of a model that reads with an encoder and writes with a
    decoder (T5) both are recorded, the text's tokens first (``run.layers[i].role``, ``run.has_rows``). ``prompt`` and the options:
    as Session and Session.generate. ``path``: the file to write; without it a temporary one that lives as long as the Run does
    (``run.save(path)`` keeps it). ``progress``: None shows it where somebody looks (a terminal or a notebook). A
    control-C raises KeyboardInterrupt; a file that was asked for is then whole and holds what was captured until then, and says
    so, as that of ``attnscope capture`` does: ``at.open(path).end_reason`` is "interrupted".
    """
    session_options, generate_options = split(options)
    path = None if path is None else _free(path_of(path), bool(overwrite))
    kind = _Reader if generate_options.get("n_predict") == 0 else _Recorded
    with kind(model, **session_options) as session:
        tokens = session._tokens(prompt, chat, bool(parse_special))
        folder = None
        if path is None:
            folder = tempfile.mkdtemp(prefix="attnscope-")
            path = os.path.join(folder, "run.attn")
        shown = Progress(len(tokens), 128 if generate_options.get("n_predict") is None else generate_options["n_predict"], progress)
        try:
            session._core.record(tokens, path, bool(overwrite), generate_options, shown.on_text, shown.on_prompt)
            run = Run(path)
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shown.close()
    if folder is not None:
        weakref.finalize(run, shutil.rmtree, folder, True)
    return run
