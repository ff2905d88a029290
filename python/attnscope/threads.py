"""How many threads compute rows."""

from __future__ import annotations

from . import _core
from .arguments import whole


def set_threads(n: int) -> None:
    """How many threads compute rows, answers and maps from now on, 1 to 1024; at first as many as this process may use cores.

    A session's own threads are ``at.Session(..., n_threads=)``. :func:`n_threads` says how many there are.
    """
    _core.set_threads(whole(n, "the number of threads", 1, 1024))
