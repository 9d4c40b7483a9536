"""The interface for running the jobs of a benchmark, in processes on this machine or on a cluster.

A job is small, has a name, and can be repeated: existing results are not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nnsam3d.errors import UserError


@dataclass(frozen=True)
class Work:
    """One job.

    Attributes:
        name: describes the job to the user; suitable for file names.
        target, arguments: for a process on this machine: ``target(*arguments, slot)``.
        number: for another machine: ``nnsam3d benchmark worker --job <number>``.
    """

    name: str
    target: Callable[..., None] | None = None
    arguments: tuple[Any, ...] = ()
    number: int = -1


class Executor(Protocol):
    """Runs jobs: :class:`nnsam3d.evaluation.processes.Local`, :class:`nnsam3d.evaluation.cluster.Slurm`."""

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Runs the jobs, or submits them and returns.

        Returns:
            The jobs that are known to have failed: name -> reason.
        """


def raise_failures(failures: Mapping[str, str], total: int) -> None:
    """
    Raises:
        UserError: jobs have failed; the message lists their names, reasons and logs.
    """
    if failures:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise UserError(
            f"{len(failures)} of {total} jobs failed. All other results are kept: fix the cause and repeat the "
            f"command to continue.\n{reasons}"
        )
