"""Running models: a session whose attention is captured, and recordings made without a server."""

from __future__ import annotations

import math
import os
import queue
import shutil
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import _core
from .arguments import function, items, meant, path as path_of, text as text_of, whole
from .errors import Cancelled, InvalidArgument, IOFailed, NotFound
from .run import Run

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


def find_model(name: str | os.PathLike[str] = "") -> str:
    """The path of a model: of a file, or of one that ``attnscope models get`` knows by name ('' is the default model)."""
    return _core.find_model(path_of(name, "a model"))


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
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


class Session:
    """A llama.cpp session in this process, its attention captured.

    >>> with at.Session("model.gguf") as s:
    ...     for frame in s.generate("The capital of France is", n_predict=8, temperature=0):
    ...         print(frame.text, frame.answer(reduce="top_k", top_k=3).columns)

    Options carry llama.cpp's names: n_ctx (4096), n_batch, n_threads (0: all cores), n_gpu_layers, devices, rpc_servers,
    flash_attention ('auto', 'on', 'off'), cache_type_k, cache_type_v ('f16', 'q8_0', ...), witness, quiet. One generation
    at a time; it runs on a thread of its own, without the GIL. A new one ends the one before, whose reader is told so.
    """

    # Models that write no text are read into a file only: their tokens see each other, so that no row is there before the last.
    _only_read = False

    def __init__(self, model: str | os.PathLike[str] = "", **options: Any):
        session, generate = _split(options)
        if generate:
            raise InvalidArgument(f"{', '.join(generate)}: an option of generate(), not of the session")
        self._lock = threading.RLock()  # of whose turn it is to generate
        self._running: _Engine | None = None
        self._core = _core.Session(find_model(model), {**session, "only_read": self._only_read})
        asked = session.get("n_ctx")
        if asked and self._core.n_ctx != asked:
            warnings.warn(f"n_ctx={asked} became {self._core.n_ctx}: llama.cpp's contexts come in steps of 256", stacklevel=2)

    def generate(
        self,
        prompt: Any,
        *,
        chat: bool = False,
        parse_special: bool = True,
        prompt_frames: bool = False,
        on_text: Callable[[str], Any] | None = None,
        **options: Any,
    ) -> Generation:
        """Reads ``prompt`` after what the context holds, then generates; iterate over what this returns.

        ``prompt``: text, token ids, or messages ``[{"role", "content"}]`` for the model's chat template (``chat=True``
        makes a text the user's message). Control tokens written out in a text are those tokens, as for ``attnscope capture``;
        ``parse_special=False`` reads them as text. Yields a Frame for each generated token, and before them one for each token of
        the prompt with ``prompt_frames``. ``on_text`` receives pieces of text as they are chosen, on another thread.
        Options: n_predict (128; -1: until the model stops), temperature (0: greedy), top_k, top_p, min_p, seed, ...;
        prompt_rows ('all', 'none', or how many of the last tokens of the prompt keep their queries).
        """
        session, generate = _split(options)
        if session:
            raise InvalidArgument(f"{', '.join(session)}: an option of the session, not of generate()")
        on_text = function(on_text, "on_text")
        self._refuse_in_callback("generate()")
        tokens = self._tokens(prompt, chat, bool(parse_special))
        with self._lock:
            self._end("generate()")
            self._running = _Engine(self._core, tokens, generate, bool(prompt_frames), on_text)
            return Generation(self._running)

    def _refuse_in_callback(self, what: str) -> None:
        running = self._running
        if running is not None and running.is_here():
            raise InvalidArgument(f"{what} in a callback of a generation: one at a time. Stop that one first, by leaving the loop over its frames")

    def _end(self, what: str) -> None:
        """Ends what is generating; returns when it has ended."""
        if self._running is None:
            return
        self._running.stop(by=what)
        self._running.thread.join()
        self._running = None

    def _left(self) -> None:
        """Waits for a generation that somebody has left and that is about to end."""
        if self._running is not None and self._running.closed.is_set() and not self._running.is_here():
            self._running.thread.join()

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The model's own token ids of a text. ``add_special``: with the tokens that the model wants at the beginning and the
        end. ``parse_special``: ``"<|im_start|>"`` and the like are the model's control tokens, as everywhere in attnscope; False
        reads them as text."""
        return self._core.tokenize(text_of(text, "a text"), bool(add_special), bool(parse_special))

    def chat_prompt(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """Messages (a text: the user's) in the model's own chat template, the assistant's turn begun."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        turns = []
        for message in items(messages, "messages"):
            if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
                raise InvalidArgument(f"a message is {{'role': 'user', 'content': 'text'}}, not {message!r}")
            turns.append((text_of(message["role"], "a message's role"), text_of(message["content"], "a message's content")))
        return self._core.chat_prompt(turns)

    def _tokens(self, prompt: Any, chat: bool, parse_special: bool) -> list[int]:
        if isinstance(prompt, str) and not chat:
            tokens = self.tokenize(prompt, parse_special=parse_special)
        elif isinstance(prompt, str):
            tokens = self.tokenize(self.chat_prompt(prompt))
        else:
            given = items(prompt, "a prompt that is no text")
            if given and isinstance(given[0], Mapping):
                tokens = self.tokenize(self.chat_prompt(given))
            else:
                tokens = [whole(t, "a token of the prompt", -(2**31), 2**31 - 1) for t in given]
        if not tokens:
            raise InvalidArgument("the prompt is empty")
        return tokens

    def reset(self) -> None:
        """Empties the context."""
        self._left()
        self._core.reset()

    def truncate(self, n: int) -> int:
        """Forgets all but the first ``n`` tokens of the context; how many are kept (0 where the model cannot be cut)."""
        self._left()
        return self._core.truncate(whole(n, "n", 0))

    @property
    def layers(self) -> list[_core.LayerInfo]:
        """As Run.layers; empty until the first token was read."""
        return self._core.layers

    @property
    def model(self) -> dict[str, Any]:
        """What the model's file says of it: name, n_layer, n_head, n_ctx_train, bos, eos, chat_template, ..."""
        return self._core.model

    @property
    def n_ctx(self) -> int:
        """Tokens that the context can hold."""
        return self._core.n_ctx

    @property
    def n_past(self) -> int:
        """Tokens that the context holds."""
        return self._core.n_past

    def close(self) -> None:
        """Ends a running generation and frees the model."""
        self._refuse_in_callback("close()")
        with self._lock:
            self._end("close()")
            self._core.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Engine:
    """A generation on its thread, and what the two sides of it share. Knows no Generation, so that one can be let go of."""

    def __init__(self, core: Any, tokens: list[int], options: dict[str, Any], prompt_frames: bool, on_text: Callable[[str], Any] | None):
        self.core = core
        self.frames: queue.Queue = queue.Queue(maxsize=64)  # the engine waits for a reader that is slower
        self.closed = threading.Event()
        self.ended = threading.Event()
        self.ended_by: str | None = None  # what else than its own end, and its reader, ended it
        self.error: BaseException | None = None
        self.result: dict[str, Any] | None = None
        core.may_run()
        self.thread = threading.Thread(target=self._run, args=(tokens, options, prompt_frames, on_text), name="attnscope generation", daemon=False)
        self.thread.start()

    def _run(self, tokens: list[int], options: dict[str, Any], prompt_frames: bool, on_text: Callable[[str], Any] | None) -> None:
        text = (lambda _, piece: on_text(piece.decode("utf-8", "replace"))) if on_text else None
        try:
            self.result = self.core.stream(tokens, options, prompt_frames, self._put, text)
        except BaseException as e:  # noqa: BLE001  raised again where the frames are read
            self.error = e
        self.ended.set()

    def _put(self, frame: Any) -> None:
        while not self.closed.is_set() and threading.main_thread().is_alive():
            try:
                return self.frames.put(frame, timeout=0.1)
            except queue.Full:
                continue
        raise Cancelled("nobody reads the frames any more")

    def next(self) -> Any:
        """The next frame; None after the last, and after its own close(). Cancelled where the session ended it before that."""
        while not self.closed.is_set():
            ended = self.ended.is_set()  # before looking: what ended has put all that it had
            try:
                return self.frames.get_nowait() if ended else self.frames.get(timeout=0.05)
            except queue.Empty:
                if ended:
                    return None
        if self.ended_by is None or self.is_here():
            return None
        self.thread.join()
        if self.result is None or self.result["finish_reason"] == "stopped":
            raise Cancelled(f"this generation is not finished: {self.ended_by} ended it. A session generates one text at a time")
        try:  # it had come to its end by itself
            return self.frames.get_nowait()
        except queue.Empty:
            return None

    def stop(self, by: str | None = None) -> None:
        """``by``: what of the session ended it, where it is not its reader who wants no more."""
        if not self.closed.is_set():
            self.ended_by = by
        self.closed.set()
        if not self.ended.is_set():
            self.core.stop()

    def is_here(self) -> bool:
        """Is this the thread that generates, in a callback?"""
        return self.thread is threading.current_thread()


class Generation:
    """Frames as they come. ``result`` is there after the last: n_prompt, n_generated, finish_reason, seconds, seed.

    Ends within a token when it is closed, from whatever thread, and when nobody holds it any more. Where its session ended it, by the
    next generate() or close(), the next frame is :class:`Cancelled`, so that half a text is never taken for a whole one.
    """

    def __init__(self, engine: _Engine):
        self._engine = engine
        self._done = False

    @property
    def result(self) -> dict[str, Any] | None:
        """After the last frame: n_prompt, n_generated, finish_reason, prompt_seconds, generate_seconds, seed; None before."""
        return self._engine.result

    def __iter__(self) -> Iterator[_core.Frame]:
        return self

    def __next__(self) -> _core.Frame:
        if self._done:
            raise StopIteration
        try:
            frame = self._engine.next()
        except BaseException:  # a control-C
            self.close()
            raise
        if frame is not None:
            return frame
        self._done = True
        if not self._engine.closed.is_set():
            self._engine.thread.join()
            if self._engine.error is not None:
                raise self._engine.error
        raise StopIteration

    def close(self) -> None:
        """Ends the generation within a token."""
        self._engine.stop()
        if not self._engine.is_here():
            self._engine.thread.join()

    def __del__(self) -> None:
        self._engine.stop()


class _Reader(Session):
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
    encoders and diffusion writers do as well: their rows look both ways. ``prompt`` and the options: as Session and
    Session.generate. ``path``: the file to write; without it a temporary one that lives as long as the Run does
    (``run.save(path)`` keeps it). ``progress``: None shows it where somebody looks (a terminal or a notebook). A
    control-C raises KeyboardInterrupt; a file that was asked for is then whole and holds what was captured until then, and says
    so, as that of ``attnscope capture`` does: ``at.open(path).end_reason`` is "interrupted".
    """
    session_options, generate_options = _split(options)
    path = None if path is None else _free(path_of(path), bool(overwrite))
    kind = _Reader if generate_options.get("n_predict") == 0 else Session
    with kind(model, **session_options) as session:
        tokens = session._tokens(prompt, chat, bool(parse_special))
        folder = None
        if path is None:
            folder = tempfile.mkdtemp(prefix="attnscope-")
            path = os.path.join(folder, "run.attn")
        shown = _Progress(len(tokens), 128 if generate_options.get("n_predict") is None else generate_options["n_predict"], progress)
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


class _Progress:
    """Tokens as they come: a bar of tqdm's where it is installed, else a line on standard error."""

    def __init__(self, n_prompt: int, n_predict: int, wanted: bool | None):
        self._n_prompt = n_prompt
        self._total = n_prompt + max(n_predict, 0)
        self._at = 0
        self._bar: Any = None
        self._line = False
        if wanted is None:
            wanted = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        if not wanted:
            return
        try:
            from tqdm.auto import tqdm
        except ImportError:
            self._line = True
        else:
            self._bar = tqdm(total=self._total if n_predict >= 0 else None, unit="token")

    def _to(self, n: int) -> None:
        if self._bar is not None:
            self._bar.update(n - self._at)
        elif self._line:
            print(f"{n} of {self._total} tokens\x1b[K", end="\r", file=sys.stderr, flush=True)
        self._at = n

    def on_prompt(self, n: int) -> None:
        self._to(max(n, self._at))

    def on_text(self, _: bytes) -> None:
        self._to(max(self._at, self._n_prompt) + 1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            print("\x1b[K", end="\r", file=sys.stderr, flush=True)
