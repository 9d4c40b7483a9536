"""The single thread in which a model computes: sessions share its networks, and GPU tuning is specific to a thread.

Requests are answered fairly: quick ones (a further click, undo) go before other clients' slow ones (opening an image, a
first click), and are also answered between two windows of a slow one that has begun.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread, get_ident
from typing import Any, TypeVar

from nnsam3d.server.refusal import Refusal

T = TypeVar("T")
BUSY_SECONDS = 5  # Retry-After when the queue is full
LONGEST = 10.0  # seconds that quick jobs may delay a slow one; after that, both kinds take turns
SHARE = 2.0  # of quick jobs between two windows, in units of the time that the last window took

_Job = tuple[Callable[[], Any], "Future[Any]", float]


class Worker:
    """Runs jobs one at a time. The queue is bounded.

    Attributes:
        closed: whether it accepts no more jobs.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            limit: maximum number of waiting jobs.
        """
        self._limit, self._clock = limit, clock
        self._quick: deque[_Job] = deque()
        self._slow: deque[_Job] = deque()
        self._changed = Condition()  # guards the queues
        self.closed = False
        self._nested = False  # whether quick jobs run between two windows of a slow one
        self._resumed = 0.0  # when the running job began or continued
        self._slow_turn = False
        self._thread = Thread(target=self._run, name="nnsam3d-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._quick) + len(self._slow)

    def submit(self, job: Callable[[], T], quick: bool = False) -> Future[T]:
        """Queues a job.

        Raises:
            Refusal: the queue is full, or the server is stopping (503).
        """
        future: Future[T] = Future()
        with self._changed:
            if self.closed:
                raise Refusal(503, "the server is stopping")
            if self.waiting >= self._limit:
                busy = "the server is busy: too many requests are waiting"
                raise Refusal(503, busy, {"Retry-After": str(BUSY_SECONDS)})
            queue = self._quick if quick else self._slow
            queue.append((job, future, self._clock()))
            self._changed.notify()
        future.add_done_callback(lambda future: self._drop(queue, future) if future.cancelled() else None)
        return future

    def _drop(self, queue: deque[_Job], future: Future[Any]) -> None:
        """Removes a cancelled job, and what it holds, from the queue."""
        with self._changed:
            for one in [one for one in queue if one[1] is future]:
                queue.remove(one)

    def place(self, future: Future[Any]) -> int:
        """How many waiting jobs are before a job; 0 once it has begun."""
        with self._changed:
            order = [one for _, one, _ in (*self._quick, *self._slow)]
        return order.index(future) + 1 if future in order and not future.cancelled() else 0

    def let_others(self) -> None:
        """Called between two windows, in the model's thread: answers quick jobs; the slow one also moves on."""
        if self._nested or get_ident() != self._thread.ident:
            return
        now = self._clock()
        ends = now + SHARE * (now - self._resumed)
        self._nested = True
        try:
            for _ in range(len(self._quick)):  # not those that arrive meanwhile
                with self._changed:
                    job = self._quick.popleft() if self._quick else None
                if job is not None:
                    _perform(job)
                if self._clock() > ends:
                    break
        finally:
            self._nested = False
            self._resumed = self._clock()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self.waiting and not self.closed:
                    self._changed.wait()
                if self.closed:
                    return
                job = self._next()
            self._resumed = self._clock()
            _perform(job)
            del job  # frees what it holds

    def _next(self) -> _Job:
        overdue = bool(self._slow) and self._clock() - self._slow[0][2] > LONGEST
        slow = not self._quick or (overdue and self._slow_turn)
        self._slow_turn = not slow
        return (self._slow if slow else self._quick).popleft()

    def close(self) -> None:
        """Finishes the running job and cancels all others."""
        with self._changed:
            self.closed = True
            left = [*self._quick, *self._slow]
            self._quick.clear()
            self._slow.clear()
            self._changed.notify()
        for _, future, _ in left:
            future.cancel()
        self._thread.join()


def _perform(job: _Job) -> None:
    action, future, _ = job
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = action()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
