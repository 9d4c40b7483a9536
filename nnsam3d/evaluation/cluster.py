"""The benchmark on many machines: its jobs by number, the executor that hands them to SLURM, and what became of them.

With N models the jobs 0 to N-1 train one each, and N to 2N-1 evaluate one each, by all arms and protocols that use it.
The numbers follow from the stored setting alone, so that a worker elsewhere needs nothing but the folder and a number.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnsam3d.evaluation.executors import Work
from nnsam3d.evaluation.plan import Job, Setting, cases_of, parse_arm, remember_cases, splits_file
from nnsam3d.evaluation.processes import failure_file
from nnsam3d.evaluation.runner import is_done
from nnsam3d.evaluation.training import by_model, training_name
from nnsam3d.files import file_sha256
from nnsam3d.nnunet.datasets import STOPPED
from nnsam3d.nnunet.splits import make_splits_for
from nnsam3d.slurm import NUMBER, RUNNING, WAITING, Queue, Script, submit

FOLDER = "slurm"
TRAIN, EVALUATE, REPORT = "train", "evaluate", "report"


@dataclass(frozen=True)
class Task:
    """A job of the benchmark that a worker does; its model's trainings or evaluations."""

    number: int
    stage: str
    jobs: tuple[Job, ...]

    @property
    def name(self) -> str:
        name = training_name(self.jobs[0])
        return name if self.stage == TRAIN else name.replace(TRAIN, EVALUATE, 1)

    def is_done(self, setting: Setting, output: Path) -> bool:
        """Whether a worker would find nothing to do."""
        checkpoint = self.jobs[0].checkpoint
        if self.stage == TRAIN or not checkpoint.is_file():
            return checkpoint.is_file()
        digest = file_sha256(checkpoint)
        return all(
            is_done(job.unit_file(output, case.name, seed), digest)
            for job in self.jobs
            for case in cases_of(setting, job)
            for seed in setting.seeds
        )


def tasks_of(setting: Setting) -> list[Task]:
    """All, by number."""
    models = list(by_model(setting).values())
    numbered = [(stage, jobs) for stage in (TRAIN, EVALUATE) for jobs in models]
    return [Task(number, stage, tuple(jobs)) for number, (stage, jobs) in enumerate(numbered)]


def prepare(setting: Setting, output: Path) -> None:
    """What jobs that start together would race for: nnU-Net's splits, and the list of cases."""
    for job in setting.jobs():
        if not setting.test_images and job.fold != "all" and not splits_file(job).is_file():
            make_splits_for(job.dataset, parse_arm(job.arm).plans, job.configuration)
    remember_cases({job: cases_of(setting, job) for job in setting.jobs()}, output)


def worker_command(output: Path, number: str, device: str) -> str:
    """For a shell."""
    return f"{_nnsam3d()} benchmark worker -o {shlex.quote(str(output))} -device {device} --job {number}"


def report_command(output: Path, arguments: Sequence[str]) -> str:
    """For a shell."""
    return f"{_nnsam3d()} benchmark report -o {shlex.join([str(output), *arguments])}"


def _nnsam3d() -> str:
    return f"{shlex.quote(sys.executable)} -m nnsam3d"


# ---------------------------------------------------------------------- SLURM


@dataclass(frozen=True)
class Slurm:
    """The executor that hands jobs to SLURM and returns; see :class:`nnsam3d.evaluation.executors.Executor`.

    Attributes:
        options: of sbatch.
        device: of the workers.
        at_once: most jobs of an array at a time; 0 = no limit.
        report: arguments of ``nnsam3d benchmark report`` behind ``-o``.
    """

    setting: Setting
    output: Path
    options: tuple[str, ...]
    device: str = "auto"
    at_once: int = 0
    report: tuple[str, ...] = ()

    def run(self, jobs: Sequence[Work], on_progress: Callable[[], None]) -> dict[str, str]:
        """Submits what the queue does not hold: trainings, each one's evaluation behind it, and the report."""
        queue, models = Queue.of(self.output / FOLDER), self.models
        numbers = {job.number for job in jobs}
        trainings = [model for model in range(models) if model in numbers and not queue.holds(TRAIN, model)]
        new = self._submit(TRAIN, trainings)
        behind: dict[str, list[int]] = {}  # evaluations, by the array in which their training is
        for model in range(models):
            if model + models in numbers and not queue.holds(EVALUATE, model):
                held = queue.state(TRAIN, model)[2] if queue.holds(TRAIN, model) else ""
                behind.setdefault(new if model in trainings else held, []).append(model)
        submitted = [new] if new else []
        for array, evaluations in behind.items():
            submitted.append(self._submit(EVALUATE, evaluations, f"aftercorr:{array}" if array else ""))
        if submitted or not ((self.output / "report.html").is_file() or queue.holds(REPORT)):
            before = [*queue.active((TRAIN, EVALUATE)), *submitted]
            self._submit(REPORT, (), "afterany:" + ":".join(before) if before else "")
        else:
            print("nnsam3d: nothing to submit: what is not done is in the queue")
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
        """Of a stage."""
        path = self.output / FOLDER / f"{stage}.sh"
        if stage == REPORT:
            return Script(path, report_command(self.output, self.report), self.options, "The report of the benchmark")
        number = NUMBER if stage == TRAIN else f"$((SLURM_ARRAY_TASK_ID + {self.models}))"
        about = "One training" if stage == TRAIN else "The evaluations of one model"
        command = worker_command(self.output, number, self.device)
        return Script(path, command, self.options, f"{about} of the benchmark for each number of the array")


def works(setting: Setting, output: Path, may_train: bool) -> list[Work]:
    """What is not done yet, for :class:`Slurm`."""
    stages = (TRAIN, EVALUATE) if may_train else (EVALUATE,)
    return [
        Work(task.name, number=task.number)
        for task in tasks_of(setting)
        if task.stage in stages and not task.is_done(setting, output)
    ]


def printed(setting: Setting, output: Path, missing: Sequence[Work], device: str, report: Sequence[str]) -> str:
    """The commands for another scheduler, stage by stage."""
    models = len(by_model(setting))
    stages = {
        f"trainings; exit status {STOPPED}: told to stop (SIGUSR1 or SIGTERM) and saved, start it again": range(models),
        "evaluations, each when its training has succeeded": range(models, 2 * models),
    }
    lines = []
    for about, numbers in stages.items():
        of_stage = [work for work in missing if work.number in numbers]
        lines += [f"# {about}"] if of_stage else []
        lines += [f"{worker_command(output, str(work.number), device)}    # {work.name}" for work in of_stage]
    return "\n".join([*lines, "# the report, when all have ended", report_command(output, report)])


# ---------------------------------------------------------------------- what became of them


def status_rows(setting: Setting, output: Path, queue: Queue) -> list[tuple[str, str, str]]:
    """Job, state, and what else there is to say: of every training, every evaluation, and the report."""
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
    told = failure_file(output / "logs", name)
    if told.is_file():
        return "failed", f"{told.read_text(encoding='utf-8').splitlines()[0]}    ({told})"
    if state == "CANCELLED" and stage == EVALUATE and not queue.holds(TRAIN, model):
        return "cancelled", "its training has failed"
    if state and state != "COMPLETED":
        return "failed", f"SLURM: {state} {'' if reason == 'None' else reason}".rstrip() + f"    ({log})"
    return "missing", ""
