"""Progress bars that also suit log files."""

from __future__ import annotations

import time
from typing import Any

import tqdm as _tqdm

SECONDS = 60.0  # between two lines in a file


class tqdm(_tqdm.tqdm):
    """tqdm's bar. In a file or a pipe, it writes a line at the beginning and the end, and one a minute between."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._shown = -SECONDS
        super().__init__(*arguments, **options)

    @property
    def _in_file(self) -> bool:
        return not getattr(self.fp, "isatty", bool)()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the bar; see :class:`tqdm.tqdm`."""
        if not self._in_file:
            super().display(msg, pos)
        elif time.monotonic() - self._shown >= SECONDS:
            self._shown = time.monotonic()
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Removes the bar from a terminal; lines in a file stay."""
        if not self._in_file:
            super().clear(nolock)

    def close(self) -> None:
        """Ends the bar."""
        if not self.disable and self._in_file:
            if self.leave:
                self._shown = -SECONDS
                self.display()
            self.sp = None  # nothing is left to be erased
        super().close()
