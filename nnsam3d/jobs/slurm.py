"""SLURM through its own commands: a readable script per job array, sbatch to submit it, squeue for the state of jobs.

The command of a script receives SIGUSR1 some minutes before the time limit, or on preemption. If it ends with status 75
(``STOPPED``) or is terminated by that signal, the job is requeued. The command must then continue where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_json, write_text
from nnsam3d.jobs import NUMBER, BackEnd, JobState, ShellJob, exports

NOTICE = 600  # seconds before the time limit at which the script is told; with a short limit, a quarter of that
# options that the scripts set themselves
OWN = ("array", "output", "error", "job-name", "dependency", "open-mode", "requeue", "no-requeue", "parsable", "wrap")
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

# 75: stopped by a signal and saved. Requeue the job, to continue later; Incomplete: not if it was cancelled
if [ "$status" -eq 75 ] || {{ [ -n "$signalled" ] && [ "$status" -gt 128 ]; }}; then
  if [ "$SECONDS" -lt 120 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -ge 2 ]; then
    echo "nnsam3d: stopped again within two minutes: is the time limit shorter than the notice before it?" \
      'Ask for more time (time=1:00:00) or a shorter notice (signal=B:USR1@60)' >&2
  else
    job="${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}"
    scontrol requeue Incomplete "$job"
  fi
fi
exit "$status"
"""
SUBMITTED = "submitted.json"  # beside the scripts
DEPENDENCY = {"each": "aftercorr", "ok": "afterok", "any": "afterany"}


class Slurm(BackEnd):
    """Submits scripts in a folder, where the logs are written and the submissions are recorded, too."""

    def __init__(self, folder: Path, options: tuple[str, ...] = (), at_once: int = 0, only_print: bool = False) -> None:
        """
        Args:
            options: options of sbatch, see :func:`parse`.
            at_once: maximum number of running jobs of an array; 0 = no limit.
            only_print: write the scripts and print the commands of sbatch. The queue is then not asked.
        """
        self.folder, self.options, self.at_once, self.only_print = folder, options, at_once, only_print
        self.messages = []

    @staticmethod
    def add_arguments(parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--slurm", metavar="TEXT", help='submit jobs with these options of sbatch, e.g. "partition=gpu gres=gpu:1"'
        )
        parser.add_argument("--slurm-max", type=int, default=0, metavar="N", help="maximum jobs at a time per array")

    @classmethod
    def chosen(cls, args: argparse.Namespace, folder: Path) -> BackEnd | None:
        return None if args.slurm is None else cls(folder, parse(args.slurm), args.slurm_max, args.print)

    @classmethod
    def found(cls, folder: Path) -> BackEnd | None:
        return cls(folder) if (folder / SUBMITTED).is_file() else None

    def submit(self, job: ShellJob) -> str:
        dependency = f"{DEPENDENCY[job.when]}:{':'.join(job.after)}" if job.after else ""
        array = f"--array={ranges(job.numbers)}{f'%{self.at_once}' if self.at_once else ''}" if job.numbers else ""
        # a job whose dependency can no longer be satisfied is cancelled
        waits = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        script = self.folder / f"{job.name}.sh"
        command = ["sbatch", "--parsable", *([array] if array else []), *waits, str(script)]
        self._write(script, job, command)
        if self.only_print:
            shown = shlex.join(command).replace(f"'--dependency={dependency}'", f'"--dependency={dependency}"')
            self.messages.append(f"{job.name}=$({shown}) && echo ${job.name}    # {job.about}")
            return f"${job.name}"
        earlier = self._submissions()
        id_ = _output_of(command).strip().partition(";")[0]  # the name of a cluster may follow
        # recorded immediately, because an unrecorded job would be submitted twice
        write_json(self.folder / SUBMITTED, [*earlier, {"stage": job.name, "id": id_, "numbers": list(job.numbers)}])
        log = self.log(job.name, "<number>" if job.numbers else None)
        self.messages.append(f"nnsam3d: submitted {job.about} as {id_}{dependency and f', {dependency}'}; log: {log}")
        return id_

    def log(self, name: str, number: int | str | None = None) -> Path:
        """The log of a single job, or of one job of an array."""
        return self.folder / (f"{name}.log" if number is None else f"{name}_{number}.log")

    def state(self, name: str, number: int | None = None) -> JobState:
        submissions, states = self._queue
        for one in reversed(submissions):
            jobs = _jobs(one)
            if one["stage"] == name and number in jobs:
                state, reason = states.get(jobs[number], ("", ""))
                why = "" if reason == "None" else reason
                if state in WAITING:
                    return JobState("waiting", why, one["id"])
                if state in RUNNING:
                    return JobState("running", str(self.log(name, number)), one["id"])
                if state in ("", "COMPLETED"):
                    return JobState("", "", one["id"])
                about = f"SLURM: {state} {why}".rstrip() + f"    ({self.log(name, number)})"
                return JobState("cancelled" if state == "CANCELLED" else "failed", about, one["id"])
        return JobState()

    def active(self, *names: str) -> list[str]:
        submissions, states = self._queue
        active = {job for job, (state, _) in states.items() if state in (*WAITING, *RUNNING)}
        found: list[str] = []
        for one in submissions:
            jobs = list(_jobs(one).values())
            left = [job for job in jobs if one["stage"] in names and job in active]
            found += [one["id"]] if left == jobs else left  # a failed one would fail what waits for the whole array
        return found

    @cached_property
    def _queue(self) -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
        submissions = [] if self.only_print else self._submissions()
        return submissions, states([one["id"] for one in submissions])

    def _submissions(self) -> list[dict[str, Any]]:
        path = self.folder / SUBMITTED
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []

    def _write(self, script: Path, job: ShellJob, command: Sequence[str]) -> None:
        given = any(option.startswith("--signal=") for option in self.options)
        limits = [seconds_of(value) for name, _, value in (o.partition("=") for o in self.options) if name == "--time"]
        notice = min([NOTICE, *(limit // 4 for limit in limits if limit is not None)])
        options = self.options if given else (*self.options, f"--signal=B:USR1@{notice}")
        number = f"$((SLURM_ARRAY_TASK_ID + {job.first}))" if job.first else '"$SLURM_ARRAY_TASK_ID"'
        text = _SCRIPT.format(
            about=job.about,
            submitted=shlex.join(command),
            name=f"nnsam3d-{job.name}",
            log=self.log(job.name, "%a" if job.numbers else None),
            options="\n".join(f"#SBATCH {_quoted(option)}" for option in options),
            exports="\n".join(exports()),
            folder=shlex.quote(os.getcwd()),
            command=job.command.replace(NUMBER, number),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(script, text)


def _jobs(submission: dict[str, Any]) -> dict[int | None, str]:
    """Number -> the name of the job in squeue."""
    return {number: f"{submission['id']}_{number}" for number in submission["numbers"]} or {None: submission["id"]}


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


def seconds_of(time: str) -> int | None:
    """The seconds of a time limit in sbatch's format; None for others, such as "infinite".

    >>> seconds_of("10"), seconds_of("10:30"), seconds_of("1:00:00"), seconds_of("2-12"), seconds_of("infinite")
    (600, 630, 3600, 216000, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        return None
    first, second, third = (int(part or 0) for part in match.groups()[1:])
    if match[1] is None and match[4] is None:  # minutes, or minutes:seconds
        return 60 * first + second
    return ((int(match[1] or 0) * 24 + first) * 60 + second) * 60 + third


def _quoted(option: str) -> str:
    """An option for a line of a script, where sbatch splits at spaces, and honours quotes and backslashes."""
    name, equals, value = option.partition("=")
    if not re.search(r"[\s\"'\\#]", value):
        return option
    if "\n" in value:
        raise UserError(f"--slurm: the value of {name.removeprefix('--')} must be one line")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def ranges(numbers: Iterable[int]) -> str:
    """``0-2,5`` for 0, 1, 2, 5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


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
