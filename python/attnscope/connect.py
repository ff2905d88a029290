"""Live rows from a server (``attnscope serve``), as NumPy arrays, over its binary WebSocket (docs/http.md)."""

from __future__ import annotations

import difflib
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .arguments import items, meant, text as text_of, whole
from .errors import Error, InvalidArgument, IOFailed, require


# Names of the server's native dialect that a slip of the pen may mean (docs/http.md has all).
FIELDS = frozenset(
    "max_length temperature top_k top_p typical min_p rep_pen rep_pen_range sampler_seed ban_eos_token stop_sequence trim_stop genkey "
    "request_id logprobs memory max_context_length grammar record logit_bias mirostat mirostat_tau mirostat_eta dynatemp_range "
    "dynatemp_exponent xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length presence_penalty "
    "frequency_penalty dry_penalty_last_n output_hidden_states output_attentions".split()
)
OTHER_NAMES = {"temp": "temperature", "seed": "sampler_seed", "repeat_penalty": "rep_pen", "repeat_last_n": "rep_pen_range",
               "max_tokens": "n_predict", "max_new_tokens": "n_predict", "typical_p": "typical", "stop": "stop_sequence",
               "ignore_eos": "ban_eos_token"}  # fmt: skip


@dataclass(frozen=True)
class LiveToken:
    """A token of a server's generation, and the row of the query that chose it (that of the token before).

    ``attention`` is float32 in the shape of the reduction (include/attnscope/attention_request.h), None where none was asked
    for or it was not this token's turn. ``columns`` belong to ``reduce='top_k'``. ``info`` is the rest of what the server said.
    """

    type: str  # "token", or "prompt" for a token of the prompt (prompt_rows)
    token: int
    text: str
    attention: np.ndarray | None = None
    columns: np.ndarray | None = None
    index: int | None = None  # the frame of the query that these weights belong to
    verdict: str | None = None
    info: dict[str, Any] = field(default_factory=dict, repr=False)


class ServerError(Error):
    """The server refused, or broke off; ``status`` is HTTP's, where there is one."""

    kind = "engine"

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


def connect(url: str = "http://127.0.0.1:5001", *, api_key: str | None = None, timeout: float = 30) -> Server:
    """A server that runs already. Nothing is sent before the first call."""
    return Server(url, api_key, timeout)


class Server:
    """``for token in at.connect(url).generate("The capital of France is", attention={"reduce": "mean"}): ...``"""

    def __init__(self, url: str, api_key: str | None, timeout: float):
        text_of(url, "url")
        try:
            parts = urlsplit(url if "//" in url else "http://" + url)
        except ValueError as e:
            raise InvalidArgument(f"{url} is no address of a server: {e}") from None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidArgument(f"{url!r} is no address of a server: it looks like http://127.0.0.1:5001")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._key = api_key
        self._timeout = timeout
        self.last: dict[str, Any] | None = None

    def model(self) -> dict[str, Any]:
        """What the server says of its model: model_name, num_layers, num_attention_heads, max_context_length, ..."""
        request = urllib.request.Request(self.url + "/api/v1/model")
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            raise ServerError(f"{self.url} answered {e.code} {e.reason}", e.code) from e
        except (OSError, ValueError) as e:
            raise IOFailed(f"no attnscope server answers at {self.url}: {e}") from e

    def generate(
        self, prompt: str | Sequence[int], *, attention: Mapping[str, Any] | None = None, n_predict: int = 128, **fields: Any
    ) -> Iterator[LiveToken]:
        """Tokens as the server chooses them. Leaving the loop ends the generation.

        ``attention``: the object of docs/http.md: reduce, layers, heads, format ('f32', 'f16', 'u8'), window, top_k, spans,
        every, accumulate, prompt_rows, flow. ``fields``: the server's own names (temperature, top_k, sampler_seed, record,
        ...; docs/http.md). One that it does not know raises InvalidArgument before anything is generated where it is near to one of
        those, and otherwise warns at the end, when the server has said that it ignored it. What the last event said (finish_reason,
        scores, recording, ignored_fields) is in ``server.last``.
        """
        if "chat" in fields:
            raise InvalidArgument("a server gets the prompt as it is, without chat=: hand it a text in the model's chat template")
        for name in fields:
            if name in OTHER_NAMES or (name not in FIELDS and difflib.get_close_matches(name, FIELDS, 1, 0.8)):
                raise InvalidArgument(f"the server knows no {name}{meant(name, FIELDS, OTHER_NAMES)}")
        return self._tokens(prompt, attention, n_predict, fields)

    def _tokens(
        self, prompt: str | Sequence[int], attention: Mapping[str, Any] | None, n_predict: int, fields: dict[str, Any]
    ) -> Iterator[LiveToken]:
        client = require("websockets.sync.client", "at.connect", "attnscope[live]")
        closed = require("websockets.exceptions", "at.connect", "attnscope[live]").ConnectionClosed
        request: dict[str, Any] = {"max_length": n_predict, **fields}
        if isinstance(prompt, str):
            request["prompt"] = text_of(prompt, "prompt")
        else:
            request["input_ids"] = [whole(t, "a token of the prompt") for t in items(prompt, "prompt")]
        if attention is not None:
            if not isinstance(attention, Mapping):
                raise InvalidArgument(f"attention must be a dict, as {{'reduce': 'mean'}}, not {attention!r}")
            request["attention"] = dict(attention)
        if self._key:
            request["api_key"] = self._key
        try:
            message = json.dumps(request)
        except (TypeError, ValueError) as e:
            raise InvalidArgument(f"this cannot be sent as JSON: {e}") from None
        self.last = None
        address = "ws" + self.url[len("http") :] + "/api/extra/generate/stream/ws"
        try:
            socket = client.connect(address, open_timeout=self._timeout, max_size=None, compression=None)
        except Exception as e:
            raise IOFailed(f"no attnscope server answers at {self.url}: {e}") from e
        with socket:
            try:
                socket.send(message)
                while True:
                    event = json.loads(socket.recv())
                    if event["type"] == "error":
                        detail = event.get("detail", {}).get("msg") or event.get("error") or "the server broke off"
                        raise ServerError(detail, event.get("status"))
                    tensors = {name: socket.recv() for name in event.get("binary", [])}
                    if event["type"] == "done":
                        self.last = event
                        if ignored := event.get("ignored_fields"):
                            warnings.warn(f"{self.url} ignored {', '.join(map(str, ignored))}: it has no such field, or it has no effect", stacklevel=2)
                        return
                    yield _token(event, tensors)
            except Error:
                raise
            except (closed, OSError, ValueError, KeyError, TypeError) as e:
                raise IOFailed(f"{self.url} broke off: {e}") from e


def _token(event: dict[str, Any], tensors: dict[str, bytes]) -> LiveToken:
    told = event.get("attention")
    token = event.get("token", event)
    rest = {k: v for k, v in event.items() if k not in ("type", "token_id", "text", "binary")}
    if not told or "attention" not in tensors:
        return LiveToken(event["type"], token["token_id"], token.get("text", ""), info=rest)
    columns = np.asarray(told["columns"], np.int64) if "columns" in told else None
    values = decode(tensors["attention"], told["shape"], told["dtype"])
    return LiveToken(event["type"], token["token_id"], token.get("text", ""), values, columns, told.get("index"), told.get("verdict"), rest)


def decode(data: bytes, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Bytes of an answer as float32. ``u8``: a float32 scale for each row first, then one byte a value; value = byte * scale."""
    shape = tuple(int(n) for n in shape)
    count = int(np.prod(shape))
    if dtype in ("float32", "f32"):
        values = np.frombuffer(data, "<f4")
    elif dtype in ("float16", "f16"):
        values = np.frombuffer(data, "<f2").astype(np.float32)
    elif dtype in ("uint8", "u8"):
        n_rows = count // shape[-1] if shape and shape[-1] else 0
        scales = np.frombuffer(data, "<f4", n_rows)
        values = (np.frombuffer(data, np.uint8, offset=4 * n_rows).reshape(n_rows, -1) * scales[:, None]).astype(np.float32).ravel()
    else:
        raise ValueError(f"an answer in {dtype}, which this version does not know")
    if values.size != count:
        raise ValueError(f"an answer of {values.size} values where {shape} was announced")
    return values.reshape(shape)
