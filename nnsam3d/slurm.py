"""SLURM by its own commands: a readable script per array of jobs, sbatch to submit it, squeue to see what became of it.

A script's command is told to stop by SIGUSR1, some minutes before the time is up or when another job takes the machine.
If it ends with status 75 (``STOPPED``), or is ended by that signal, the job is put back into the queue: the command has
to go on where it was.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_json, write_text

NOTICE = "B:USR1@600"  # --signal: ten minutes before the end, to the script
# what a script decides itself
OWN = ("array", "output", "error", "job-name", "dependency", "open-mode", "requeue", "no-requeue", "parsable", "wrap")
EXPORTED = re.compile(r"(nnUNet_|nnsam3d|NNSAM3D|OMP_)")  # what a job needs to know, whatever the cluster passes on
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "REQUEUE_FED", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")

_SCRIPT = """\
#!/bin/bash
# {about}
# Written by nnsam3d. Submitted with:
#   {submitted}
#SBATCH --job-name={name}
#SBATCH --output="{log}"
#SBATCH --open-mode=append
#SBATCH --requeue
{options}

{exports}
cd {folder}

told=
trap 'told=1; kill -USR1 "$child" 2>/dev/null' USR1 TERM
{command} &
child=$!
# a signal ends "wait", not the command
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"; status=$?

# 75: told to stop, everything is saved. Back into the queue, to go on later
if [ "$status" -eq 75 ] || {{ [ -n "$told" ] && [ "$status" -gt 128 ]; }}; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}"
fi
exit "$status"
"""
SUBMITTED = "submitted.json"  # beside the scripts
NUMBER = '"$SLURM_ARRAY_TASK_ID"'  # in a command: which job of the array it is


def parse(text: str) -> tuple[str, ...]:
    """``"partition=gpu time=24:00:00 exclusive"`` as options of sbatch.

    Raises:
        UserError: an option that the scripts set themselves, or no option at all.
    """
    try:
        words = [word.removeprefix("--") for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"--slurm {text!r}: {error}") from None
    for word in words:
        name = word.partition("=")[0]
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise UserError(
                f'--slurm: {word!r} is no option of sbatch; write them as "partition=gpu gres=gpu:1 time=24:00:00"'
            )
        if name in OWN:
            raise UserError(f"--slurm: {name} is set by nnsam3d itself; leave it out")
    return tuple(f"--{word}" for word in words)


@dataclass(frozen=True)
class Script:
    """One array of jobs, or one job.

    Attributes:
        path: of the script; logs lie beside it, ``<stem>_<number>.log``.
        command: of the shell; an array's holds ``NUMBER``.
        options: of sbatch, see :func:`parse`.
        about: one line for whoever reads the script.
    """

    path: Path
    command: str
    options: tuple[str, ...]
    about: str

    def log(self, number: int | None = None) -> Path:
        """Of one job of the array; of the only one."""
        return self.path.with_name(f"{self.path.stem}.log" if number is None else f"{self.path.stem}_{number}.log")

    def sbatch(self, numbers: Sequence[int] = (), at_once: int = 0, after: str = "") -> list[str]:
        """The command that submits these numbers of the array (none: a single job).

        Args:
            at_once: at most so many jobs run at a time; 0 = as many as there is room for.
            after: a dependency; jobs for which it cannot come true any more are cancelled.
        """
        array = [f"--array={ranges(numbers)}{f'%{at_once}' if at_once else ''}"] if numbers else []
        dependency = [f"--dependency={after}", "--kill-on-invalid-dep=yes"] if after else []
        return ["sbatch", "--parsable", *array, *dependency, str(self.path)]

    def write(self, submitted: Sequence[str]) -> None:
        """
        Args:
            submitted: the command that will submit it, to be told in it.
        """
        array = "SLURM_ARRAY_TASK_ID" in self.command
        told = any(option.startswith("--signal=") for option in self.options)
        options = self.options if told else (*self.options, f"--signal={NOTICE}")
        exported = {key: value for key, value in sorted(os.environ.items()) if EXPORTED.match(key)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = _SCRIPT.format(
            about=self.about,
            submitted=shlex.join(submitted),
            name=f"nnsam3d-{self.path.stem}",
            log=self.path.with_name(f"{self.path.stem}_%a.log" if array else f"{self.path.stem}.log"),
            options="\n".join(f"#SBATCH {option}" for option in options),
            exports="\n".join(f"export {key}={shlex.quote(value)}" for key, value in exported.items()),
            folder=shlex.quote(os.getcwd()),
            command=self.command,
        )
        write_text(self.path, text)


@dataclass(frozen=True)
class Submission:
    """An array that was submitted, or a single job, without numbers. ``stage`` is the stem of its script."""

    stage: str
    id: str
    numbers: tuple[int, ...] = ()

    @property
    def jobs(self) -> dict[int | None, str]:
        """Number -> the job, as squeue names it."""
        return {number: f"{self.id}_{number}" for number in self.numbers} or {None: self.id}


@dataclass(frozen=True)
class Queue:
    """What was submitted with the scripts of a folder, and what SLURM says of it."""

    submissions: tuple[Submission, ...]
    states: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, folder: Path) -> Queue:
        """
        Raises:
            UserError: as :func:`states`.
        """
        found = tuple(Submission(one["stage"], one["id"], tuple(one["numbers"])) for one in _submitted(folder))
        return cls(found, states([one.id for one in found]))

    def state(self, stage: str, number: int | None = None) -> tuple[str, str, str]:
        """State, reason and array's id of the last submission of a job; empty where SLURM knows nothing of one."""
        for one in reversed(self.submissions):
            if one.stage == stage and number in one.jobs:
                return (*self.states.get(one.jobs[number], ("", "")), one.id)
        return "", "", ""

    def holds(self, stage: str, number: int | None = None) -> bool:
        """Whether a job waits or runs."""
        return self.state(stage, number)[0] in (*WAITING, *RUNNING)

    def active(self, stages: Sequence[str]) -> list[str]:
        """Ids of what waits or runs."""
        return [
            one.id
            for one in self.submissions
            if one.stage in stages
            and any(self.states.get(job, ("",))[0] in (*WAITING, *RUNNING) for job in one.jobs.values())
        ]


def ranges(numbers: Iterable[int]) -> str:
    """``0-2,5`` for 0, 1, 2, 5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


def submit(script: Script, numbers: Sequence[int] = (), at_once: int = 0, after: str = "") -> str:
    """Write the script, submit it, and remember that in the script's folder; the job's id.

    Raises:
        UserError: there is no SLURM here, or it refuses.
    """
    command = script.sbatch(numbers, at_once, after)
    script.write(command)
    job = _told(command).strip().partition(";")[0]  # a federation's name may follow
    # at once: what is submitted and not remembered would be submitted twice
    new = asdict(Submission(script.path.stem, job, tuple(numbers)))
    write_json(script.path.with_name(SUBMITTED), [*_submitted(script.path.parent), new])
    return job


def _submitted(folder: Path) -> list[dict[str, Any]]:
    path = folder / SUBMITTED
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def states(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """State and reason by job, ``<id>`` or ``<id>_<number>``, of those that the queue still knows.

    Raises:
        UserError: there is no SLURM here, or it does not answer.
    """
    if not ids:
        return {}
    command = ["squeue", "-h", "-r", "--states=all", "-o", "%i %T %r", "-j", ",".join(ids)]
    try:
        answer = _told(command)
    except UserError as error:
        if "Invalid job id" in str(error):  # of one job only: it was forgotten
            return {}
        raise
    found = [line.split(maxsplit=2) for line in answer.splitlines() if line.strip()]
    return {line[0]: (line[1], line[2] if len(line) > 2 else "") for line in found}


def _told(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on the PATH: run this on a machine of the cluster that submits jobs, or use --print "
            "and hand the commands to your own scheduler"
        )
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
