"""The demo's phantoms: separate lesions, and lesions that touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnsam3d.demo import phantom
from nnsam3d.demo.phantom import (
    DATASET_NAME,
    SPACING_XYZ,
    PhantomCase,
    make_bridged_case,
    make_case,
    write_bridged_tests,
    write_dataset,
)


@pytest.fixture(scope="module")
def case() -> PhantomCase:
    return make_case(np.random.default_rng(4))


def test_two_lesions_that_only_a_click_can_tell_apart(case: PhantomCase) -> None:
    image = sitk.GetArrayFromImage(case.image)
    assert not (case.target_DHW & case.lookalike_DHW).any()
    assert abs(image[case.target_DHW].mean() - image[case.lookalike_DHW].mean()) < 15
    assert not np.allclose(np.abs(np.reshape(case.image.GetDirection(), (3, 3))), np.eye(3)), "oblique"
    assert len(set(case.image.GetSpacing())) == 2, "anisotropic"


def test_the_same_seed_gives_the_same_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, num_training=4, num_test=1, seed=7, bridged_share=0.5)
        write_bridged_tests(tmp_path / name, 1, seed=7)
    files = [sorted((tmp_path / name / DATASET_NAME).rglob("*.nii.gz")) for name in ("a", "b")]
    assert len(files[0]) == 4 * 2 + 1 + 1
    for first, second in zip(*files, strict=True):
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (first, second)))


def test_separate_lesions_stay_far_apart() -> None:
    for seed in range(10):
        case = make_case(np.random.default_rng(seed))
        away_mm = ndimage.distance_transform_edt(~case.lookalike_DHW, SPACING_XYZ[::-1])
        assert away_mm[case.target_DHW].min() > 3.0


def test_bridged_lesions_touch_and_are_like_one_another() -> None:
    for seed in range(20):
        case = make_bridged_case(np.random.default_rng(seed))
        image = sitk.GetArrayFromImage(case.image)
        assert not (case.target_DHW & case.lookalike_DHW).any()
        assert ndimage.label(case.target_DHW | case.lookalike_DHW)[1] == 1, "they share a face"
        sizes = sorted((int(case.target_DHW.sum()), int(case.lookalike_DHW.sum())))
        assert sizes[1] < 5 * sizes[0], "neither is a mere rim of the other"
        assert abs(image[case.target_DHW].mean() - image[case.lookalike_DHW].mean()) < 15


def test_a_bridged_label_is_one_lesion_or_both_of_the_same_image() -> None:
    one, both = (make_bridged_case(np.random.default_rng(3), both) for both in (False, True))
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(case.image) for case in (one, both)))
    np.testing.assert_array_equal(both.target_DHW, one.target_DHW | one.lookalike_DHW)
    assert not both.lookalike_DHW.any()


def test_a_share_of_the_training_cases_is_bridged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[bool] = []

    def recorded(rng: np.random.Generator, *, both: bool) -> PhantomCase:
        labels.append(both)
        return make_bridged_case(rng, both)

    monkeypatch.setattr(phantom, "make_bridged_case", recorded)
    write_dataset(tmp_path, num_training=20, num_test=1, seed=5, bridged_share=0.4)
    assert len(labels) == 8
    assert set(labels) == {False, True}
    assert len(list((tmp_path / DATASET_NAME / "labelsTr").iterdir())) == 20
