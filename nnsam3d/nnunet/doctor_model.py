"""`nnsam3d doctor -m MODEL`: the contents of a model folder, and whether its checkpoints open safely."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.nnunet.findings import Finding, note, ok, one_line, problem

CHECKPOINTS = "fold_*/checkpoint_*.pth"


def check_model(folder: Path) -> Iterator[Finding]:
    """Check a model folder of nnU-Net, `.../<trainer>__<plans>__<configuration>`."""
    # imported late: import errors are findings of another check
    from nnsam3d.nnunet.datasets import FINAL, WEIGHTS, num_channels
    from nnsam3d.nnunet.model import capability, find_trainer
    from nnsam3d.prompts import click_labels

    contents: dict[str, Any] = {}
    for name in ("dataset.json", "plans.json"):
        try:
            contents[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield problem(f"{folder / name}: {one_line(error)}", "specify the folder of a trained model")
            return
    dataset = contents["dataset.json"]
    labels = ", ".join(f"{name} = {value}" for name, value in click_labels(dataset).items())
    yield ok(f"{dataset.get('name', folder.parent.name)}: {num_channels(dataset)} channel(s), labels {labels}")
    files = sorted([*folder.glob(CHECKPOINTS), *folder.glob(f"fold_*/{WEIGHTS}")])
    if not files:
        yield problem(f"{folder} contains no checkpoint ({CHECKPOINTS})", "train the model, or copy its folds here")
    trainers = set()
    for file in files:
        finding, trainer = _opened(file)
        yield finding
        trainers.add(trainer)
    for name in sorted(trainers - {""}):
        kind = find_trainer(name)
        if kind is None:
            yield problem(f"nnU-Net does not find the trainer {name}", "nnsam3d link, or set nnUNet_extTrainer")
            continue
        kinds = capability(kind, "prompt_types")
        way = "nnsam3d predict, Session and nnUNetv2_predict" if kinds else "nnUNetv2_predict"
        yield ok(f"{name}: {'takes ' + ', '.join(kinds) + ' prompts' if kinds else 'takes no prompts'}; {way}")
    folds = {file.parent.name for file in files}
    unfinished = sorted(folds - {file.parent.name for file in files if file.name in (FINAL, WEIGHTS)})
    if unfinished:
        remedy = "finish the training (nnUNetv2_train ... --c), or choose another with -chk checkpoint_best.pth"
        yield note(f"{', '.join(unfinished)}: no {FINAL}, which predictions use by default", remedy)


def _opened(file: Path) -> tuple[Finding, str]:
    """The finding about a checkpoint, and the name of its trainer."""
    from nnsam3d.nnunet.checkpoint import open_checkpoint

    where = f"{file.parent.name}/{file.name}"
    try:
        stored = open_checkpoint(file, trusted=None, mapped=True)
    except UserError as error:
        return problem(str(error), "do not open it; ask for a checkpoint that contains data only"), ""
    numbers = sum(values.numel() for values in stored["network_weights"].values())
    configuration, fold = (stored["init_args"].get(key) for key in ("configuration", "fold"))
    about = f"{configuration}, fold {fold}, {stored.get('current_epoch', '?')} epochs, {numbers / 1e6:.1f} M parameters"
    return ok(f"{where}: opens as data; {stored['trainer_name']}, {about}"), str(stored["trainer_name"])
