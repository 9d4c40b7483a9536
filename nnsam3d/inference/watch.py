"""What a long computation says about itself, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from nnsam3d.errors import UserError

Progress = Callable[[str, int], None]


class Cancelled(UserError):
    """A computation was stopped by :meth:`Session.cancel`."""


class Watch:
    """Hears of every window. Knows nothing of the session, whose image must go when the session goes."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.cancelled = Event()
        self._before = 0

    def start(self, computed: int) -> None:
        """A new computation, before which so many windows of the image were computed."""
        self.cancelled.clear()
        self._before = computed

    def __call__(self, number: int) -> None:
        if self.cancelled.is_set():
            raise Cancelled("cancelled: the clicks are as they were, ask again or undo")
        self.progress("window", number - self._before)
