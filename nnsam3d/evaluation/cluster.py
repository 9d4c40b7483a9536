"""The benchmark on a cluster: numbered jobs, an executor that submits them to SLURM, and their status.

With N models, jobs 0 to N-1 each train one model, and jobs N to 2N-1 each evaluate one, with all arms and protocols
that use it. The numbers depend only on the stored setting, so that a worker needs only the folder and a number.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nnsam3d.evaluation.executors import Work
from nnsam3d.evaluation.names import parse_arm
from nnsam3d.evaluation.plan import Job, Setting, cases_of, remember_cases, splits_file
from nnsam3d.evaluation.processes import failure_file
from nnsam3d.evaluation.runner import is_done
from nnsam3d.evaluation.training import by_model, training_name
from nnsam3d.files import file_sha256
from nnsam3d.nnunet.datasets import STOPPED
from nnsam3d.nnunet.splits import make_splits_for
from nnsam3d.slurm import NUMBER, RUNNING, WAITING, Queue, Script, exports, submit

FOLDER = "slurm"
TRAIN, EVALUATE, REPORT = "train", "evaluate", "report"


@dataclass(frozen=True)
class Task:
    """A job for a worker: the training of one model, or all its evaluations."""

    number: int
    stage: str
    jobs: tuple[Job, ...]

    @property
    def name(self) -> str:
        name = training_name(self.jobs[0])
        return name if self.stage == TRAIN else name.replace(TRAIN, EVALUATE, 1)

    def is_done(self, setting: Setting, output: Path) -> bool:
        """Whether all results of the job exist."""
        checkpoint = self.jobs[0].checkpoint
        if self.stage == TRAIN or not checkpoint.is_file():
            return checkpoint.is_file()
        digest = _digest(checkpoint)
        return all(
            is_done(job.unit_file(output, case.name, seed), digest)
            for job in self.jobs
            for case in cases_of(setting, job)
            for seed in setting.seeds
        )


def _digest(checkpoint: Path) -> str:
    """Its SHA-256. Hashed once as long as it stays the same file, because ``--watch`` asks again and again."""
    state = checkpoint.stat()
    return _digest_of(checkpoint, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _digest_of(checkpoint: Path, *_: int) -> str:
    return file_sha256(checkpoint)


def tasks_of(setting: Setting) -> list[Task]:
    """All jobs, ordered by number."""
    models = list(by_model(setting).values())
    numbered = [(stage, jobs) for stage in (TRAIN, EVALUATE) for jobs in models]
    return [Task(number, stage, tuple(jobs)) for number, (stage, jobs) in enumerate(numbered)]


def prepare(setting: Setting, output: Path) -> None:
    """Create files that several starting jobs would otherwise write concurrently: nnU-Net's splits, the case list."""
    for job in setting.jobs():
        if not setting.test_images and job.fold != "all" and not splits_file(job).is_file():
            make_splits_for(job.dataset, parse_arm(job.arm).plans, job.configuration)
    remember_cases({job: cases_of(setting, job) for job in setting.jobs()}, output)


def worker_command(output: Path, number: str, device: str) -> str:
    """The shell command of one job."""
    return f"{_nnsam3d()} benchmark worker -o {shlex.quote(str(output))} -device {device} --job {number}"


def report_command(output: Path, arguments: Sequence[str]) -> str:
    """The shell command that writes the report."""
    return f"{_nnsam3d()} benchmark report -o {shlex.join([str(output), *arguments])}"


def _nnsam3d() -> str:
    return f"{shlex.quote(sys.executable)} -m nnsam3d"


# ---------------------------------------------------------------------- SLURM


@dataclass(frozen=True)
class Slurm:
    """Submits jobs to SLURM and returns immediately; see :class:`nnsam3d.evaluation.executors.Executor`.

    Attributes:
        options: options of sbatch.
        device: device of the workers.
        at_once: maximum number of running jobs per array; 0 = no limit.
        report: further arguments of ``nnsam3d benchmark report``.
    """

    setting: Setting
    output: Path
    options: tuple[str, ...]
    device: str = "auto"
    at_once: int = 0
    report: tuple[str, ...] = ()

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Submits the jobs that are not in the queue: trainings, evaluations depending on them, and the report."""
        queue, models = Queue.of(self.output / FOLDER), self.models
        numbers = {job.number for job in jobs}
        trainings = [model for model in range(models) if model in numbers and not queue.holds(TRAIN, model)]
        new = self._submit(TRAIN, trainings)
        dependent: dict[str, list[int]] = {}  # evaluations, by the array that contains their training
        for model in range(models):
            if model + models in numbers and not queue.holds(EVALUATE, model):
                held = queue.state(TRAIN, model)[2] if queue.holds(TRAIN, model) else ""
                dependent.setdefault(new if model in trainings else held, []).append(model)
        submitted = [new] if new else []
        for array, evaluations in dependent.items():
            submitted.append(self._submit(EVALUATE, evaluations, f"aftercorr:{array}" if array else ""))
        if submitted or not ((self.output / "report.html").is_file() or queue.holds(REPORT)):
            before = [*queue.active((TRAIN, EVALUATE)), *submitted]
            self._submit(REPORT, (), "afterany:" + ":".join(before) if before else "")
        else:
            print("nnsam3d: nothing to submit: all unfinished jobs are in the queue")
        on_progress()
        return {}

    @property
    def models(self) -> int:
        return len(by_model(self.setting))

    def _submit(self, stage: str, numbers: Sequence[int], after: str = "") -> str:
        if not numbers and stage != REPORT:
            return ""
        job = submit(self.script(stage), numbers, self.at_once, after)
        what = f"{len(numbers)} {stage} job(s)" if numbers else "the report"
        print(f"nnsam3d: submitted {what} as {job}{f', {after}' if after else ''}")
        return job

    def script(self, stage: str) -> Script:
        """The script of a stage."""
        path = self.output / FOLDER / f"{stage}.sh"
        if stage == REPORT:
            return Script(path, report_command(self.output, self.report), self.options, "The report of the benchmark")
        number = NUMBER if stage == TRAIN else f"$((SLURM_ARRAY_TASK_ID + {self.models}))"
        about = "one training" if stage == TRAIN else "the evaluations of one model"
        command = worker_command(self.output, number, self.device)
        return Script(path, command, self.options, f"Benchmark: {about} per array task")


def works(setting: Setting, output: Path, may_train: bool) -> list[Work]:
    """The unfinished jobs, for :class:`Slurm`."""
    stages = (TRAIN, EVALUATE) if may_train else (EVALUATE,)
    return [
        Work(task.name, number=task.number)
        for task in tasks_of(setting)
        if task.stage in stages and not task.is_done(setting, output)
    ]


def printed(setting: Setting, output: Path, missing: Sequence[Work], device: str, report: Sequence[str]) -> str:
    """The commands for another scheduler, by stage."""
    models = len(by_model(setting))
    stages = {
        f"trainings; exit status {STOPPED}: stopped by SIGUSR1 or SIGTERM and saved, start again": range(models),
        "evaluations, each after its training has succeeded": range(models, 2 * models),
    }
    lines = exports()
    for about, numbers in stages.items():
        of_stage = [work for work in missing if work.number in numbers]
        lines += [f"# {about}"] if of_stage else []
        lines += [f"{worker_command(output, str(work.number), device)}    # {work.name}" for work in of_stage]
    return "\n".join([*lines, "# the report, after all jobs have ended", report_command(output, report)])


# ---------------------------------------------------------------------- status


def status_rows(setting: Setting, output: Path, queue: Queue) -> list[tuple[str, str, str]]:
    """Job, state and details of every training, every evaluation, and the report."""
    tasks = tasks_of(setting)
    models = len(tasks) // 2
    rows = [
        (task.name, *_state(task.is_done(setting, output), queue, task.stage, task.number % models, task.name, output))
        for task in tasks
    ]
    done = (output / "report.html").is_file()
    return [*rows, (REPORT, *_state(done, queue, REPORT, None, REPORT, output))]


def _state(done: bool, queue: Queue, stage: str, model: int | None, name: str, output: Path) -> tuple[str, str]:
    state, reason, _ = queue.state(stage, model)
    log = output / FOLDER / (f"{stage}.log" if model is None else f"{stage}_{model}.log")
    if state in WAITING:
        return "waiting", "" if reason in ("None", "") else reason
    if state in RUNNING:
        return "running", str(log)
    if done:
        return "done", ""
    failure = failure_file(output / "logs", name)
    if failure.is_file():
        return "failed", f"{failure.read_text(encoding='utf-8').splitlines()[0]}    ({failure})"
    if state == "CANCELLED" and stage == EVALUATE and not queue.holds(TRAIN, model):
        return "cancelled", "its training has failed"
    if state and state != "COMPLETED":
        return "failed", f"SLURM: {state} {'' if reason == 'None' else reason}".rstrip() + f"    ({log})"
    return "missing", ""
