"""The benchmark on a cluster: numbered jobs, their submission and states, and what a job does on its node.

With N models, jobs 0 to N-1 each train one model, and jobs N to 2N-1 each evaluate one, with all arms and protocols
that use it. The numbers depend only on the stored setting, so that a worker needs only the folder and a number.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.evaluation.plan import Job, Setting, cases_of, read_setting, remember_cases, splits_file
from nnsam3d.evaluation.provenance import PACKAGES, device_name, remember_environment
from nnsam3d.evaluation.runner import run_job, units_of
from nnsam3d.evaluation.training import Stopped, by_model, train, training_name
from nnsam3d.files import write_json
from nnsam3d.jobs import NUMBER, BackEnd, ShellJob
from nnsam3d.jobs.local import failure_file, remember_failure
from nnsam3d.nnunet.splits import make_splits_for

FOLDER = "slurm"  # scripts, logs and records
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
        return all(
            unit.is_done() for job in self.jobs for unit in units_of(setting, job, cases_of(setting, job), output)
        )


def tasks_of(setting: Setting) -> list[Task]:
    """All jobs, ordered by number."""
    models = list(by_model(setting).values())
    numbered = [(stage, jobs) for stage in (TRAIN, EVALUATE) for jobs in models]
    return [Task(number, stage, tuple(jobs)) for number, (stage, jobs) in enumerate(numbered)]


def prepare(setting: Setting, output: Path) -> None:
    """Create files that several starting jobs would otherwise write concurrently: nnU-Net's splits, the case list."""
    for job in setting.jobs():
        missing = not setting.test_images and job.fold != "all" and not splits_file(job).is_file()
        if missing and job.arm_name.trainer:
            make_splits_for(job.dataset, job.arm_name.plans, job.configuration)
    remember_cases(setting, output)


# ---------------------------------------------------------------------- submission


def submit(
    setting: Setting, output: Path, back_end: BackEnd, device: str, may_train: bool, report: Sequence[str]
) -> list[str]:
    """Submit the jobs that are neither done nor in the queue: trainings, their evaluations, and the report.

    Args:
        device: of the workers.
        may_train: submit trainings, too.
        report: further arguments of ``nnsam3d benchmark report``.

    Returns:
        The ids of the submissions; none: everything is done or in the queue.
    """
    tasks, here = tasks_of(setting), shlex.join([sys.executable, "-m", "nnsam3d", "benchmark"])
    models = len(tasks) // 2
    missing = {
        (task.stage, task.number % models): task.name
        for task in tasks
        if (may_train or task.stage == EVALUATE)
        and not task.is_done(setting, output)
        and not back_end.state(task.stage, task.number % models).is_active
    }

    def array(stage: str, numbers: Sequence[int], after: Sequence[str] = ()) -> str:
        command = f"{here} worker -o {shlex.quote(str(output))} -device {device} --job {NUMBER}"
        about, first = f"{len(numbers)} {stage} job(s)", models if stage == EVALUATE else 0
        named = {number: missing[stage, number] for number in numbers}
        return back_end.submit(ShellJob(stage, command, about, named, first, after, "each"))

    trainings = [model for stage, model in missing if stage == TRAIN]
    submitted = [array(TRAIN, trainings)] if trainings else []
    dependent: dict[str, list[int]] = {}  # evaluations, by the array that contains their training
    for model in (model for stage, model in missing if stage == EVALUATE):
        training = back_end.state(TRAIN, model)
        held = training.id if training.is_active else ""
        dependent.setdefault(submitted[0] if model in trainings else held, []).append(model)
    submitted += [array(EVALUATE, numbers, [id_] if id_ else []) for id_, numbers in dependent.items()]
    if submitted or not ((output / "report.html").is_file() or back_end.state(REPORT).is_active):
        command = f"{here} report -o {shlex.join([str(output), *report])}"
        before = [*back_end.active(TRAIN, EVALUATE), *submitted]
        submitted.append(back_end.submit(ShellJob(REPORT, command, "the report", after=before)))
    return submitted


def status_rows(setting: Setting, output: Path, back_end: BackEnd) -> list[tuple[str, str, str]]:
    """Job, state and details of every training, every evaluation, and the report."""
    tasks = tasks_of(setting)
    jobs = [(task.name, task.stage, task.number % (len(tasks) // 2), task.is_done(setting, output)) for task in tasks]
    rows = []
    for name, stage, model, done in [*jobs, (REPORT, REPORT, None, (output / "report.html").is_file())]:
        state, failure = back_end.state(stage, model), failure_file(output / "logs", name)
        found = ("failed", state.about) if state.kind else ("missing", "")
        if state.is_active:
            found = state.kind, state.about
        elif done:
            found = "done", ""
        elif failure.is_file():
            found = "failed", f"{failure.read_text(encoding='utf-8').splitlines()[0]}    ({failure})"
        elif state.kind == "cancelled" and stage == EVALUATE and not back_end.state(TRAIN, model).is_active:
            found = "cancelled", "its training has failed"
        rows.append((name, *found))
    return rows


# ---------------------------------------------------------------------- on a node


def work(output: Path, number: int, device: str) -> None:
    """Run job ``number`` of the stored benchmark: compute its missing results, and record node and versions.

    Raises:
        Stopped: the training was stopped by a signal and has saved a checkpoint.
        UserError: no such job, or it failed; the reason is then also in ``logs/failed_<name>.txt``.
    """
    setting = read_setting(output)
    tasks = tasks_of(setting)
    if not 0 <= number < len(tasks):
        raise UserError(f"--job {number}: {output} has the jobs 0 to {len(tasks) - 1}")
    task = tasks[number]
    with _recorded(output, task, device):
        if task.is_done(setting, output):
            return
        if task.stage == TRAIN:
            train(setting, task.jobs[0], output, device, task.name)
            return
        remember_environment(output, [device])
        for job in task.jobs:
            run_job(setting, units_of(setting, job, cases_of(setting, job), output), output, device)


def record_file(output: Path, name: str) -> Path:
    """The record of a job's last run: node, device, versions, duration."""
    return output / FOLDER / "jobs" / f"{name}.json"


@contextmanager
def _recorded(output: Path, task: Task, device: str) -> Iterator[None]:
    began, path = time.time(), record_file(output, task.name)
    record = {
        "job": task.name,
        "node": platform.node(),
        "device": device_name(device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "scheduler_job": os.environ.get("SLURM_JOB_ID", ""),
        "began": began,
    }

    def write(state: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record | {"state": state, "seconds": round(time.time() - began, 1)})

    failure = failure_file(output / "logs", task.name)
    failure.unlink(missing_ok=True)
    write("running")
    try:
        yield
    except Stopped:
        write("stopped")
        raise
    except Exception as error:
        remember_failure(failure, error)
        write("failed")
        raise
    write("done")
