"""The attention of llama.cpp in this very process: llama-cpp-python, xllamacpp, or whatever else computes with ggml here.

Loads neither attnscope's engine nor anything else of llama.cpp: programs bring their own.
"""

from __future__ import annotations

import atexit
import ctypes
import glob
import os
import subprocess
import sys
import tempfile

from .errors import InvalidArgument, IOFailed, NotFound, Unsupported

_current: Attachment | None = None


def _read(file) -> str:
    """All that another process has written, whose place in the file is ours, too."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _is_inside() -> bool:
    with open("/proc/self/maps") as maps:
        return any(line.rstrip().endswith("/libattnscope_attach.so") for line in maps)


class Attachment:
    """Recordings of this process, as :func:`attach` began them. Ends with :meth:`close`, with the process, or at the end of a ``with``."""

    def __init__(self, folder: str, recorder: subprocess.Popen, said, library: ctypes.CDLL) -> None:
        self.folder = folder
        self._recorder, self._said, self._library = recorder, said, library
        self._pid = os.getpid()
        self.closed = False

    @property
    def recordings(self) -> list[str]:
        """Paths of what was recorded so far. They can be opened, in another process, while they grow (see :func:`attach`)."""
        found = glob.glob(os.path.join(glob.escape(self.folder), f"*-{self._pid}-*.attn"))
        return sorted(found, key=lambda path: (len(path), path))

    @property
    def messages(self) -> list[str]:
        """What ``attnscope attach`` says: which ggml was found, which layers are captured, or why nothing is."""
        return _read(self._said).splitlines()

    def close(self) -> None:
        """Nothing is captured any more; returns when every recording is whole. The program goes on."""
        if self.closed or os.getpid() != self._pid:
            return
        self.closed = True
        self._library.attnscope_attach_end()
        self._recorder.terminate()
        try:
            self._recorder.wait(timeout=60)
        except subprocess.TimeoutExpired:
            raise IOFailed(f"the recorder, process {self._recorder.pid}, does not end: {self.folder} may be incomplete") from None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<attnscope.Attachment: {len(self.recordings)} recordings in {self.folder!r}{', closed' if self.closed else ''}>"


def attach(folder: str | os.PathLike[str] = ".") -> Attachment:
    """Records what llama.cpp attends to in this process, into ``folder``, from now on: before or after ``import llama_cpp``.

    >>> import attnscope
    >>> recorded = attnscope.attach("attention")
    >>> from llama_cpp import Llama
    >>> Llama("model.gguf")("The capital of France is")
    >>> recorded.close()
    >>> recorded.recordings
    ['attention/model-4711-0.attn']

    One recording a conversation, each row proven, as ``attnscope attach -- python3 program.py`` makes them; a process of our own writes them.
    What was decoded before the call is not known, and texts that go on from it are not recorded. ``attachment.messages`` says what is
    captured, or why nothing is. Linux only. One at a time: after ``close()`` the process may be attached again, into another folder or
    the same; a text that was begun before that is then one whose beginning is not known.

    Programs that bring a llama.cpp as shared libraries under the names of ours (llama-cpp-python does) cannot have ours beside them:
    look at the recordings in another process, or with ``attnscope view``.
    """
    global _current
    if not sys.platform.startswith("linux"):
        raise Unsupported("attach() is there for Linux alone")
    if _current is not None and _current._pid != os.getpid():
        raise InvalidArgument("this is a child of a process that was attached: attach in one that is started anew")
    if _current is not None and not _current.closed:
        raise InvalidArgument(f"this process is attached, into {_current.folder!r}: close that before the next")
    if _current is None and _is_inside():
        raise InvalidArgument("this process runs under `attnscope attach` already, which records it")
    path = os.path.abspath(os.fspath(folder))
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "attnscope")
    said = tempfile.TemporaryFile()  # noqa: SIM115: lives as long as the attachment
    arguments = [program, "attach", "--caller", "--no-verify", "-o", path, "--", sys.executable or "python3", *getattr(sys, "argv", [])]
    try:
        # of its own group, so that a control-C meant for this process does not end it
        recorder = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True)
    except OSError as e:
        raise IOFailed(f"cannot start {program}: {e.strerror}") from None
    assert recorder.stdout is not None
    library, inbox = (recorder.stdout.readline().rstrip("\n") for _ in range(2))
    recorder.stdout.close()
    if not inbox:
        recorder.wait()
        why = _read(said).strip().removeprefix("error: ")  # the exception says already that it is one
        raise NotFound(why or f"{program} did not begin to record")
    os.environ["ATTNSCOPE_ATTACH"] = inbox
    try:
        # for all to see: what is loaded later finds these functions first
        loaded = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        loaded.attnscope_attach_begin()
    except (OSError, AttributeError) as e:
        del os.environ["ATTNSCOPE_ATTACH"]
        recorder.terminate()
        raise Unsupported(f"{library} cannot be loaded here: {e}") from None
    _current = Attachment(path, recorder, said, loaded)
    atexit.register(_current.close)
    return _current
