"""A model of an earlier version gives the masks which that version wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.cli import main

OLD = Path(__file__).parents[1] / "data" / "old_model"
CASES = {"one": "one click", "two": "a background click as well", "auto": "no prompt file"}


@pytest.mark.parametrize("scope", [("--scope", "clicked"), ("--scope", "everything", "--no_binding")])
def test_the_masks_are_the_same(scope: tuple[str, ...], tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for case in CASES:
        shutil.copy(OLD / "image.nii.gz", images / f"{case}_0000.nii.gz")
        if (OLD / f"{case}.json").is_file():
            shutil.copy(OLD / f"{case}.json", images)
    given = ("-i", images, "-o", output, "-m", OLD / "model", "-device", "cpu", *scope)
    assert main(["predict", *map(str, given)]) == 0
    volumes = set()
    for case in CASES:
        mask, before = (sitk.ReadImage(str(folder / f"{case}.nii.gz")) for folder in (output, OLD / "masks"))
        assert (mask.GetOrigin(), mask.GetDirection()) == (before.GetOrigin(), before.GetDirection())
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(before))
        volumes.add(int(sitk.GetArrayFromImage(mask).sum()))
    assert len(volumes) == len(CASES), "the clicks change the mask"
