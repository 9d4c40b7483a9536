"""What a long computation says about itself, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from nnsam3d.errors import UserError

Progress = Callable[[str, int], None]


class Cancelled(UserError):
    """A computation was stopped by :meth:`Session.cancel`."""


class Watch:
    """Hears of every window. Knows nothing of the session, whose image must go when the session goes.

    Every computation has a ticket, a number that counts up. Cancelling concerns all tickets handed out before. A
    computation that nobody has asked a ticket for takes one when it starts.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._lock = Lock()
        self._handed_out = 0  # the last ticket
        self._cancelled = 0  # the last ticket that was cancelled
        self._job: int | None = None  # ticket of the job that is being worked on
        self._running = 0  # ticket of the computation
        self._before = 0

    def ticket(self) -> int:
        """A ticket for a job that will run later."""
        with self._lock:
            self._handed_out += 1
            return self._handed_out

    def cancel(self) -> None:
        """Cancels all tickets handed out so far, those of running computations included."""
        with self._lock:
            self._cancelled = self._handed_out

    @contextmanager
    def computing(self, ticket: int) -> Iterator[None]:
        """Computations inside have this ticket. Raises :class:`Cancelled`: the ticket was cancelled."""
        self._check(ticket)
        outer, self._job = self._job, ticket
        try:
            yield
        finally:
            self._job = outer

    def start(self, computed: int) -> None:
        """A new computation, before which so many windows of the image were computed.

        Raises:
            Cancelled: its ticket was cancelled.
        """
        self._running = self.ticket() if self._job is None else self._job
        self._before = computed
        self._check(self._running)

    def __call__(self, number: int) -> None:
        self._check(self._running)
        self.progress("window", number - self._before)

    def _check(self, ticket: int) -> None:
        if ticket <= self._cancelled:
            raise Cancelled("cancelled: the clicks are as they were, ask again or undo")
