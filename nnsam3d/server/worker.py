"""The single thread in which a model computes: sessions share its networks, and GPU tuning is specific to a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from nnsam3d.server.refusal import Refusal

T = TypeVar("T")
BUSY_SECONDS = 5  # Retry-After when the queue is full


class Worker:
    """Runs jobs one at a time in the order of submission. The queue is bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0
        self._lock = Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nnsam3d-model")

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queues a job. Raises Refusal (503) if the queue is full."""
        with self._lock:
            if self._waiting >= self._limit:
                busy = "the server is busy: too many requests are waiting"
                raise Refusal(503, busy, {"Retry-After": str(BUSY_SECONDS)})
            self._waiting += 1
        future = self._executor.submit(job)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Finishes the running job and cancels all others."""
        self._executor.shutdown(wait=True, cancel_futures=True)
