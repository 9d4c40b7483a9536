"""The size of voxels: what is possible, and what a model can have seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.demo.phantom import SPACING_XYZ
from nnsam3d.errors import UserError
from nnsam3d.geometry.frames import open_header
from nnsam3d.geometry.headers import unknown_geometry
from nnsam3d.geometry.plausible import MEDIAN, checked_spacing, spacing_remark

STEPS = st.floats(0.3, 6.0)


@pytest.mark.parametrize(
    "spacing", [(1e8, 1, 1), (1, 1e-4, 1), (1, 1, 0), (1, -1, 1), (1, 1, np.nan), (1, 1, np.inf), (1, 1), 1.0, "1 1 1"]
)
def test_impossible_voxels_are_refused_by_name(spacing: object) -> None:
    with pytest.raises(UserError, match=r"a\.nii: spacing"):
        checked_spacing(spacing, "a.nii")


@given(st.tuples(STEPS, STEPS, STEPS), st.permutations([0, 1, 2]), st.sampled_from([10.0, 0.1, 1000.0, 0.001, 25.4]))
def test_wrong_units_are_told_and_right_ones_are_not(
    median: tuple[float, float, float], forward: list[int], factor: float
) -> None:
    plans = {MEDIAN: list(median), "transpose_forward": forward}
    own = [0.0, 0.0, 0.0]
    for axis, step in zip(forward, median, strict=True):
        own[axis] = step
    assert spacing_remark(plans, own) is None
    remark = spacing_remark(plans, [factor * step for step in own])
    assert remark is not None
    assert f"{factor:.3g} times larger" in remark or f"{1 / factor:.3g} times smaller" in remark
    assert ("metres" in remark) == (factor in (0.1, 1000.0, 0.001))


@pytest.mark.parametrize("spacing", [(5, 0.7, 0.7), (0.5, 0.5, 0.5), (2, 2, 2), (8, 1, 1), (1, 1, 1)])
def test_thick_slices_and_other_scanners_are_no_reason(spacing: tuple[float, float, float]) -> None:
    assert spacing_remark({MEDIAN: [1, 1, 1]}, spacing) is None
    assert spacing_remark({MEDIAN: [3, 0.8, 0.8]}, spacing) is None


def test_the_cases_of_the_training_extend_the_range(tmp_path: Path) -> None:
    plans = {MEDIAN: [1.0, 1.0, 1.0], "transpose_forward": [2, 0, 1]}
    (tmp_path / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[8, 6, 7], [0.5, 0.5, 0.5]]}))
    assert spacing_remark(plans, (8, 6, 7)) is not None
    assert spacing_remark(plans, (8, 6, 7), tmp_path) is None
    assert spacing_remark(plans, (80, 60, 70), tmp_path) is not None
    (tmp_path / "dataset_fingerprint.json").write_text("[")
    assert spacing_remark(plans, (8, 6, 7), tmp_path) is not None


def test_plans_without_a_median_have_configurations() -> None:
    plans = {"configurations": {"2d": {"spacing": [1, 1]}, "3d": {"spacing": [2, 1, 1]}, "inherits": {}}}
    assert spacing_remark(plans, (2, 1, 1)) is None
    assert spacing_remark(plans, (20, 10, 10)) is not None
    assert spacing_remark({}, (20, 10, 10)) is None


def test_no_false_alarm_on_phantoms() -> None:
    spacing = SPACING_XYZ[::-1]
    assert spacing_remark({MEDIAN: list(spacing)}, spacing) is None


def test_no_false_alarm_on_real_data(real_data: Path) -> None:
    for folder in sorted(real_data.glob("Dataset*")):
        files = sorted(folder.glob("imagesTr/*.nii.gz"))
        assert not [file for file in files if unknown_geometry(file)]
        spacings = [open_header(file).GetSpacing()[::-1] for file in files]
        plans = {MEDIAN: np.median(spacings, axis=0).tolist()}
        assert spacings
        for spacing in spacings:
            assert spacing_remark(plans, spacing) is None
            for factor in (10, 0.1, 1000):
                assert spacing_remark(plans, [factor * step for step in spacing]) is not None


def test_an_image_without_geometry(tmp_path: Path) -> None:
    import nibabel

    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    for name in ("a.nii.gz", "a.nrrd", "a.mha", "a.tif"):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        remark = unknown_geometry(tmp_path / name)
        assert remark is not None
        assert remark.startswith("orientation and spacing unknown")
    for affine, told in ((None, True), (np.eye(4), True), (np.diag([2, 1, 1, 1]), False)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "b.nii.gz")
        assert (unknown_geometry(tmp_path / "b.nii.gz") is not None) == told
    turned = sitk.GetImageFromArray(array)
    turned.SetOrigin((1, 0, 0))
    sitk.WriteImage(turned, str(tmp_path / "c.nrrd"))
    assert unknown_geometry(tmp_path / "c.nrrd") is None
