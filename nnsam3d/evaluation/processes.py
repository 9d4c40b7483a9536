"""Jobs in parallel on this machine, each in a new process, so that memory and failures of one do not affect others."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.evaluation.executors import Work
from nnsam3d.files import write_text


@dataclass(frozen=True)
class Local:
    """Runs jobs on this machine; see :class:`nnsam3d.evaluation.executors.Executor`.

    Attributes:
        slots: each running job occupies one: the name of a device, repeated for each job that it runs at a time.
        logs: folder for the errors of failed jobs, ``failed_<name>.txt``.
    """

    slots: Sequence[Any]
    logs: Path

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Runs each job in a free slot; a failing job does not affect the others.

        Args:
            on_progress: called repeatedly while jobs run; it must wait a moment.

        Returns:
            Failed jobs by name: the reason and the log.
        """
        waiting, free = list(jobs), list(self.slots)
        running: dict[str, tuple[BaseProcess, Any]] = {}
        failures: dict[str, str] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    log = failure_file(self.logs, job.name)
                    log.unlink(missing_ok=True)
                    running[job.name] = start(_guarded, (job.target, (*job.arguments, slot), log)), slot
                ended = [name for name, (process, _) in running.items() if not process.is_alive()]
                on_progress()  # after checking, so that it sees all results of the jobs that have ended
                for name in ended:
                    process, slot = running.pop(name)
                    free.append(slot)
                    if process.exitcode:
                        failures[name] = _reason(failure_file(self.logs, name), process.exitcode)
        finally:
            for process, _ in running.values():
                process.terminate()
                process.join()
        return failures


def start(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    """Start a new process; not forked, because forked processes cannot use CUDA."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


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
