"""Stand-ins for what is slow (the measured estimate) and for a dataset that nnU-Net has fingerprinted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.network import SAM3DConfig
from nnsam3d.planning import ladder

SHARES = {"none": 1.0, "cheap": 0.6, "blocks": 0.15}


def rough_gb(config: SAM3DConfig, batch: int, half: bool) -> float:
    """About the measured figure, in no time: what is kept grows with depth, width and tokens."""
    kept = 24.0 * config.depth * config.embed_dim * math.prod(config.token_grid) * batch * (1 if half else 2)
    decoder = 8.0 * (config.num_classes + config.decoder_dim / 4) * math.prod(config.patch_size) * batch
    parameters = 4.0 * 16 * config.depth * config.embed_dim**2
    return 0.5 + (kept * SHARES[config.checkpointing] + decoder + parameters) / 1e9


@pytest.fixture
def quick_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "estimate_gb", rough_gb)


MakeDataset = Callable[..., int]


@pytest.fixture
def make_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDataset:
    """Writes a raw dataset of one small image with the fingerprint of another; returns its number."""
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    for name, folder in (("raw", raw), ("preprocessed", preprocessed), ("results", tmp_path / "results")):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))

    def make(
        number: int = 700,
        spacing: tuple[float, ...] = (3.3, 1.0, 1.0),
        shape: tuple[int, ...] = (59, 148, 150),
        **overrides: Any,
    ) -> int:
        folder, name = raw, f"Dataset{number}_Made"
        dataset = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "tumour": 1},
            "numTraining": 41,
            "file_ending": ".nii.gz",
        } | overrides
        for part in ("imagesTr", "labelsTr"):
            (folder / name / part).mkdir(parents=True)
        image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
        sitk.WriteImage(image, str(folder / name / "imagesTr" / "a_0000.nii.gz"))
        sitk.WriteImage(image, str(folder / name / "labelsTr" / "a.nii.gz"))
        (folder / name / "dataset.json").write_text(json.dumps(dataset))
        (preprocessed / name).mkdir(parents=True)
        fingerprint = {
            "spacings": [list(spacing)] * 3,
            "shapes_after_crop": [list(shape)] * 3,
            "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
            "median_relative_size_after_cropping": 1.0,
        }
        (preprocessed / name / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return number

    return make
