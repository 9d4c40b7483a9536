"""`--train`: trains missing models one after the other, each with the same wall-clock budget."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.evaluation.names import STARTER_ARM, parse_arm
from nnsam3d.evaluation.plan import Job, Setting, cases_of, splits_file, starter_objects
from nnsam3d.files import write_json
from nnsam3d.jobs.local import visible_gpu
from nnsam3d.nnunet.datasets import LATEST, STOPPED, data_identifier, folder_of
from nnsam3d.nnunet.link import trainers_folder
from nnsam3d.nnunet.run import nnunet_command
from nnsam3d.progress import tqdm
from nnsam3d.training.options import options_from_mapping, parse_options
from nnsam3d.training.plans import check_preset

logger = logging.getLogger(__name__)

ENDLESS = 100_000  # epochs


def note_kept(setting: Setting) -> None:
    """Say which models exist: a benchmark does not train them again, whatever its budget."""
    kept = [
        f"{jobs[0].arm} fold {jobs[0].fold}"
        for checkpoint, jobs in by_model(setting).items()
        if checkpoint.is_file() and jobs[0].arm_name.trainer
    ]
    if kept:
        logger.warning(
            f"nnsam3d: {', '.join(kept)}: trained already, and kept, however long the training was. Delete a model's "
            "folder to train it again"
        )


def train_missing(setting: Setting, output: Path, device: str) -> None:
    """Train models without a final checkpoint; interrupted trainings continue from their last checkpoint.

    One at a time, because a budget in minutes is only fair if nothing else uses the machine.

    Raises:
        UserError: a training failed.
    """
    missing = missing_models(setting)
    for number, job in enumerate(missing, start=1):
        train(setting, job, output, device, f"train {number}/{len(missing)} {job.arm} fold {job.fold}")


def check(setting: Setting, may_train: bool) -> None:
    """Check in advance for errors that would stop the run later.

    Raises:
        UserError: unknown trainers or options, missing plans or data, a missing model without ``--train``, a budget for
            a trainer that does not support one, a dataset that the starter does not take, cases that are missing or
            were trained on.
    """
    for job in setting.jobs():
        # nnU-Net writes the splits in its first training
        if setting.test_images or job.fold == "all" or splits_file(job).is_file():
            cases_of(setting, job)
    for dataset in setting.datasets if STARTER_ARM in setting.arms else ():
        about = folder_of("nnUNet_raw") / dataset / "dataset.json"
        starter_objects(json.loads(about.read_text(encoding="utf-8")), dataset)
    # imported late: loads nnU-Net and torch
    from nnsam3d.nnunet.model import capability, find_trainer

    missing = missing_models(setting)
    to_train = {job.arm_name.trainer for job in missing}
    oracles = [arm for arm in map(parse_arm, setting.arms) if arm.is_oracle]
    # of an existing model, its folder is more precise
    trainers = {name: find_trainer(name) for name in sorted(to_train | {arm.trainer for arm in oracles})}
    for name, trainer in trainers.items():
        if trainer is None:
            raise UserError(f"--arms: nnU-Net cannot find the trainer {name}; check the name")
    for arm in oracles:
        arm.check_model(bool(capability(trainers[arm.trainer], "prompt_types")))
    untimed = [name for name in sorted(to_train) if not capability(trainers[name], "timed")]
    if untimed and setting.train_seeds:
        raise UserError(
            f"{', '.join(untimed)} has no option for a seed: only trainers of nnsam3d have one; omit --train-seeds"
        )
    if setting.train_seeds and "seed" in parse_options(setting.options, "--options"):
        raise UserError("--train-seeds and a seed in --options cannot be combined")
    if untimed and setting.train_minutes:
        raise UserError(
            f"{', '.join(untimed)} cannot be trained for a number of minutes: only trainers with the option "
            "max_minutes can, such as SAM3DAdapterTrainer, nnUNetClickTrainer and nnUNetBaselineTrainer. Train it "
            "manually, or omit --train-minutes"
        )
    for job in missing:
        check_planned(job)
    if missing and not may_train:
        job, command = missing[0], " ".join(["nnUNetv2_train", *_model_arguments(missing[0])])
        raise UserError(f"arm {job.arm}: {job.checkpoint} is missing. Train it: {command}, or add --train")
    check_preset(options_from_mapping(parse_options(training_options(setting), "--options"), source="--options"))


def missing_models(setting: Setting) -> list[Job]:
    """One job of every model that is not trained."""
    return [jobs[0] for checkpoint, jobs in by_model(setting).items() if not checkpoint.is_file()]


def by_model(setting: Setting) -> dict[Path, list[Job]]:
    """The jobs of every model, by its final checkpoint."""
    found: dict[Path, list[Job]] = {}
    for job in setting.jobs():
        found.setdefault(job.checkpoint, []).append(job)
    return found


def check_planned(job: Job) -> None:
    """Check in advance that plans and preprocessed data exist.

    Raises:
        UserError: no such plans or configuration, or nothing preprocessed by them.
    """
    name, folder = job.arm_name.plans, splits_file(job).parent
    plans = folder / f"{name}.json"
    if not plans.is_file():
        there = sorted(path.stem for path in folder.glob("*Plans*.json"))
        raise UserError(
            f"arm {job.arm}: {plans} is missing (found: {', '.join(there) or 'none'}). Plan and preprocess first: "
            f"nnUNetv2_plan_and_preprocess -d {job.dataset} -c {job.configuration}"
        )
    content = json.loads(plans.read_text(encoding="utf-8"))
    if job.configuration not in content["configurations"]:
        known = ", ".join(content["configurations"])
        raise UserError(f"arm {job.arm}: {plans} has no configuration {job.configuration}; it has {known}")
    data = folder / data_identifier(content, job.configuration)
    if not data.is_dir():
        raise UserError(
            f"arm {job.arm}: {data} is missing. Preprocess first: nnUNetv2_preprocess -d {job.dataset} "
            f"-c {job.configuration} -plans_name {name}"
        )


def training_arguments(job: Job, device: str) -> list[str]:
    """The arguments of nnUNetv2_train."""
    latest = job.checkpoint.with_name(LATEST)
    where = ["-device", device.partition(":")[0]]
    return [*_model_arguments(job), *where, *(["--c"] if latest.is_file() else [])]


def _model_arguments(job: Job) -> list[str]:
    return [job.dataset, job.configuration, job.fold, "-tr", job.arm_name.trainer, "-p", job.plans]


def training_options(setting: Setting, seed: int | None = None) -> str:
    """``nnsam3d_options`` of a training; ``seed``: of one of several trainings of a model."""
    given = parse_options(setting.options, "--options")
    wanted = {"final_validation": "0"}  # the benchmark does its own validation
    if setting.train_minutes:
        # by time only, unless the user also limits the epochs: otherwise fast machines would end trainings early
        wanted |= {"max_minutes": f"{setting.train_minutes:g}", "num_epochs": str(ENDLESS)}
    wanted |= {} if seed is None else {"seed": str(seed)}
    ours = [f"{key}={value}" for key, value in wanted.items() if key not in given or key == "max_minutes"]
    return " ".join([setting.options, *ours] if setting.options else ours)


def _own_plans(job: Job) -> None:
    """Copy the arm's plans under a separate name for this training; the preprocessed data stay the same."""
    folder = splits_file(job).parent
    content = json.loads((folder / f"{job.arm_name.plans}.json").read_text(encoding="utf-8"))
    write_json(folder / f"{job.plans}.json", content | {"plans_name": job.plans})


class Stopped(UserError):
    """A training was stopped by a signal and has saved a checkpoint: start it again."""


def training_name(job: Job) -> str:
    """The name of a job's training, suitable for file names."""
    return f"train_{job.dataset}_{job.configuration}_{job.fold}_{job.arm_in_path}"


def train(setting: Setting, job: Job, output: Path, device: str, title: str) -> None:
    """Train the model of a job; nnU-Net's output goes to a file in ``output/logs``.

    Raises:
        Stopped: this process or the training received SIGTERM or SIGUSR1.
        UserError: the training failed.
    """
    log = output / "logs" / f"{training_name(job)}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = training_options(setting, job.training)
    if job.training is not None:
        _own_plans(job)
    arguments = training_arguments(job, device)
    tqdm.write(f'nnsam3d_options="{options}" nnUNetv2_train {" ".join(arguments)}    # {log}')
    # works whether or not nnU-Net is linked
    environment = {"nnUNet_extTrainer": str(trainers_folder())} | os.environ
    if options:
        environment["nnsam3d_options"] = options
    environment |= visible_gpu(device)  # nnUNetv2_train does not accept a number
    total = round(60 * setting.train_minutes) or None
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            [nnunet_command("nnUNetv2_train"), *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        ) as process,
        _forwarding_signals(process) as signals,
        tqdm(total=total, desc=title, unit="s") as bar,
    ):
        start = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(1)
                elapsed = int(time.monotonic() - start)
                bar.update((min(elapsed, total) if total else elapsed) - bar.n)
        except BaseException:
            process.terminate()
            raise
    status = process.returncode
    if status == STOPPED or (signals and status):
        raise Stopped(f"{title} was stopped and has saved a checkpoint: repeat the command to continue ({log})")
    if status != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-12:] or ["no output"]
        last, lines = tail[-1], "\n".join(tail)
        raise UserError(f"nnUNetv2_train ended with status {status}: {last}\nThe end of {log}:\n{lines}")


@contextmanager
def _forwarding_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward stop signals of this process to the training; yields the list of received signals."""
    received: list[int] = []

    def handler(number: int, _: Any) -> None:
        received.append(number)
        process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    names = [one for one in ("SIGTERM", "SIGUSR1") if hasattr(signal, one)]
    before = {one: signal.signal(getattr(signal, one), handler) for one in names}
    try:
        yield received
    finally:
        for one, earlier in before.items():
            signal.signal(getattr(signal, one), earlier)
