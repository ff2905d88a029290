"""How far a capture is."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
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
