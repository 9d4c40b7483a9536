"""Learning in the background: one round at a time, which stands still while somebody waits for an answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnsam3d.learning.record import read_record
from nnsam3d.server.learner import Learner

from .conftest import until

ROUND = """
import sys, time
from pathlib import Path
from nnsam3d.learning.record import Record, Round, read_record
from dataclasses import replace
own = Path(sys.argv[sys.argv.index("-o") + 1])
for number in range({ticks}):
    time.sleep(0.02)
    (own / "ticks").write_text(str(number))
record = read_record(own) or Record("m", "0")
replace(record, rounds=(*record.rounds, Round("now", 1, 1.0, 1, None, None, True))).write(own)
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Learner]:
    def made(code: str, changed: Callable[[], None] = lambda: None) -> Learner:
        learner = Learner([], tmp_path, changed)
        learner._command = [sys.executable, "-c", code, "-o", str(tmp_path)]
        return learner

    return made


def test_what_is_saved_during_a_round_is_for_the_next_one(make: Callable[..., Learner], tmp_path: Path) -> None:
    changes: list[int] = []
    learner = make(ROUND.format(ticks=5), lambda: changes.append(1))
    for _ in range(5):
        learner.case_saved()
    until(lambda: len(changes) == 2 and not learner.learns)
    time.sleep(0.2)
    record = read_record(tmp_path)
    assert record is not None
    assert len(record.rounds) == len(changes) == 2
    assert learner.said == record.rounds[-1].describe()


def test_it_stands_still_while_somebody_waits(make: Callable[..., Learner], tmp_path: Path) -> None:
    learner = make(ROUND.format(ticks=100_000))
    learner.case_saved()
    ticks = tmp_path / "ticks"
    until(ticks.is_file)
    with learner.paused():
        with learner.paused():
            pass
        time.sleep(0.1)
        before = ticks.read_text()
        time.sleep(0.3)
        assert ticks.read_text() == before
    until(lambda: ticks.read_text() not in ("", before))
    process = learner._process
    assert process is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) > 10
    with learner.paused():  # also ends while it stands still
        learner.close()
    assert process.poll() is not None
    learner.case_saved()
    until(lambda: not learner.learns)


def test_a_failed_round_says_why_and_the_next_one_runs(make: Callable[..., Learner], tmp_path: Path) -> None:
    learner = make("raise SystemExit('no finished case to learn from')")
    learner.case_saved()
    until(lambda: learner.said)
    assert learner.said == "learning failed: no finished case to learn from"
    learner._command[2] = ROUND.format(ticks=1)
    learner.case_saved()
    until(lambda: "learned" in learner.said)
