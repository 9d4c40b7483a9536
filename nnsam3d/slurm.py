"""SLURM through its own commands: a readable script per job array, sbatch to submit it, squeue for the state of jobs.

The command of a script receives SIGUSR1 some minutes before the time limit, or on preemption. If it ends with status 75
(``STOPPED``) or is terminated by that signal, the job is requeued. The command must then continue where it stopped.
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

NOTICE = "B:USR1@600"  # --signal: to the script, ten minutes before the time limit
# options that the scripts set themselves
OWN = ("array", "output", "error", "job-name", "dependency", "open-mode", "requeue", "no-requeue", "parsable", "wrap")
EXPORTED = re.compile(r"(nnUNet_|nnsam3d|NNSAM3D|OMP_)")  # variables for jobs, even if the cluster passes on none
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

signalled=
trap 'signalled=1; kill -USR1 "$child" 2>/dev/null' USR1 TERM
{command} &
child=$!
[ -z "$signalled" ] || kill -USR1 "$child" 2>/dev/null  # it came before the number was known
# a signal interrupts "wait", not the command
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"; status=$?

# 75: stopped by a signal and saved. Requeue the job, to continue later
if [ "$status" -eq 75 ] || {{ [ -n "$signalled" ] && [ "$status" -gt 128 ]; }}; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}"
fi
exit "$status"
"""
SUBMITTED = "submitted.json"  # beside the scripts
NUMBER = '"$SLURM_ARRAY_TASK_ID"'  # in a command: the number of the array task


def parse(text: str) -> tuple[str, ...]:
    """``"partition=gpu time=24:00:00 exclusive"`` as options of sbatch.

    Raises:
        UserError: an option that the scripts set themselves, or a word that is not an option.
    """
    try:
        words = [word.removeprefix("--") for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"--slurm {text!r}: {error}") from None
    for word in words:
        name = word.partition("=")[0]
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise UserError(
                f'--slurm: {word!r} is not an option of sbatch; write options as "partition=gpu gres=gpu:1 '
                'time=24:00:00"'
            )
        if name in OWN:
            raise UserError(f"--slurm: {name} is set by nnsam3d itself; omit it")
    return tuple(f"--{word}" for word in words)


def _quoted(option: str) -> str:
    """An option for a line of a script, where sbatch splits at spaces, and honours quotes and backslashes."""
    name, equals, value = option.partition("=")
    if not re.search(r"[\s\"'\\#]", value):
        return option
    if "\n" in value:
        raise UserError(f"--slurm: the value of {name.removeprefix('--')} must be one line")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def exports() -> list[str]:
    """Shell commands that set the variables of nnU-Net and nnsam3d as they are now."""
    exported = {key: value for key, value in sorted(os.environ.items()) if EXPORTED.match(key)}
    return [f"export {key}={shlex.quote(value)}" for key, value in exported.items()]


@dataclass(frozen=True)
class Script:
    """One array of jobs, or one job.

    Attributes:
        path: the script; its logs are beside it, ``<stem>_<number>.log``.
        command: shell command; for an array, it contains ``NUMBER``.
        options: options of sbatch, see :func:`parse`.
        about: one-line description, written into the script.
    """

    path: Path
    command: str
    options: tuple[str, ...]
    about: str

    def log(self, number: int | None = None) -> Path:
        """The log of one array task, or of a single job."""
        return self.path.with_name(f"{self.path.stem}.log" if number is None else f"{self.path.stem}_{number}.log")

    def sbatch(self, numbers: Sequence[int] = (), at_once: int = 0, after: str = "") -> list[str]:
        """The command that submits these numbers of the array (none: a single job).

        Args:
            at_once: maximum number of running jobs; 0 = no limit.
            after: a dependency; jobs whose dependency can no longer be satisfied are cancelled.
        """
        array = [f"--array={ranges(numbers)}{f'%{at_once}' if at_once else ''}"] if numbers else []
        dependency = [f"--dependency={after}", "--kill-on-invalid-dep=yes"] if after else []
        return ["sbatch", "--parsable", *array, *dependency, str(self.path)]

    def write(self, submitted: Sequence[str]) -> None:
        """
        Args:
            submitted: the command that submits the script, written into it as a comment.
        """
        array = "SLURM_ARRAY_TASK_ID" in self.command
        given = any(option.startswith("--signal=") for option in self.options)
        options = self.options if given else (*self.options, f"--signal={NOTICE}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = _SCRIPT.format(
            about=self.about,
            submitted=shlex.join(submitted),
            name=f"nnsam3d-{self.path.stem}",
            log=self.path.with_name(f"{self.path.stem}_%a.log" if array else f"{self.path.stem}.log"),
            options="\n".join(f"#SBATCH {_quoted(option)}" for option in options),
            exports="\n".join(exports()),
            folder=shlex.quote(os.getcwd()),
            command=self.command,
        )
        write_text(self.path, text)


@dataclass(frozen=True)
class Submission:
    """A submitted array, or a single job (without numbers). ``stage`` is the stem of its script."""

    stage: str
    id: str
    numbers: tuple[int, ...] = ()

    @property
    def jobs(self) -> dict[int | None, str]:
        """Number -> the name of the job in squeue."""
        return {number: f"{self.id}_{number}" for number in self.numbers} or {None: self.id}


@dataclass(frozen=True)
class Queue:
    """The submissions of the scripts in a folder, and their states in SLURM."""

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
        """State, reason and array id of the last submission of a job; empty strings if SLURM does not know it."""
        for one in reversed(self.submissions):
            if one.stage == stage and number in one.jobs:
                return (*self.states.get(one.jobs[number], ("", "")), one.id)
        return "", "", ""

    def holds(self, stage: str, number: int | None = None) -> bool:
        """Whether a job is waiting or running."""
        return self.state(stage, number)[0] in (*WAITING, *RUNNING)

    def active(self, stages: Sequence[str]) -> list[str]:
        """The ids of waiting or running submissions."""
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
    """Write the script, submit it, and record the submission in the script's folder; returns the job id.

    Raises:
        UserError: SLURM is not available, or it refuses the job.
    """
    command = script.sbatch(numbers, at_once, after)
    script.write(command)
    job = _output_of(command).strip().partition(";")[0]  # the name of a cluster may follow
    # recorded immediately, because an unrecorded job would be submitted twice
    new = asdict(Submission(script.path.stem, job, tuple(numbers)))
    write_json(script.path.with_name(SUBMITTED), [*_submitted(script.path.parent), new])
    return job


def _submitted(folder: Path) -> list[dict[str, Any]]:
    path = folder / SUBMITTED
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def states(ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """State and reason by job, ``<id>`` or ``<id>_<number>``, for the jobs that squeue still lists.

    Raises:
        UserError: SLURM is not available, or it does not answer.
    """
    if not ids:
        return {}
    command = ["squeue", "-h", "-r", "--states=all", "-o", "%i %T %r", "-j", ",".join(ids)]
    try:
        answer = _output_of(command)
    except UserError as error:
        if "Invalid job id" in str(error):  # squeue reports this only for a single id that it no longer lists
            return {}
        raise
    found = [line.split(maxsplit=2) for line in answer.splitlines() if line.strip()]
    return {line[0]: (line[1], line[2] if len(line) > 2 else "") for line in found}


def _output_of(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on the PATH: run this on a machine that can submit jobs, or use --print "
            "and submit the commands to another scheduler"
        )
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
