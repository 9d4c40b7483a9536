"""Where jobs run: one interface for `benchmark run`, `cluster train` and `predict`.

A back end for several machines is one file in this folder with a subclass of :class:`BackEnd`, for example `slurm.py`.
The commands find it by themselves. `local.py` runs Python functions on this machine instead.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = '"$NUMBER"'  # in a shell command: the number of the job
EXPORTED = re.compile(r"(nnUNet_|nnsam3d|NNSAM3D(?!_KEY$)|OMP_)")
"""Variables for jobs, even if the cluster passes on none. The key of `serve` is a secret, and no job needs it."""
WHEN = {"each": "the job of the same number has succeeded", "ok": "all have succeeded", "any": "all have ended"}


@dataclass(frozen=True)
class ShellJob:
    """A shell command, run once or as an array of numbered jobs.

    Attributes:
        name: of its script and logs; a later job of the same name repeats it.
        command: it continues existing work if it is run again. In an array, it contains ``NUMBER``.
        about: one line, such as "3 part(s)".
        numbers: the numbers of an array, and what each of them does. Empty: a single job.
        first: added to a number where the command contains ``NUMBER``.
        after, when: the ids of earlier jobs, and when this one may start, see ``WHEN``.
    """

    name: str
    command: str
    about: str
    numbers: Mapping[int, str] = field(default_factory=dict)
    first: int = 0
    after: Sequence[str] = ()
    when: str = "any"


@dataclass(frozen=True)
class JobState:
    """
    Attributes:
        kind: "waiting", "running", "failed", "cancelled", or "": ended normally, or unknown.
        about: why it waits or has failed, or the log of a running job.
        id: of the submission.
    """

    kind: str = ""
    about: str = ""
    id: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the job is waiting or running."""
        return self.kind in ("waiting", "running")


class BackEnd(ABC):
    """Submits jobs. ``messages`` is what the user has to read about it, for standard output."""

    messages: list[str]

    @staticmethod
    @abstractmethod
    def add_arguments(parser: argparse._ActionsContainer) -> None:
        """Its options of the commands; they have no effect unless the user gives them."""

    @classmethod
    @abstractmethod
    def chosen(cls, args: argparse.Namespace, folder: Path) -> BackEnd | None:
        """The back end, if the user has chosen it. Its scripts, records and logs are in ``folder``.

        Raises:
            UserError: a wrong option.
        """

    @classmethod
    def found(cls, folder: Path) -> BackEnd | None:
        """The back end, if it has submitted jobs from this folder."""
        return None

    @abstractmethod
    def submit(self, job: ShellJob) -> str:
        """Returns the id, for :attr:`ShellJob.after`.

        Raises:
            UserError: the job is refused.
        """

    def state(self, name: str, number: int | None = None) -> JobState:
        """The state of the last submission of a job, as it was when the back end was first asked.

        Raises:
            UserError: the back end does not answer.
        """
        return JobState()

    def active(self, *names: str) -> list[str]:
        """The ids of all submissions of these names that are waiting or running.

        Raises:
            UserError: as :meth:`state`.
        """
        return []


class Printed(BackEnd):
    """Submits nothing: the commands are for another scheduler, or a shell loop."""

    def __init__(self) -> None:
        self.messages = []

    @staticmethod
    def add_arguments(parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--print",
            action="store_true",
            help="submit nothing: print the commands, for any scheduler. With --slurm: write the scripts and print the "
            "sbatch commands",
        )

    @classmethod
    def chosen(cls, args: argparse.Namespace, folder: Path) -> BackEnd | None:
        return cls() if args.print else None

    def submit(self, job: ShellJob) -> str:
        if not self.messages:
            self.messages += [*exports(), "# exit status 75: stopped by SIGUSR1 or SIGTERM and saved; start it again"]
        self.messages.append(f"# {job.about}{f', after {WHEN[job.when]}' if job.after else ''}")
        for number, about in job.numbers.items():
            command = job.command.replace(NUMBER, str(job.first + number))
            self.messages.append(f"{command}{about and f'    # {about}'}")
        if not job.numbers:
            self.messages.append(job.command)
        return job.name


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """The options of all back ends."""
    for kind in back_ends():
        kind.add_arguments(parser)


def chosen(args: argparse.Namespace, folder: Path) -> BackEnd | None:
    """The back end that the user has chosen, see :meth:`BackEnd.chosen`; None: none, the jobs run here."""
    return next(filter(None, (kind.chosen(args, folder) for kind in back_ends())), None)


def found(folder: Path) -> BackEnd:
    """The back end that has submitted jobs from a folder; one that knows of none if there is no such."""
    return next(filter(None, (kind.found(folder) for kind in back_ends())), Printed())


def back_ends() -> list[type[BackEnd]]:
    """All back ends in this folder; the last one prints."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    own = [kind for kind in BackEnd.__subclasses__() if kind.__module__.startswith(__name__)]
    return sorted(own, key=lambda kind: kind is Printed)


def exports() -> list[str]:
    """Shell commands that set the variables of nnU-Net and nnsam3d as they are now."""
    exported = {key: value for key, value in sorted(os.environ.items()) if EXPORTED.match(key)}
    return [f"export {key}={shlex.quote(value)}" for key, value in exported.items()]
