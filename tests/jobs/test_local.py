"""Jobs side by side: all run, failures are told at the end, and a killed one does not hang the rest."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from nnsam3d.errors import UserError
from nnsam3d.jobs.local import run_here, visible_gpu

# `exec` is the target: a fresh process cannot import a test module. A slot is what its code sees as globals
SLOTS = [{"device": "gpu:0"}, {"device": "gpu:1"}]
TROUBLE = {
    "user": "from nnsam3d.errors import UserError; raise UserError('case b: no such thing')",
    "bug": "raise ValueError('of no value')",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


def touch(path: Path) -> tuple[str]:
    return (f"from pathlib import Path; Path({str(path)!r}).touch()",)


def test_all_are_run(tmp_path):
    tasks = {name: touch(tmp_path / name) for name in "abc"}
    run_here(exec, tasks, SLOTS, tmp_path / "logs", lambda: time.sleep(0.02))
    assert {path.name for path in tmp_path.iterdir()} == set("abc")


def test_a_slot_has_one_job_at_a_time(tmp_path):
    told = tmp_path / "told"
    code = (
        "import time\n"
        f"with open({str(told)!r}, 'a') as file: file.write(f'begin {{device}}\\n')\n"
        "time.sleep(0.2)\n"
        f"with open({str(told)!r}, 'a') as file: file.write(f'end {{device}}\\n')\n"
    )
    run_here(exec, dict.fromkeys("abcd", (code,)), SLOTS, tmp_path / "logs", lambda: time.sleep(0.02))
    lines = told.read_text().splitlines()
    for slot in SLOTS:
        own = [line.split()[0] for line in lines if line.endswith(slot["device"])]
        assert own == ["begin", "end"] * (len(own) // 2)
        assert own
    assert len(lines) == 8


def test_failures_are_told_after_the_others_are_done(tmp_path):
    tasks = {name: (code,) for name, code in TROUBLE.items()} | {"fine": touch(tmp_path / "fine")}
    with pytest.raises(UserError) as caught:
        run_here(exec, tasks, SLOTS, tmp_path / "logs", lambda: time.sleep(0.02))
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
        run_here(time.sleep, {"a": ()}, [60], tmp_path, interrupt)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("device", "visible", "wanted"),
    [
        ("cuda:1", None, "1"),
        ("cuda:0", "3", "3"),
        ("cuda:1", "GPU-a,GPU-b,", "GPU-b"),
        ("cuda", "3", None),
        ("cpu", None, None),
    ],
)
def test_gpus_are_counted_among_those_that_this_process_sees(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, wanted: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpu(device) == ({} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted})
