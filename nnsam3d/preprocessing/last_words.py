"""Carry a worker process's error message to the last lines of the main process.

nnU-Net preprocesses in worker processes; when one raises, the user reads "Background workers died" and has to
search for the reason. A worker leaves its message here, and the main process prints it after the traceback.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


class LastWords:
    """A small file shared by a main process and its workers; pickles as its path.

    Creating one in the main process chains ``sys.excepthook``: an uncaught error is followed by what was left.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="nnsam3d_", suffix=".log")
        os.close(handle)
        self.path = Path(name)
        atexit.register(self._remove)
        self._chain(sys.excepthook)

    def leave(self, message: str) -> None:
        """Add a message (worker side). Never raises: it must not hide the error it reports."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(message.rstrip() + "\n")
        except OSError:
            pass

    def read(self) -> str:
        """What was left so far."""
        return self.path.read_text(encoding="utf-8") if self.path.is_file() else ""

    def first_time(self, what: str) -> bool:
        """True for the first of all processes that asks about ``what``: to say something once."""
        try:
            self._marker(what).touch(exist_ok=False)
        except OSError:
            return False
        return True

    def _marker(self, what: str) -> Path:
        return self.path.with_suffix(f".{what}")

    def _remove(self) -> None:
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)

    def _chain(self, before: Hook) -> None:
        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            before(kind, error, trace)
            words = self.read()
            if words:
                print(f"\nnnsam3d: {words}", end="", file=sys.stderr, flush=True)

        sys.excepthook = hook

    def __reduce__(self) -> tuple[Callable[[str], LastWords], tuple[str]]:
        return _reopen, (str(self.path),)


def _reopen(path: str) -> LastWords:
    words = object.__new__(LastWords)
    words.path = Path(path)
    return words
