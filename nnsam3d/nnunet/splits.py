"""nnU-Net's splits for cross-validation, made before anything trains: folds that start together would race for them."""

from __future__ import annotations

import json
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.files import write_text
from nnsam3d.nnunet.datasets import data_identifier, folder_of

SPLITS = "splits_final.json"
SEED, FOLDS = 12345, 5  # nnU-Net's


def make_splits(dataset: str, data: str) -> Path:
    """``splits_final.json`` of a dataset, as nnU-Net would make it when the first fold trains; one that is there stays.

    Args:
        dataset: DatasetXXX_Name.
        data: name of a folder with preprocessed cases.

    Raises:
        UserError: nothing is preprocessed there.
    """
    path = folder_of("nnUNet_preprocessed") / dataset / SPLITS
    if path.is_file():
        return path
    from nnsam3d.nnunet.contract import generate_crossval_split, infer_dataset_class

    folder = path.with_name(data)
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: run nnUNetv2_preprocess first")
    cases = sorted(map(str, infer_dataset_class(str(folder)).get_identifiers(str(folder))))
    if len(cases) < FOLDS:
        raise UserError(
            f"{folder} has {len(cases)} cases: nnU-Net's {FOLDS} folds need {FOLDS}, or a {SPLITS} of yours"
        )
    splits = [
        {part: [str(case) for case in split[part]] for part in ("train", "val")}
        for split in generate_crossval_split(cases, seed=SEED, n_splits=FOLDS)
    ]
    write_text(path, json.dumps(splits, indent=4))
    return path


def make_splits_for(dataset: str, plans: str, configuration: str) -> Path:
    """As :func:`make_splits`, of the data that such plans have preprocessed.

    Raises:
        UserError: no such plans or configuration, or as :func:`make_splits`.
    """
    path = folder_of("nnUNet_preprocessed") / dataset / f"{plans}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: plan and preprocess first (nnUNetv2_plan_and_preprocess -d {dataset})")
    content = json.loads(path.read_text(encoding="utf-8"))
    if configuration not in content["configurations"]:
        raise UserError(f"{path} has no configuration {configuration}; it has {', '.join(content['configurations'])}")
    return make_splits(dataset, data_identifier(content, configuration))
