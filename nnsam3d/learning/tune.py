"""A short training of a model on finished cases: nnUNetv2_train, in a process of its own."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnsam3d.errors import UserError
from nnsam3d.files import replacing, write_json
from nnsam3d.jobs.local import visible_gpu
from nnsam3d.learning.finished import NAME, PLANS, FinishedCase, preprocess_finished
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import FINAL, OPTIONS_KEY
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.run import nnunet_command, nnunet_environment
from nnsam3d.training.budget import STANDS_STILL
from nnsam3d.training.options import ENVIRONMENT_VARIABLE, RETIRED, options_of_checkpoint
from nnsam3d.training.trainer import SAM3DAdapterTrainer

SECONDS = 30.0
LEARNING_RATE = 0.5
"""Of a round, as a share of the model's own; it falls linearly within the round."""
KEEP = 0.5
"""Of the weights in use, in the average with the trained ones: single rounds are noisy."""
NEEDED = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes")
LOG = "training.txt"


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned.

    Attributes:
        seconds: of training.
        keep: how much of the weights in use is kept in the average with the trained ones, 0..1.
        seed: of the training; -1: none.
        device: torch's name.
        replay: a dataset on which the model was trained before, in nnU-Net's raw format; as many of its cases as there
            are finished ones are trained on as well.
    """

    seconds: float = SECONDS
    keep: float = KEEP
    seed: int = -1
    device: str = "cpu"
    replay: Path | None = None


def tune(
    model: TrainedModel,
    begin: Path,
    cases: Sequence[FinishedCase],
    dataset_json: dict[str, Any],
    work: Path,
    tuning: Tuning,
) -> tuple[Path, int]:
    """Trains a model on cases.

    Args:
        model: whose network is trained.
        begin: checkpoint with the weights to begin with.
        cases: to train on.
        dataset_json: of these cases.
        work: a folder of the learning; its content is replaced, except for prepared cases.
        tuning: how.

    Returns:
        A checkpoint with the new weights, in ``work``, and the number of updates.

    Raises:
        UserError: the training has failed; the message names its log.
    """
    preprocess_finished(cases, model, dataset_json, work)
    base = work / "preprocessed" / NAME
    write_json(base / f"{PLANS}.json", _plans(model, begin.absolute(), tuning))
    shutil.rmtree(work / "results", ignore_errors=True)
    trainer = model.trainer.__name__
    command = [
        *(nnunet_command("nnUNetv2_train"), NAME, model.configuration, "0", "-tr", trainer, "-p", PLANS),
        *("-device", torch.device(tuning.device).type),
    ]
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT_VARIABLE}
    environment |= {**nnunet_environment(work), STANDS_STILL: "1", **visible_gpu(tuning.device)}
    with (work / LOG).open("w", encoding="utf-8") as log:
        status = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    made = work / "results" / NAME / f"{trainer}__{PLANS}__{model.configuration}" / "fold_0" / FINAL
    if status or not made.is_file():
        raise UserError(f"the training on finished cases failed (status {status}): see {work / LOG}")
    new = open_checkpoint(made)
    updates = int(new["optimizer_state"].get("nnsam3d", {}).get("updates", 0))
    found = work / FINAL
    write_checkpoint(new, found)
    return found, updates


def _plans(model: TrainedModel, begin: Path, tuning: Tuning) -> dict[str, Any]:
    plans = copy.deepcopy(model.plans_manager.plans) | {"dataset_name": NAME, "plans_name": PLANS}
    entry = copy.deepcopy(model.configuration_manager.configuration)  # with what it inherits
    entry.pop("inherits_from", None)
    plans["configurations"][model.configuration] = entry
    options = entry.get(OPTIONS_KEY, {})
    if issubclass(model.trainer, SAM3DAdapterTrainer):  # stores all its options; others those that were planned
        options = options_of_checkpoint(options, str(model.folder)).as_dict()
    kept = {key: value for key, value in options.items() if key not in ("start_from", "data", *RETIRED)}
    entry[OPTIONS_KEY] = kept | {
        "prompt_kinds": ",".join(model.prompt_types),
        "weights": str(begin),
        "num_epochs": 100_000,  # the time ends it
        "num_iterations_per_epoch": 1000,
        "num_val_iterations_per_epoch": 1,
        "max_minutes": tuning.seconds / 60,
        "warmup_epochs": 0.01,
        "checkpoint_minutes": 0.0,
        "final_validation": 0,
        "seed": tuning.seed,
    }
    if kept.get("learning_rate"):
        entry[OPTIONS_KEY]["learning_rate"] = kept["learning_rate"] * LEARNING_RATE
    return plans


def averaged(old: dict[str, Any], new: dict[str, Any], keep: float) -> dict[str, Any]:
    """A checkpoint with a weighted mean of the weights of two.

    Args:
        keep: share of the old ones.
    """
    before = old["network_weights"]
    weights = {
        name: torch.lerp(values.float(), before[name].float(), keep).to(values.dtype)
        if values.is_floating_point()
        else values
        for name, values in new["network_weights"].items()
    }
    return {**new, "network_weights": weights}


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes what prediction and further rounds need of a checkpoint, complete or not at all."""
    kept = {key: checkpoint.get(key) for key in NEEDED}
    kept["init_args"] = {key: checkpoint["init_args"][key] for key in ("configuration", "fold")}
    with replacing(path, durable=True) as temporary:
        torch.save(kept, temporary)
