"""Jobs side by side: all run, failures are told at the end, and a killed one does not hang the rest."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from nnsam3d.errors import UserError
from nnsam3d.evaluation.processes import run_side_by_side

# `exec` is the target: a fresh process cannot import a test module
TROUBLE = {
    "user": "from nnsam3d.errors import UserError; raise UserError('case b: no such thing')",
    "bug": "raise ValueError('of no value')",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


def touch(path: Path) -> tuple[str]:
    return (f"from pathlib import Path; Path({str(path)!r}).touch()",)


def test_all_are_run(tmp_path):
    tasks = {name: touch(tmp_path / name) for name in "abc"}
    run_side_by_side(tasks, exec, 2, tmp_path / "logs", lambda: time.sleep(0.02))
    assert {path.name for path in tmp_path.iterdir()} == set("abc")


def test_failures_are_told_after_the_others_are_done(tmp_path):
    tasks = {name: (code,) for name, code in TROUBLE.items()} | {"fine": touch(tmp_path / "fine")}
    with pytest.raises(UserError) as caught:
        run_side_by_side(tasks, exec, 2, tmp_path / "logs", lambda: time.sleep(0.02))
    assert (tmp_path / "fine").exists()
    text = str(caught.value)
    assert "3 of 4 jobs failed" in text
    assert "user: case b: no such thing" in text
    assert "bug: ValueError: of no value" in text
    assert "kill: killed by the system" in text
    assert "line 1, in <module>" in (tmp_path / "logs/failed_bug.txt").read_text(), "the traceback is kept"


def test_an_interruption_ends_what_runs(tmp_path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side({"a": (60,)}, time.sleep, 1, tmp_path, interrupt)
    assert not multiprocessing.active_children()
