"""A mask to start from in prompt files: what is written, and that `predict` gives the session's mask."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.cases import Case, find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import MASKS_FOLDER
from nnsam3d.nnunet.cases import check_all_prompts, strays
from nnsam3d.prompts import CasePrompts, Click, MaskPrompt, PromptError, read_prompts, write_prompts

from .conftest import opened, read, volume, write_model

SHAPE = (16, 70, 80)


@pytest.fixture
def image(write_image: Callable[..., Path]) -> Path:
    """Oblique, with spacings of its own."""
    return write_image("case_0000.nii.gz", SHAPE, spacing_xyz=(0.9, 1.1, 1.3))


def started(model: Model, image: Path) -> Session:
    """A session with a mask to start from, far from the click at least in part."""
    session = opened(model, image)
    session.start_from(mask())
    session.add_click((12, 12, 8), 1)
    session.add_click((20, 14, 8), "background")
    return session


def mask() -> np.ndarray:
    start = np.zeros(SHAPE, np.uint8)
    start[2:13, 55:68, 65:77] = 2
    start[3:6, 3:8, 3:9] = 1
    return start


def predicted(model: Model, images: Path, output: Path, prompts: Path | None = None, **options: Any) -> np.ndarray:
    (case,) = find_cases(images, model, prompts)
    (outcome,), _ = predict_folder(model, [case], output, FolderOptions(**options))
    assert outcome.status == "done", outcome.error
    return read(output / "case.nii.gz")


def failed(case: Case, model: Model, output: Path, **options: Any) -> str:
    (outcome,), _ = predict_folder(model, [case], output, FolderOptions(**options))
    assert outcome.status == "failed"
    assert not (output / "case.nii.gz").exists()
    return outcome.error


def test_predict_starts_from_the_mask_and_gives_the_sessions(model: Model, image: Path, tmp_path: Path) -> None:
    """Written beside the images, where every file that looks like an image would be taken for one."""
    session = started(model, image)
    wanted = session.segmentation.copy()
    alone = opened(model, image)
    for click in session.clicks:
        alone.add_click(click.position, click.label)
    assert (wanted != alone.segmentation).any(), "the mask says something"
    file = image.parent / "case.json"
    session.save_prompts(file)
    assert read_prompts(file).prompts == (MaskPrompt(f"{MASKS_FOLDER}/case.nii.gz"), *session.clicks)
    assert list(strays(image.parent, ["case"])) == []
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "out"), wanted)
    again = opened(model, image)
    again.load_prompts(file)
    assert again.started
    np.testing.assert_array_equal(again.segmentation, wanted)
    assert again.undo() == "prompts"
    assert not again.started
    again.redo()
    again.save_prompts(tmp_path / "moved.json")  # names the file that it was read from
    assert not (tmp_path / MASKS_FOLDER).exists()
    (path,) = (one.path for one in read_prompts(tmp_path / "moved.json").masks)
    assert (tmp_path / path).resolve() == image.parent / MASKS_FOLDER / "case.nii.gz"
    assert not os.path.isabs(path)


@pytest.mark.parametrize("seed", range(1, 3))
def test_whatever_was_clicked_is_predicted_again(model: Model, image: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    session = opened(model, image)
    session.start_from(mask())
    for _ in range(6):
        z, y, x = choose.choice(np.argwhere(mask() > 0)) if choose.random() < 0.5 else map(choose.randrange, SHAPE)
        session.add_click((x, y, z), choose.randrange(3))
        if choose.random() < 0.3:
            session.undo()
    session.save_prompts(image.parent / "case.json")
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "out"), session.segmentation)


def test_the_command_and_its_report(predict: Any, model: Model, image: Path, tmp_path: Path) -> None:
    session = started(model, image)
    (tmp_path / "clicks").mkdir()
    session.save_prompts(tmp_path / "clicks" / "case.json")
    more = ("--prompts", tmp_path / "clicks", "--report", tmp_path / "report.json")
    status, out = predict(*more, folder=image.parent)
    assert status == 0
    np.testing.assert_array_equal(read(out / "case.nii.gz"), session.segmentation)
    (case,) = json.loads((tmp_path / "report.json").read_text())["cases"]
    assert case["masks"] == [{"path": f"{MASKS_FOLDER}/case.nii.gz", "label": None}]
    assert len(case["clicks"]) == 2


def test_a_mask_without_clicks_is_the_answer(model: Model, image: Path, tmp_path: Path) -> None:
    session = opened(model, image)
    session.start_from(mask())
    session.save_prompts(image.parent / "case.json")
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "out"), mask())
    session.reset()
    with pytest.raises(UserError, match="no prompts to save"):
        session.save_prompts(image.parent / "case.json")


def test_the_file_is_named_while_it_is_what_was_read(model: Model, image: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labelsTr"
    labels.mkdir()
    started(model, image).save_segmentation(labels / "case.nii.gz")
    start = read(labels / "case.nii.gz")
    session = opened(model, image)
    session.start_from(labels / "case.nii.gz")
    session.add_click((12, 12, 8), "organ")
    wanted = session.segmentation.copy()
    clicks = tmp_path / "clicks"
    clicks.mkdir()
    session.save_prompts(clicks / "case.json")
    assert read_prompts(clicks / "case.json").masks == (MaskPrompt("../labelsTr/case.nii.gz"),)
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "one", clicks), wanted)
    session.save_segmentation(labels / "case.nii.gz")  # replaces what it started from
    assert (wanted != start).any()
    session.save_prompts(clicks / "case.json")
    assert read_prompts(clicks / "case.json").masks == (MaskPrompt(f"{MASKS_FOLDER}/case.nii.gz"),)
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "two", clicks), wanted)
    np.testing.assert_array_equal(read(clicks / MASKS_FOLDER / "case.nii.gz"), start)


def test_a_folder_behind_a_symbolic_link(model: Model, image: Path, tmp_path: Path) -> None:
    """ ".." of a link is the folder above its target."""
    session = opened(model, image)
    session.start_from(mask())
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    session.save_segmentation(tmp_path / "start.nii.gz")
    session.start_from(tmp_path / "start.nii.gz")
    session.save_prompts(tmp_path / "link" / "case.json")
    session.reset()
    session.load_prompts(tmp_path / "link" / "case.json")
    np.testing.assert_array_equal(session.segmentation, mask())


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_clicks_in_mm_beside_a_mask(model: Model, image: Path, tmp_path: Path, space: Any) -> None:
    """Also where a background click at the rim has the component computed anew, from a click in voxels."""
    session = opened(model, image)
    session.start_from(mask())
    session.add_click((65, 60, 7), "background")
    wanted = session.segmentation.copy()
    assert (wanted != mask()).sum() > 1
    session.save_prompts(image.parent / "case.json")
    stored = read_prompts(image.parent / "case.json")
    write_prompts(image.parent / "case.json", stored.to(space, session.grid))
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "out"), wanted)
    session.reset()
    session.load_prompts(image.parent / "case.json")
    np.testing.assert_array_equal(session.segmentation, wanted)


def test_one_label_of_a_mask_and_several_masks(model: Model, image: Path, tmp_path: Path) -> None:
    session = opened(model, image)
    session.start_from(mask())
    session.save_segmentation(tmp_path / "both.nii.gz")
    other = np.zeros(SHAPE, np.uint8)
    other[4:8, 4:10, 4:10] = 2
    session.start_from(other)
    session.save_segmentation(tmp_path / "other.nii.gz")
    file = tmp_path / "case.json"
    for prompts, wanted in (
        ([MaskPrompt("both.nii.gz", "organ")], np.where(mask() == 2, 2, 0)),
        ([MaskPrompt("both.nii.gz", 1)], np.where(mask() == 1, 1, 0)),
        ([MaskPrompt("both.nii.gz"), MaskPrompt("other.nii.gz")], np.where(other > 0, other, mask())),
        ([MaskPrompt(str(tmp_path / "both.nii.gz"))], mask()),
    ):
        write_prompts(file, CasePrompts("case", "voxel", prompts))
        session.load_prompts(file)
        np.testing.assert_array_equal(session.segmentation, wanted)


def test_regions(tmp_path: Path, image: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    model = Model(
        write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres", labels=labels), mirroring=False
    )
    session = started(model, image)
    session.save_prompts(image.parent / "case.json")
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "out"), session.segmentation)
    write_prompts(
        image.parent / "case.json", CasePrompts("case", "voxel", [MaskPrompt(f"{MASKS_FOLDER}/case.nii.gz", "whole")])
    )
    np.testing.assert_array_equal(predicted(model, image.parent, tmp_path / "whole"), mask())


def test_an_array_without_geometry_keeps_its_mask_as_well(model: Model, tmp_path: Path) -> None:
    session = Session(model)
    session.set_image(volume(SHAPE), spacing=(0.8, 0.7, 0.6))
    session.start_from(mask())
    session.add_click((12, 12, 8), "lesion")
    wanted = session.segmentation.copy()
    session.save_prompts(tmp_path / "case.json")
    session.reset()
    session.load_prompts(tmp_path / "case.json")
    np.testing.assert_array_equal(session.segmentation, wanted)


def test_clicks_alone_are_written_as_ever(model: Model, image: Path, tmp_path: Path) -> None:
    session = opened(model, image)
    session.add_click((12, 12, 8), "lesion")
    session.save_prompts(tmp_path / "a.json")
    session.reset()
    session.start_from(mask())
    session.add_click((12, 12, 8), "lesion")
    session.save_prompts(tmp_path / "b.json", masks=False)
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    assert text == (
        '{\n  "nnsam3d_prompts": 1,\n  "space": "voxel",\n  "clicks": [\n'
        '    {"position": [12.0, 12.0, 8.0], "label": "lesion"}\n  ]\n}\n'
    )
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["a.json", "b.json"]
    session.load_prompts(tmp_path / "a.json")
    assert session.started, "a file without a mask replaces the clicks only"


def test_a_strangers_file_names_no_mask(model: Model, image: Path, tmp_path: Path) -> None:
    session = opened(model, image)
    session.add_click((12, 12, 8), "lesion")
    for path in ("/etc/passwd", "../x.nii.gz", "case.nii.gz"):
        write_prompts(tmp_path / "up.json", CasePrompts("up", "voxel", [MaskPrompt(path), Click((1, 1, 1), 1)]))
        with pytest.raises(PromptError, match="load the mask itself"):
            session.load_prompts(tmp_path / "up.json", masks=False)
    assert [click.label for click in session.clicks] == ["lesion"]


def test_mistakes_are_told_before_anything_is_computed(model: Model, image: Path, tmp_path: Path) -> None:
    file = image.parent / "case.json"
    small = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    sitk.WriteImage(small, str(tmp_path / "small.nii.gz"))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    for name, words in (
        ("missing.nii.gz", "does not exist"),
        ("small.nii.gz", r"the shape \(3, 4, 5\)"),
        ("broken.nii.gz", "broken.nii.gz"),
    ):
        write_prompts(file, CasePrompts("case", "voxel", [MaskPrompt(str(tmp_path / name)), Click((1, 1, 1), 1)]))
        (case,) = find_cases(image.parent, model)
        with pytest.raises(UserError, match=words):
            raise UserError(case.problem)
    wrong = sitk.GetImageFromArray(np.full(SHAPE, 7, np.uint8))
    wrong.CopyInformation(sitk.ReadImage(str(image)))
    sitk.WriteImage(wrong, str(tmp_path / "wrong.nii.gz"))
    write_prompts(file, CasePrompts("case", "voxel", [MaskPrompt(str(tmp_path / "wrong.nii.gz"))]))
    (case,) = find_cases(image.parent, model)
    assert "holds the values [7]" in failed(case, model, tmp_path / "out")


def test_what_a_mask_cannot_be_combined_with(model: Model, image: Path, tmp_path: Path) -> None:
    started(model, image).save_prompts(image.parent / "case.json")
    (case,) = find_cases(image.parent, model)
    for options, name in (
        ({"scope": "everything"}, "--scope everything"),
        ({"bind": False}, "--no_binding"),
        ({"probabilities": True}, "--save_probabilities"),
    ):
        assert f"not possible with {name}" in failed(case, model, tmp_path / "out", **options)


def test_the_stock_prediction_refuses_it_by_name(model: Model, image: Path) -> None:
    started(model, image).save_prompts(image.parent / "case.json")
    with pytest.raises(PromptError, match=r"case\.json: starts from a mask .*`nnsam3d predict`"):
        check_all_prompts(image.parent, ".nii.gz", model.labels, model.reader_name)
