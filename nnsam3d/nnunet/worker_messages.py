"""Show the error message of a worker process at the end of the main process's output.

nnU-Net preprocesses in worker processes. If one fails, the user reads "Background workers died" and has to search for
the reason. A worker stores its message here, and the main process prints it after the traceback.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from types import TracebackType

PAUSE = 0.05  # seconds between two looks


class WorkerMessages:
    """Messages and markers shared by the processes of one command; a single process keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: a small file that the processes share (:func:`shared_messages`); None for a single process.
        """
        self.path = path
        self._done: set[str] = set()

    def add(self, message: str) -> None:
        """Add a message (worker side). Never raises: it must not hide the error it reports."""
        if self.path is None:
            return  # the user sees the error itself
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(message.rstrip() + "\n")
        except OSError:
            pass

    def read(self) -> str:
        """All messages so far."""
        return self.path.read_text(encoding="utf-8") if self.path is not None and self.path.is_file() else ""

    def first_time(self, what: str) -> bool:
        """True for the first call about ``what`` in any of the processes: to print or do something once."""
        if self.path is None:
            first = what not in self._done
            self._done.add(what)
            return first
        try:
            self._marker(what).touch(exist_ok=False)
        except OSError:
            return False
        return True

    def wait(self, what: str, seconds: float) -> bool:
        """Wait until another process has called :meth:`first_time` about ``what``; False after ``seconds``."""
        end = time.monotonic() + seconds
        while self.path is not None and not self._marker(what).exists():
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)
        return True

    def _marker(self, what: str) -> Path:
        assert self.path is not None
        return self.path.with_suffix(f".{what}")

    def remove(self) -> None:
        """Delete the file and its markers."""
        if self.path is not None:
            for path in self.path.parent.glob(f"{self.path.stem}.*"):
                path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def shared_messages() -> WorkerMessages:
    """The messages of this process and all its workers; created once, when the first worker starts.

    From then on, an uncaught error in this process is followed by the messages of the workers.
    """
    handle, name = tempfile.mkstemp(prefix="nnsam3d_", suffix=".log")
    os.close(handle)
    words = WorkerMessages(Path(name))
    atexit.register(words.remove)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if messages := words.read():
            print(f"\nnnsam3d: {messages}", end="", file=sys.stderr, flush=True)

    sys.excepthook = hook
    return words
