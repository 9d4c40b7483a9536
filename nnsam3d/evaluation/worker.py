"""Runs one job of the benchmark on a cluster node: computes its missing results, and records node and versions."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.evaluation.cluster import EVALUATE, FOLDER, Task, tasks_of
from nnsam3d.evaluation.plan import Setting, cases_of, read_setting
from nnsam3d.evaluation.processes import failure_file, remember_failure
from nnsam3d.evaluation.provenance import PACKAGES, remember_environment
from nnsam3d.evaluation.training import Stopped, train
from nnsam3d.files import file_sha256, write_json
from nnsam3d.nnunet.datasets import STOPPED


def work(output: Path, number: int, device: str) -> int:
    """Run job ``number`` of the stored benchmark; returns the exit status.

    Raises:
        UserError: no such job, or it failed; the reason is then also in ``logs/failed_<name>.txt``.
    """
    setting = read_setting(output)
    tasks = tasks_of(setting)
    if not 0 <= number < len(tasks):
        raise UserError(f"--job {number}: {output} has the jobs 0 to {len(tasks) - 1}")
    task = tasks[number]
    failure = failure_file(output / "logs", task.name)
    failure.unlink(missing_ok=True)
    record = _begin(output, task, device)
    try:
        _do(setting, task, output, device)
    except Stopped as error:
        _end(output, task, record, "stopped")
        print(f"nnsam3d: {error}")
        return STOPPED
    except Exception as error:
        remember_failure(failure, error)
        _end(output, task, record, "failed")
        raise
    _end(output, task, record, "done")
    return 0


def _do(setting: Setting, task: Task, output: Path, device: str) -> None:
    if task.is_done(setting, output):
        return
    if task.stage != EVALUATE:
        train(setting, task.jobs[0], output, device, task.name)
        return
    # imported late: loads torch
    from nnsam3d.evaluation.runner import run_job

    remember_environment(output, [device])
    digest = file_sha256(task.jobs[0].checkpoint)
    for job in task.jobs:
        run_job(setting, job, cases_of(setting, job), output, digest, device)


def record_file(output: Path, name: str) -> Path:
    """The record of a job's last run: node, device, versions, duration."""
    return output / FOLDER / "jobs" / f"{name}.json"


def _begin(output: Path, task: Task, device: str) -> dict[str, Any]:
    # imported late: loads torch
    from nnsam3d.evaluation.cost import device_name

    record = {
        "job": task.name,
        "node": platform.node(),
        "device": device_name(device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "scheduler_job": os.environ.get("SLURM_JOB_ID", ""),
        "began": time.time(),
    }
    _end(output, task, record, "running")
    return record


def _end(output: Path, task: Task, record: dict[str, Any], state: str) -> None:
    path = record_file(output, task.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record | {"state": state, "seconds": round(time.time() - float(record["began"]), 1)})
