"""A segmentation to start from: what clicks leave, remove, and have computed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.cases import find_cases
from nnsam3d.inference.model import Model

from .conftest import opened, volume, write_model

SHAPE = (24, 70, 70)


@pytest.fixture
def session(model: Model) -> Session:
    return opened(model, volume(SHAPE))


def two_balls() -> np.ndarray:
    """A lesion in a corner, an organ in the other one: further from each other than windows reach."""
    start = np.zeros(SHAPE, np.uint8)
    start[3:10, 3:14, 3:14] = 1
    start[14:21, 56:67, 56:67] = 2
    return start


def test_without_clicks_it_is_the_answer_and_reset_takes_it_away(session: Session) -> None:
    start = two_balls()
    session.start_from(start)
    np.testing.assert_array_equal(session.segmentation, start)
    assert session.changed_box == (slice(3, 21), slice(3, 67), slice(3, 67))
    session.reset()
    assert not session.segmentation.any()


def test_a_click_replaces_it_where_the_network_looked(session: Session, model: Model) -> None:
    start = two_balls()
    session.start_from(start)
    session.add_click((20, 20, 8), "lesion")
    alone = opened(model, volume(SHAPE))
    alone.add_click((20, 20, 8), "lesion")
    looked = np.zeros(SHAPE, bool)
    for box in alone._update().boxes:
        looked[box] = True
    assert looked.any()
    np.testing.assert_array_equal(session.segmentation, np.where(looked, alone.segmentation, start))
    session.undo()
    np.testing.assert_array_equal(session.segmentation, start)


def test_a_background_click_in_the_middle_removes_a_component_and_nothing_else(session: Session) -> None:
    start = two_balls()
    session.start_from(start)
    session.add_click((61, 61, 17), "background")
    np.testing.assert_array_equal(session.segmentation, np.where(start == 2, 0, start))


@pytest.mark.parametrize("i", [3, 4])  # at the rim, and half as deep as the middle
def test_a_background_click_beside_the_middle_has_the_component_computed_anew(
    session: Session, model: Model, i: int
) -> None:
    start = two_balls()
    session.start_from(start)
    session.add_click((i, 8, 6), "background")
    alone = opened(model, volume(SHAPE))
    alone.add_click((i, 8, 6), "background")
    alone.add_click((8, 8, 6), "lesion")  # the middle of the component, behind the user's own click
    assert session.segmentation[6, 8, i] == 0
    assert session.segmentation[6, 8, 8] == 1
    for box in alone._update().boxes:
        inside = alone.segmentation[box].copy()
        np.testing.assert_array_equal(session.segmentation[box], inside)
    np.testing.assert_array_equal(session.segmentation[14:, 56:, 56:], start[14:, 56:, 56:])
    assert len(session.clicks) == 1


def test_a_background_click_holds_where_a_positive_click_holds_the_component(session: Session) -> None:
    start = two_balls()
    start[3:10, 3:14, 3:66] = 1  # longer than the windows of one click
    session.start_from(start)
    session.add_click((8, 8, 6), "lesion")
    session.add_click((62, 8, 6), "background")
    assert session.segmentation[6, 8, 62] == 0
    assert session.segmentation[6, 8, 8] == 1


def test_files_and_wrong_ones(model: Model, write_image: object, tmp_path: Path) -> None:
    session = Session(model)
    session.set_image(write_image())  # type: ignore[operator]
    session.add_click((12, 12, 8), "lesion")
    before = session.segmentation
    session.save_segmentation(tmp_path / "start.nii.gz")
    other = Session(model)
    other.set_image(write_image())  # type: ignore[operator]
    other.start_from(tmp_path / "start.nii.gz")
    np.testing.assert_array_equal(other.segmentation, before)
    for wrong, words in (
        (np.zeros((2, 3, 4), int), r"the shape \(2, 3, 4\)"),
        (np.full(before.shape, 7), r"holds the values \[7\]"),
        (np.full(before.shape, 0.5), "not labels"),
        (tmp_path / "nothing.nii.gz", "nothing.nii.gz"),
    ):
        with pytest.raises(UserError, match=words):
            other.start_from(wrong)  # type: ignore[arg-type]
    np.testing.assert_array_equal(other.segmentation, before)
    moved = sitk.ReadImage(str(tmp_path / "start.nii.gz"))
    moved.SetOrigin([mm + 100 for mm in moved.GetOrigin()])
    sitk.WriteImage(moved, str(tmp_path / "other.nii.gz"))
    with pytest.raises(UserError, match="another case"):
        other.start_from(tmp_path / "other.nii.gz")
    np.testing.assert_array_equal(other.segmentation, before)
    array = opened(model, volume(SHAPE))
    with pytest.raises(UserError):
        array.save_segmentation(tmp_path / "x.nii.gz")
    assert not (tmp_path / "x.nii.gz").exists()


def test_regions(tmp_path: Path) -> None:
    """A component is that of the outermost region: a background click on the core's rim keeps no shell."""
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    model = Model(
        write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres", labels=labels), mirroring=False
    )
    session = opened(model, volume(SHAPE))
    start = two_balls()
    start[14:21, 56:67, 56:67] = 1
    start[16:19, 60:63, 60:63] = 2
    session.start_from(start)
    session.add_click((61, 61, 17), "background")
    assert not session.segmentation[14:21, 56:67, 56:67].any()
    np.testing.assert_array_equal(session.segmentation[:12], start[:12])


def test_slicers_segmentation_of_a_part_of_the_image(
    model: Model, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    session = Session(model)
    file = write_image()
    session.set_image(file)
    start = np.zeros(session.shape, np.uint8)
    start[3:6, 4:9, 5:12] = 1
    start[7:9, 4:9, 5:12] = 2
    whole = sitk.GetImageFromArray(np.where(start == 1, 7, np.where(start == 2, 1, 0)).astype(np.uint8))
    whole.CopyInformation(sitk.ReadImage(str(file)))
    part = sitk.RegionOfInterest(whole, [9, 7, 8], [4, 3, 2])
    for number, (name, value) in enumerate((("LESION", "7"), ("organ", "1"))):
        for key, text in (("Name", name), ("LabelValue", value), ("Layer", "0")):
            part.SetMetaData(f"Segment{number}_{key}", text)
    case = file.name.removesuffix("_0000.nii.gz")
    sitk.WriteImage(part, str(tmp_path / f"{case}.seg.nrrd"))
    session.start_from(tmp_path / f"{case}.seg.nrrd")
    np.testing.assert_array_equal(session.segmentation, start)
    session.save_prompts(tmp_path / "prompts.json")
    assert ".seg.nrrd" in (tmp_path / "prompts.json").read_text()
    again = opened(model, file)
    again.load_prompts(tmp_path / "prompts.json")
    np.testing.assert_array_equal(again.segmentation, start)
    (found,) = [one for one in find_cases(file.parent, model, start=tmp_path) if one.name == case]
    assert not found.problem
    assert found.prompts is not None
    assert found.prompts.masks[0].path.endswith(".seg.nrrd")
