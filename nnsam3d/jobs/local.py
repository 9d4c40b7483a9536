"""Functions in parallel on this machine, each in a new process: memory and failures of one do not affect others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_text


def run_here(
    target: Callable[..., None],
    tasks: Mapping[str, tuple[Any, ...]],
    slots: Sequence[Any],
    logs: Path,
    on_progress: Callable[[], None],
) -> None:
    """Runs ``target(*task, slot)`` for every task in a free slot; a failing task does not affect the others.

    Args:
        tasks: arguments by name. Tasks can be repeated: existing results are not computed again.
        slots: each running task occupies one: the name of a device, repeated for each task that it runs at a time.
        logs: folder for the errors of failed tasks, see :func:`failure_file`.
        on_progress: called repeatedly while tasks run; it must wait a moment.

    Raises:
        UserError: tasks have failed; raised after all others. The message lists their names, reasons and logs.
    """
    waiting, free = list(tasks), list(slots)
    running: dict[str, tuple[BaseProcess, Any]] = {}
    failures: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                name, slot = waiting.pop(0), free.pop(0)
                log = failure_file(logs, name)
                log.unlink(missing_ok=True)
                running[name] = start(_guarded, (target, (*tasks[name], slot), log)), slot
            ended = [name for name, (process, _) in running.items() if not process.is_alive()]
            on_progress()  # after checking, so that it sees all results of the tasks that have ended
            for name in ended:
                process, slot = running.pop(name)
                free.append(slot)
                if process.exitcode:
                    failures[name] = _reason(failure_file(logs, name), process.exitcode)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
    if failures:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise UserError(
            f"{len(failures)} of {len(tasks)} jobs failed. All other results are kept: fix the cause and repeat the "
            f"command to continue.\n{reasons}"
        )


def start(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    """Start a new process; not forked, because forked processes cannot use CUDA."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def visible_gpu(device: str) -> dict[str, str]:
    """The environment variable with which a new process sees only one of the GPUs that this one sees: it cannot be told
    a number. Nothing for other devices, and for one without a number.

    >>> visible_gpu("cpu"), visible_gpu("cuda")
    ({}, {})
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return {}
    # this process may see only some itself, counted from 0: the variable names them, by numbers or otherwise
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": seen[int(number)] if seen else number}


def orphaned() -> bool:
    """Whether the parent command was killed. A repeated command must not compete with processes of the first one."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _guarded(target: Callable[..., None], task: tuple[Any, ...], log: Path) -> None:
    try:
        target(*task)
    except Exception as error:
        remember_failure(log, error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # reported by the parent process
        raise SystemExit(130) from None


def failure_file(logs: Path, name: str) -> Path:
    """The error of a failed job; its first line is the reason."""
    return logs / f"failed_{name}.txt"


def remember_failure(log: Path, error: Exception) -> None:
    """Write the message of a UserError, or any other error with its traceback."""
    log.parent.mkdir(parents=True, exist_ok=True)
    known = isinstance(error, UserError)
    write_text(log, str(error) if known else f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")


def _reason(log: Path, status: int) -> str:
    if log.is_file():
        return f"{log.read_text(encoding='utf-8').splitlines()[0]}    ({log})"
    if status == -signal.SIGKILL:
        return "killed by the system, probably because memory ran out: use fewer --jobs"
    return f"ended with status {status} without a message"
