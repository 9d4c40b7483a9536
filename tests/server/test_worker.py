"""The queue of the model's thread: who is next, what is cancelled, what a running job lets through."""

from __future__ import annotations

import threading

import pytest

from nnsam3d.server.refusal import Refusal
from nnsam3d.server.worker import LONGEST, Worker

from .conftest import Gate


def test_quick_jobs_go_first_and_the_place_in_the_queue_is_known() -> None:
    worker, order = Worker(10), list[str]()
    gate = Gate(worker)
    jobs = [
        worker.submit(lambda name=name: order.append(name), quick=name.startswith("quick"))  # type: ignore[misc]
        for name in ("first 1", "quick 1", "first 2", "quick 2")
    ]
    assert [worker.place(job) for job in jobs] == [3, 1, 4, 2]
    assert worker.place(gate.future) == 0
    gate.over.set()
    for job in jobs:
        job.result(60)
    assert order == ["quick 1", "quick 2", "first 1", "first 2"]
    worker.close()


def test_slow_jobs_do_not_wait_for_ever() -> None:
    now = [0.0]
    worker, order = Worker(100, clock=lambda: now[0]), list[str]()
    gate = Gate(worker)
    slow = worker.submit(lambda: order.append("slow"))
    quick = [worker.submit(lambda: order.append("quick"), quick=True) for _ in range(20)]
    now[0] = LONGEST + 1
    gate.over.set()
    for job in (slow, *quick):
        job.result(60)
    assert order.index("slow") <= 1
    worker.close()


def test_quick_jobs_are_answered_between_two_windows_of_a_slow_one() -> None:
    """One after another, never inside each other; an error in one of them does not reach the slow job."""
    worker, order = Worker(10), list[str]()
    begun, sent = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert sent.wait(60)
        order.append("window 1")
        worker.let_others()
        order.append("window 2")
        worker.let_others()
        return "done"

    def quick() -> None:
        worker.let_others()  # it has windows, too
        order.append("quick")

    job = worker.submit(slow)
    assert begun.wait(60)
    waiting = [
        worker.submit(quick, quick=True),
        worker.submit(lambda: 1 // 0, quick=True),
        worker.submit(quick, quick=True),
    ]
    other = worker.submit(lambda: order.append("another slow one"))
    sent.set()
    assert job.result(60) == "done"
    other.result(60)
    assert order == ["window 1", "quick", "quick", "window 2", "another slow one"]
    with pytest.raises(ZeroDivisionError):
        waiting[1].result(60)
    worker.let_others()  # from another thread it does nothing
    worker.close()


def test_cancelled_jobs_are_not_begun() -> None:
    worker, done = Worker(10), list[int]()
    gate = Gate(worker)
    job = worker.submit(lambda: done.append(1))
    assert job.cancel()
    assert worker.place(job) == 0
    gate.over.set()
    worker.submit(lambda: None).result(60)
    assert not done
    worker.close()


def test_the_queue_is_bounded_and_closed() -> None:
    worker = Worker(2)
    gate = Gate(worker)
    left = [worker.submit(lambda: None) for _ in range(2)]
    with pytest.raises(Refusal, match="busy") as refusal:
        worker.submit(lambda: None)
    assert refusal.value.status == 503
    closing = threading.Thread(target=worker.close)
    closing.start()
    gate.over.set()
    closing.join(60)
    assert all(job.cancelled() or job.done() for job in left)
    with pytest.raises(Refusal, match="stopping"):
        worker.submit(lambda: None)
