"""A running model whose attention is captured."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import _core
from .arguments import function, items, path as path_of, text as text_of, whole
from .errors import InvalidArgument
from .generation import Engine, Generation
from .options import split


def find_model(name: str | os.PathLike[str] = "") -> str:
    """The path of a model: of a file, or of one that ``attnscope models get`` knows by name ('' is the default model)."""
    return _core.find_model(path_of(name, "a model"))


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
    # An encoder reads the whole text first: a file keeps both, a stream of frames would begin with tokens whose keys come later.
    _encoder_decoder = False

    def __init__(self, model: str | os.PathLike[str] = "", **options: Any):
        session, generate = split(options)
        if generate:
            raise InvalidArgument(f"{', '.join(generate)}: an option of generate(), not of the session")
        self._lock = threading.RLock()  # of whose turn it is to generate
        self._running: Engine | None = None
        self._core = _core.Session(find_model(model), {**session, "only_read": self._only_read, "encoder_decoder": self._encoder_decoder})
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
        session, generate = split(options)
        if session:
            raise InvalidArgument(f"{', '.join(session)}: an option of the session, not of generate()")
        on_text = function(on_text, "on_text")
        self._refuse_in_callback("generate()")
        tokens = self._tokens(prompt, chat, bool(parse_special))
        with self._lock:
            self._end("generate()")
            self._running = Engine(self._core, tokens, generate, bool(prompt_frames), on_text)
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
