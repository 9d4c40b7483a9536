"""Brush and eraser: what is painted is the mask there, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnsam3d.inference.cases import find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Session
from nnsam3d.prompts import Paint, PromptError

from .conftest import opened, read, volume, write_model

SHAPE = (20, 40, 30)
AT = (15, 20, 10)  # i, j, k
STROKE = [(i, 20, 10) for i in range(2, 9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_model(tmp_path_factory.mktemp("paint") / "model"))


@pytest.fixture
def session(model: Model) -> Session:
    return opened(model, volume(SHAPE), (2.0, 1.0, 1.5))


def test_paint_alone_asks_the_network_nothing(session: Session) -> None:
    session.add([Paint(STROKE, "organ")])
    expected = np.zeros(SHAPE, np.uint8)
    expected[10, 20, 2:9] = 2
    np.testing.assert_array_equal(session.segmentation, expected)
    assert session.changed_box == (slice(10, 11), slice(20, 21), slice(2, 9))


def test_the_last_stroke_counts_and_a_click_does_not_undo_it(session: Session) -> None:
    session.add_click(AT, "lesion")
    clicked = session.segmentation.copy()
    session.add([Paint(STROKE, "organ")])
    session.add([Paint(STROKE[2:4], "background")])
    session.add([Paint(STROKE[3:4], "lesion")])
    expected = clicked.copy()
    expected[10, 20, 2:9] = [2, 2, 0, 1, 2, 2, 2]
    np.testing.assert_array_equal(session.segmentation, expected)
    session.add_click((5, 20, 10), "lesion")  # on the paint
    assert session.segmentation[10, 20, 2:9].tolist() == [2, 2, 0, 1, 2, 2, 2]
    for _ in range(4):
        session.undo()
    np.testing.assert_array_equal(session.segmentation, clicked)


def test_one_stroke_is_taken_out(session: Session) -> None:
    session.add([Paint(STROKE[:3], "organ")])
    session.add([Paint(STROKE[3:], "organ")])
    session.remove(0)
    assert session.segmentation[10, 20].tolist() == [0] * 5 + [2] * 4 + [0] * 21


def test_a_mask_to_start_from_is_painted_over(session: Session) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:14, 15:25, 0:12] = 1
    session.start_from(mask)
    session.add([Paint(STROKE, "background")])
    mask[10, 20, 2:9] = 0
    np.testing.assert_array_equal(session.segmentation, mask)


def test_a_saved_file_gives_the_same_mask_to_predict(model: Model, tmp_path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume(SHAPE))
    image.SetSpacing((1.5, 1.0, 2.0))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, str(tmp_path / "images" / "a_0000.nii.gz"))
    session = opened(model, tmp_path / "images" / "a_0000.nii.gz")
    session.add_click(AT, "lesion")
    session.add([Paint(STROKE, "organ")])
    session.save_prompts(tmp_path / "images" / "a.json")
    cases = find_cases(tmp_path / "images", model)
    (outcome,), _ = predict_folder(model, cases, tmp_path / "out", FolderOptions())
    assert outcome.status == "done"
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.nii.gz"), session.segmentation)
    again = opened(model, tmp_path / "images" / "a_0000.nii.gz")
    again.load_prompts(tmp_path / "images" / "a.json")
    np.testing.assert_array_equal(again.segmentation, session.segmentation)


def test_paint_outside_the_image_or_with_another_label_is_refused(session: Session) -> None:
    with pytest.raises(PromptError, match="outside"):
        session.add([Paint([(500, 0, 0)], "organ")])
    with pytest.raises(PromptError, match="spleen"):
        session.add([Paint(STROKE, "spleen")])
    assert session.prompts == ()


def test_paint_around_the_image_but_not_in_it_changes_nothing(session: Session) -> None:
    session.add_click(AT, "lesion")
    before = session.segmentation.copy()
    session.add([Paint([(-5, 5, 5), (999, 5, 5)], "organ")])
    np.testing.assert_array_equal(session.segmentation, before)
