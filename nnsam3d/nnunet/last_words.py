"""Carry a worker process's error message to the last lines of the main process.

nnU-Net preprocesses in worker processes; when one raises, the user reads "Background workers died" and has to
search for the reason. A worker leaves its message here, and the main process prints it after the traceback.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]
PAUSE = 0.05  # seconds between two looks


class LastWords:
    """What processes that work for one command tell each other; in one process alone nothing but memory is used."""

    def __init__(self, path: Path | None = None) -> None:
        """
        Args:
            path: a small file that the processes share (:func:`of_workers`); None: there is one process.
        """
        self.path = path
        self._said: set[str] = set()

    def leave(self, message: str) -> None:
        """Add a message (worker side). Never raises: it must not hide the error it reports."""
        if self.path is None:
            return  # the error itself arrives
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(message.rstrip() + "\n")
        except OSError:
            pass

    def read(self) -> str:
        """What was left so far."""
        return self.path.read_text(encoding="utf-8") if self.path is not None and self.path.is_file() else ""

    def first_time(self, what: str) -> bool:
        """True for the first of all processes that asks about ``what``: to say or do something once."""
        if self.path is None:
            first = what not in self._said
            self._said.add(what)
            return first
        try:
            self._marker(what).touch(exist_ok=False)
        except OSError:
            return False
        return True

    def wait(self, what: str, seconds: float) -> bool:
        """Until another process has asked :meth:`first_time` about ``what``; False if that takes too long."""
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
        """The file and what goes with it."""
        if self.path is not None:
            for path in self.path.parent.glob(f"{self.path.stem}.*"):
                path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def of_workers() -> LastWords:
    """Those of this process and all of its workers: made when the first worker is started, once.

    From then on an uncaught error of this process is followed by what workers have left.
    """
    handle, name = tempfile.mkstemp(prefix="nnsam3d_", suffix=".log")
    os.close(handle)
    words = LastWords(Path(name))
    atexit.register(words.remove)
    _tell_after_errors(words, sys.excepthook)
    return words


def _tell_after_errors(words: LastWords, before: Hook) -> None:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        left = words.read()
        if left:
            print(f"\nnnsam3d: {left}", end="", file=sys.stderr, flush=True)

    sys.excepthook = hook
