"""Datasets, cases, plans and trained models in nnU-Net's folders. nnU-Net is imported late."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import MACOS

PROMPT_TYPES_KEY = "nnsam3d_prompt_types"  # in the plans' configuration: types of prompts that the network supports
STARTER = Path(__file__).parents[1] / "starter"
"""The model that comes with nnsam3d: trained on synthetic volumes, segments any object at any spacing."""
ANY_SPACING_KEY = "nnsam3d_any_spacing"  # in the plans' configuration: whether images may have any spacing there
OPTIONS_KEY = "nnsam3d"  # in the plans' configuration: the options of the training
COMPONENTS_KEY = "nnsam3d_components"  # in the plans' configuration: which components a prediction keeps
FINAL = "checkpoint_final.pth"
WEIGHTS = "checkpoint_final.safetensors"  # the same, for others: no optimiser, no code
LATEST, BEST = "checkpoint_latest.pth", "checkpoint_best.pth"
PREVIOUS = "checkpoint_previous.pth"  # the latest one before the latest: ours, not nnU-Net's
# Exit status of a training that was stopped by a signal and has saved: continue with --c. EX_TEMPFAIL of sysexits.h.
STOPPED = 75
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def folder_of(variable: str) -> Path:
    """The folder given by one of nnU-Net's environment variables. Raises UserError: it is not set."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"the environment variable {variable} is not set; nnU-Net's commands and this one need it")
    return Path(value)


def dataset_name(number_or_name: str) -> str:
    """DatasetXXX_Name of a dataset. Raises UserError: no such dataset, or a folder of nnU-Net is not set."""
    from nnsam3d.nnunet.contract import maybe_convert_to_dataset_name

    for variable in FOLDERS:
        folder_of(variable)
    try:
        return str(maybe_convert_to_dataset_name(number_or_name))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"-d {number_or_name}: {error}") from error


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Where nnU-Net stores this model, trained or not.

    Raises:
        UserError: nnUNet_results is not set, or the dataset is unknown.
    """
    if not os.environ.get("nnUNet_results"):
        raise UserError("the environment variable nnUNet_results is not set: set it, or use -m FOLDER")
    from nnsam3d.nnunet.contract import get_output_folder

    try:
        return Path(get_output_folder(dataset, trainer, plans, configuration))
    except RuntimeError as error:
        raise UserError(f"-d {dataset}: {error} (or select the model by its folder, with -m FOLDER)") from error


def data_identifier(plans: dict[str, Any], configuration: str) -> str:
    """The folder of a configuration's preprocessed data, possibly inherited from another configuration."""
    from nnsam3d.nnunet.contract import PlansManager

    return str(PlansManager(plans).get_configuration(configuration).data_identifier)


def num_channels(dataset_json: Mapping[str, Any]) -> int:
    """The number of image files per case, from "channel_names" in dataset.json, or the older "modality".

    Raises:
        UserError: neither exists.
    """
    names = dataset_json.get("channel_names", dataset_json.get("modality"))
    if not isinstance(names, Mapping) or not names:
        raise UserError('dataset.json needs "channel_names": {"0": "CT"}, one entry for each image file of a case')
    return len(names)


def training_cases(raw: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    """The cases of a raw dataset: name -> image files, label file."""
    # nnU-Net would start a pool of processes to list a folder
    from nnsam3d.nnunet.contract import get_filenames_of_train_images_and_targets

    files = get_filenames_of_train_images_and_targets(str(raw))
    return {name: (tuple(map(str, entry["images"])), str(entry["label"])) for name, entry in files.items()}


def cases_in(images: Path, ending: str) -> list[list[str]]:
    """The image files in a folder, one list per case with channels in order; other files are ignored.

    Equal to nnU-Net's own function, which forks processes; a server with threads must not do that.
    """
    named = re.compile(r"(.*)_\d{4}" + re.escape(ending))
    found: dict[str, list[str]] = {}
    for name in sorted(path.name for path in images.iterdir() if not path.name.startswith(MACOS)):
        if case := named.fullmatch(name):
            found.setdefault(case[1], []).append(str(images / name))
    return [found[case] for case in sorted(found)]


def common_ending(images: Path, endings: Sequence[str]) -> str | None:
    """The ending that most first channels in a folder have, <case>_0000<ending>; None: it has none of these.

    Args:
        images: the folder.
        endings: to choose from.
    """
    names = [path.name for path in images.iterdir()] if images.is_dir() else []
    counts = {ending: sum(name.endswith(f"_0000{ending}") for name in names) for ending in endings}
    return max(counts, key=lambda ending: counts[ending]) if any(counts.values()) else None


def find_folds(folder: Path, folds: Sequence[int | str] | None, checkpoint: str = FINAL) -> tuple[list[str], str]:
    """The folds of a trained model, and the name of the checkpoint in their folders.

    Args:
        folder: nnU-Net's model folder.
        folds: the wanted ones; None: all trained ones.
        checkpoint: a model that is passed on may have :data:`WEIGHTS` in place of :data:`FINAL`.

    Raises:
        UserError: the folder has no trained model, or not all of these folds.
    """
    missing = [name for name in ("dataset.json", "plans.json") if not (folder / name).is_file()]
    if missing and folder.name.startswith("fold_") and (folder.parent / "plans.json").is_file():
        fold = folder.name.removeprefix("fold_")
        raise UserError(f"{folder}: is the folder of one fold: use {folder.parent} with fold {fold} (-f {fold})")
    if missing:
        others = sorted(path.parent.name for path in folder.parent.glob("*__*__*/plans.json"))
        there = f" Trained models beside it: {', '.join(others)} (trainer__plans__configuration)." if others else ""
        raise UserError(
            f"{folder}: no trained model ({' and '.join(missing)} missing). Train it first (nnUNetv2_train ... -tr "
            f"SAM3DAdapterTrainer), or check -d, -c, -tr, -p or -m.{there}"
        )
    if checkpoint == FINAL and not any(folder.glob(f"fold_*/{FINAL}")) and any(folder.glob(f"fold_*/{WEIGHTS}")):
        checkpoint = WEIGHTS
    trained = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
    wanted = [str(fold) for fold in folds] if folds is not None else [fold for fold in trained if fold != "all"]
    wanted = wanted or trained
    absent = [fold for fold in wanted if fold not in trained]
    if absent or not wanted:
        have = f"folds with it: {', '.join(trained)}" if trained else "no fold has it"
        which = f"fold {', '.join(absent)}" if absent else "the model"
        raise UserError(f"{folder}: {which} has no {checkpoint}; {have}. Choose with -f and -chk.")
    return wanted, checkpoint
