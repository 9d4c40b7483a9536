"""Jobs side by side on this machine, each in a fresh process: what one holds or breaks is gone with it."""

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
    """The executor of one machine; see :class:`nnsam3d.evaluation.executors.Executor`.

    Attributes:
        slots: what a job has to itself while it runs: the name of a device, as often as it takes jobs at a time.
        logs: folder for what failed jobs said, ``failed_<name>.txt``.
    """

    slots: Sequence[Any]
    logs: Path

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Each job in a free slot; one that fails does not keep others from running.

        Args:
            on_progress: called again and again while they run; it is what waits.

        Returns:
            Failed jobs by name: what they said, and where more stands.
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
                on_progress()  # after that look: all that they did is seen
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
        remember_failure(log, error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # the process that waits for this one tells of it
        raise SystemExit(130) from None


def failure_file(logs: Path, name: str) -> Path:
    """What a failed job said; its first line is the reason."""
    return logs / f"failed_{name}.txt"


def remember_failure(log: Path, error: Exception) -> None:
    """An error of ours by its message, another one with where it happened."""
    log.parent.mkdir(parents=True, exist_ok=True)
    known = isinstance(error, UserError)
    write_text(log, str(error) if known else f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")


def _reason(log: Path, status: int) -> str:
    if log.is_file():
        return f"{log.read_text(encoding='utf-8').splitlines()[0]}    ({log})"
    if status == -signal.SIGKILL:
        return "killed by the system, most likely because memory ran out: give it fewer --jobs"
    return f"ended with status {status} and said nothing"
