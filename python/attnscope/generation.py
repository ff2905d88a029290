"""One generation: its thread, and its frames as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _core
from .errors import Cancelled


class Engine:
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

    def __init__(self, engine: Engine):
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
