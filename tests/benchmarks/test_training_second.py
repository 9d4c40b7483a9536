"""The clock of benchmarks/training_second.py."""

from __future__ import annotations

import time

from benchmarks.training_second import Clock


def test_an_inner_part_does_not_count_for_the_outer_one() -> None:
    clock = Clock()
    sleep = clock.timed("inner", time.sleep)
    start = time.perf_counter()
    with clock.part("outer"):
        sleep(0.02)
        sleep(0.02)
        time.sleep(0.01)
    total = time.perf_counter() - start
    assert clock.calls == {"inner": 2, "outer": 1}
    assert clock.seconds["inner"] >= 0.04
    assert clock.seconds["outer"] >= 0.01
    assert clock.seconds.total() <= total
