"""Jobs side by side, each in a fresh process: what one holds or breaks is gone with it."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_text


def run_side_by_side(
    tasks: Mapping[str, tuple[Any, ...]],
    target: Callable[..., None],
    slots: Sequence[str],
    logs: Path,
    tick: Callable[[], None],
) -> None:
    """``target(*task, slot)`` for every task, each in a free slot; one that fails does not keep others from running.

    Args:
        tasks: by a name that tells the user what it is, and may be a file's.
        slots: what a task has to itself while it runs: the name of a device, as often as it takes tasks at a time.
        logs: folder for what failed tasks said, ``failed_<name>.txt``.
        tick: called again and again while they run; it is what waits.

    Raises:
        UserError: after all have ended, if some have failed; names them, what they said and where more stands.
    """
    waiting, free = list(tasks), list(slots)
    running: dict[str, tuple[BaseProcess, str]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                name, slot = waiting.pop(0), free.pop(0)
                _log(logs, name).unlink(missing_ok=True)
                running[name] = start(_guarded, (target, (*tasks[name], slot), _log(logs, name))), slot
            ended = [name for name, (process, _) in running.items() if not process.is_alive()]
            tick()  # after that look: all that they did is seen
            for name in ended:
                process, slot = running.pop(name)
                free.append(slot)
                if process.exitcode:
                    failed[name] = _reason(_log(logs, name), process.exitcode)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
    if failed:
        told = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {len(tasks)} jobs failed. Nothing that was done is lost: mend this, and the same "
            f"command goes on where it was.\n{told}"
        )


def start(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    """A fresh process: one that was forked could not use CUDA."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def orphaned() -> bool:
    """Whether the command that began this process was killed: whoever gives it again shall not find it at work."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _guarded(target: Callable[..., None], task: tuple[Any, ...], log: Path) -> None:
    try:
        target(*task)
    except Exception as error:
        log.parent.mkdir(parents=True, exist_ok=True)
        known = isinstance(error, UserError)
        write_text(log, str(error) if known else f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # the process that waits for this one tells of it
        raise SystemExit(130) from None


def _log(logs: Path, name: str) -> Path:
    return logs / f"failed_{name}.txt"


def _reason(log: Path, status: int) -> str:
    if log.is_file():
        return f"{log.read_text(encoding='utf-8').splitlines()[0]}    ({log})"
    if status == -signal.SIGKILL:
        return "killed by the system, most likely because memory ran out: give it fewer --jobs"
    return f"ended with status {status} and said nothing"
