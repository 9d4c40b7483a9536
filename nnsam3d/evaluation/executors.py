"""Who runs the jobs of a benchmark: this machine's processes, or a cluster.

A job is small, has a name, and may be done again: what is there already is not computed twice.
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
        name: tells the user what it is, and may be a file's.
        target, arguments: for a process of this machine: ``target(*arguments, slot)``.
        number: for a process elsewhere: ``nnsam3d benchmark worker --job <number>``.
    """

    name: str
    target: Callable[..., None] | None = None
    arguments: tuple[Any, ...] = ()
    number: int = -1


class Executor(Protocol):
    """What runs jobs: :class:`nnsam3d.evaluation.processes.Local`, :class:`nnsam3d.evaluation.cluster.Slurm`."""

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Runs the jobs, or hands them over and returns.

        Returns:
            What is known to have failed: name -> reason.
        """


def raise_failures(failures: Mapping[str, str], total: int) -> None:
    """
    Raises:
        UserError: if jobs have failed; names them, what they said and where more stands.
    """
    if failures:
        told = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise UserError(
            f"{len(failures)} of {total} jobs failed. Nothing that was done is lost: mend this, and the same "
            f"command goes on where it was.\n{told}"
        )
