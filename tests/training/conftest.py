"""Plans as nnU-Net writes them, as far as this library reads them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

_CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [16, 32, 32],
    "spacing": [2.0, 1.0, 1.0],
    "batch_dice": False,
    "architecture": {"network_class_name": "x.PlainConvUNet", "arch_kwargs": {}, "_kw_requires_import": []},
}


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """nnU-Net's folders, empty, and no dataset that a trainer would look for."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda folder: None)


@pytest.fixture
def plans() -> dict[str, Any]:
    return {
        "plans_name": "nnUNetPlans",
        "dataset_name": "Dataset999_Test",
        "configurations": {
            "2d": {**deepcopy(_CONFIGURATION), "patch_size": [32, 32]},
            "3d_fullres": deepcopy(_CONFIGURATION),
            "3d_flat": {**deepcopy(_CONFIGURATION), "patch_size": [1, 32, 32]},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


@pytest.fixture
def dataset_json() -> dict[str, Any]:
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3},
        "file_ending": ".nii.gz",
    }
