"""`--train`: train missing models one after the other, each with the same wall-clock budget."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from nnsam3d.errors import UserError
from nnsam3d.evaluation.plan import ORACLE, Job, Setting, cases_of, parse_arm, splits_file
from nnsam3d.nnunet.datasets import data_identifier
from nnsam3d.nnunet.link import trainers_folder
from nnsam3d.nnunet.run import nnunet_command
from nnsam3d.training.options import options_from_mapping, parse_options
from nnsam3d.training.plans import check_preset

ENDLESS = 100_000  # epochs


def train_missing(setting: Setting, output: Path, device: str) -> None:
    """Train models without a final checkpoint; interrupted trainings continue from their last checkpoint.

    One at a time, because a budget in minutes is only fair if nothing else uses the machine.

    Raises:
        UserError: a training failed.
    """
    missing = list(_missing(setting))
    for number, job in enumerate(missing, start=1):
        _train(setting, job, output, device, f"train {number}/{len(missing)} {job.arm} fold {job.fold}")


def check(setting: Setting, train: bool) -> None:
    """Check in advance for errors that would stop the run later.

    Raises:
        UserError: unknown trainers or options, missing plans or data, a missing model without ``--train``, a budget for
            a trainer that does not support one, cases that are missing or were trained on.
    """
    for job in setting.jobs():
        # nnU-Net writes the splits in its first training
        if setting.test_images or job.fold == "all" or splits_file(job).is_file():
            cases_of(setting, job)
    # imported late: loads nnU-Net and torch
    from nnsam3d.nnunet.model import capability, find_trainer

    arms = [parse_arm(arm) for arm in setting.arms]
    missing = list(_missing(setting))
    # the folder of an existing model is more precise
    needed = {parse_arm(job.arm).trainer for job in missing} | {arm.trainer for arm in arms if arm.oracle}
    trainers = {name: find_trainer(name) for name in sorted(needed)}
    for name, trainer in trainers.items():
        if trainer is None:
            raise UserError(f"--arms: nnU-Net cannot find the trainer {name}; check the name")
    oracles = [arm for arm in arms if arm.oracle and capability(trainers[arm.trainer], "prompt_types")]
    if oracles:
        raise UserError(f"arm {oracles[0].text}: the oracle control is for models without clicks; remove {ORACLE}")
    to_train = {parse_arm(job.arm).trainer for job in missing}
    untimed = [name for name in sorted(to_train) if not capability(trainers[name], "timed")]
    if untimed and setting.train_minutes:
        raise UserError(
            f"{', '.join(untimed)} cannot be trained for a number of minutes: only trainers with the option "
            "max_minutes can, such as SAM3DAdapterTrainer, nnUNetClickTrainer and nnUNetBaselineTrainer. Train it "
            "manually, or omit --train-minutes"
        )
    for job in missing:
        check_planned(job)
    if missing and not train:
        job = missing[0]
        raise UserError(
            f"arm {job.arm}: {job.checkpoint} is missing. Train it: {training_command(job)}, or add --train"
        )
    check_preset(options_from_mapping(parse_options(training_options(setting), "--options"), source="--options"))


def training_command(job: Job) -> str:
    """The training command for a user."""
    return " ".join(["nnUNetv2_train", *_model_arguments(job)])


def _missing(setting: Setting) -> Iterable[Job]:
    seen = set()
    for job in setting.jobs():
        if job.checkpoint not in seen and not job.checkpoint.is_file():
            yield job
        seen.add(job.checkpoint)


def check_planned(job: Job) -> None:
    """Check in advance that plans and preprocessed data exist.

    Raises:
        UserError: no such plans or configuration, or nothing preprocessed by them.
    """
    name = parse_arm(job.arm)
    folder = splits_file(job).parent
    plans = folder / f"{name.plans}.json"
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
            f"-c {job.configuration} -plans_name {name.plans}"
        )


def training_arguments(job: Job, device: str) -> list[str]:
    """The arguments of nnUNetv2_train."""
    latest = job.checkpoint.with_name("checkpoint_latest.pth")
    where = ["-device", device.partition(":")[0]]
    return [*_model_arguments(job), *where, *(["--c"] if latest.is_file() else [])]


def _model_arguments(job: Job) -> list[str]:
    name = parse_arm(job.arm)
    return [job.dataset, job.configuration, job.fold, "-tr", name.trainer, "-p", name.plans]


def training_options(setting: Setting) -> str:
    """``nnsam3d_options`` of every training."""
    given = parse_options(setting.options, "--options")
    wanted = {"final_validation": "0"}  # the benchmark does its own validation
    if setting.train_minutes:
        # by time only, unless the user limits the epochs, too: otherwise fast machines would end arms early
        wanted |= {"max_minutes": f"{setting.train_minutes:g}", "num_epochs": str(ENDLESS)}
    ours = [f"{key}={value}" for key, value in wanted.items() if key not in given or key == "max_minutes"]
    return " ".join([setting.options, *ours] if setting.options else ours)


def _train(setting: Setting, job: Job, output: Path, device: str, title: str) -> None:
    log = output / "logs" / f"train_{job.dataset}_{job.configuration}_{job.fold}_{job.arm_in_path}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = training_options(setting)
    arguments = training_arguments(job, device)
    tqdm.write(f'nnsam3d_options="{options}" nnUNetv2_train {" ".join(arguments)}    # {log}')
    # works whether or not nnU-Net is linked
    environment = {"nnUNet_extTrainer": str(trainers_folder())} | os.environ
    if options:
        environment["nnsam3d_options"] = options
    if ":" in device:  # nnUNetv2_train does not accept a number
        environment["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    total = round(60 * setting.train_minutes) or None
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            [nnunet_command("nnUNetv2_train"), *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        ) as process,
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
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise UserError(f"nnUNetv2_train ended with status {process.returncode}; the end of {log}:\n{tail}")
