"""Class-agnostic models: any label is an object of its own, and none takes what another one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json, save_json

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.cases import find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.inference.objects import NO_PROMPT, Claim, joined, objects_of, prompts_of_object
from nnsam3d.network import SAM3D
from nnsam3d.prompts import Box, CasePrompts, Click, MaskPrompt, PromptCodec, PromptError, write_prompts
from nnsam3d.prompts.kinds import KINDS, Paint
from nnsam3d.prompts.labels import numbered_labels
from nnsam3d.prompts.targets import class_agnostic

from .conftest import opened, read, volume, write_model

SHAPE = (20, 40, 40)
LABELS = {"background": 0, "object": 1}


def agnostic(folder: Path) -> Path:
    """Marks a model with one label as one that was trained with targets=any."""
    plans = load_json(str(folder / "plans.json"))
    plans["configurations"]["3d_fullres"]["nnsam3d"] = {"targets": "any"}
    save_json(plans, str(folder / "plans.json"))
    dataset = load_json(str(folder / "dataset.json"))
    save_json(class_agnostic(dataset), str(folder / "dataset.json"), sort_keys=False)
    return folder


def boxes_only(net: SAM3D, codec: PromptCodec) -> None:
    """The object is what its box holds, the more so the deeper it lies in it."""
    decoder = net.mask_decoder
    for convolution in (decoder.cls[-1], decoder.extent_map, decoder.extent_logits):
        torch.nn.init.zeros_(convolution.weight)
    decoder.extent_logits.weight[1, codec.maps.index(("box_el", 1)), 1, 1, 1] = 20.0
    decoder.extent_logits.weight[0, codec.maps.index(("box_el", 1)), 1, 1, 1] = -1.0


@pytest.fixture(scope="session")
def agnostic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agnostic") / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    return agnostic(write_model(folder, labels=LABELS, kinds=tuple(KINDS), hears=boxes_only))


@pytest.fixture
def model(agnostic_folder: Path) -> Model:
    return Model(agnostic_folder, [0], mirroring=False)


@pytest.fixture
def session(model: Model) -> Session:
    return opened(model, volume(SHAPE))


# ---------------------------------------------------------------------- labels and prompts


def test_labels_are_numbered_in_order_of_use() -> None:
    assert numbered_labels([]) == {"background": 0}
    assert numbered_labels(["b", "a", "background", 0, "b", None]) == {"background": 0, "b": 1, "a": 2}
    assert numbered_labels([2, "a", "b"]) == {"background": 0, "2": 2, "a": 1, "b": 3}
    assert numbered_labels(["c", 1], {"a": 1}) == {"background": 0, "a": 1, "c": 2}
    assert numbered_labels(["5", 5, "a"]) == numbered_labels([5, "5", "a"]) == {"background": 0, "5": 5, "a": 1}
    assert numbered_labels(["1"], {"a": 1}) == {"background": 0, "a": 1, "1": 2}


def test_clicks_on_one_object_are_background_of_the_others() -> None:
    prompts = CasePrompts(
        "case",
        "voxel",
        [Click((1, 1, 1), "a"), Box((0, 0, 0), (4, 4, 4), "b"), Click((2, 2, 2), "b"), Click((3, 3, 3), "background")],
    )
    labels = numbered_labels(prompt.label for prompt in prompts.prompts)
    assert objects_of(prompts, labels) == [1, 2]
    own, numbers = prompts_of_object(prompts, labels, 1)
    assert [prompt.label for prompt in own.prompts] == [1, 0, 0]
    assert numbers == [1, 2, 3]
    other, _ = prompts_of_object(prompts, labels, 2)
    assert [(prompt.kind, prompt.label) for prompt in other.prompts] == [
        ("click", 0),
        ("box", 1),
        ("click", 1),
        ("click", 0),
    ]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_stronger_object_has_a_contested_voxel(order: tuple[int, int]) -> None:
    strong, weak = np.zeros((1, 1, 8), np.uint8), np.zeros((1, 1, 8), np.uint8)
    strong[..., :5], weak[..., 3:] = 1, 1
    whole = (slice(0, 1), slice(0, 1), slice(0, 8))
    part = (slice(0, 1), slice(0, 1), slice(2, 8))
    claims = [
        Claim(1, strong, (whole,), [(whole, np.full((1, 1, 8), 0.9, np.float32))]),
        Claim(2, weak, (part,), [(part, np.full((1, 1, 6), 0.6, np.float32))]),
    ]
    label_map = joined([claims[number] for number in order], (1, 1, 8))
    assert label_map.reshape(-1).tolist() == [1, 1, 1, 1, 1, 2, 2, 2]
    assert joined([Claim(300, strong, (whole,), ())], (1, 1, 8)).max() == 300


# ---------------------------------------------------------------------- sessions


def test_any_name_is_a_label(session: Session) -> None:
    assert session.labels == LABELS
    session.add_box((3, 3, 3), (12, 12, 9), "left kidney")
    first = np.array(session.segmentation)
    assert set(np.unique(first)) == {0, 1}
    session.add_box((20, 20, 8), (30, 30, 15), "cyst")
    assert session.labels == {"background": 0, "left kidney": 1, "cyst": 2}
    both = np.array(session.segmentation)
    assert set(np.unique(both)) == {0, 1, 2}
    np.testing.assert_array_equal(both == 1, first == 1)
    session.undo()
    np.testing.assert_array_equal(session.segmentation, first)
    assert session.labels["cyst"] == 2, "it can be redone"


def test_two_objects_divide_what_both_claim(session: Session) -> None:
    session.add_box((4, 4, 4), (20, 16, 12), "a")
    alone = np.array(session.segmentation) == 1
    session.add_box((14, 4, 4), (30, 16, 12), "b")
    both = np.array(session.segmentation)
    claimed = alone[:, :, 14:21]
    assert set(np.unique(both[:, :, 14:21][claimed])) == {1, 2}
    assert (both[:, :, :14] == 2).sum() == 0
    assert both[8, 10, 6] == 1
    assert both[8, 10, 28] == 2


def test_a_click_on_one_object_takes_it_from_the_other(session: Session) -> None:
    session.add_box((4, 4, 4), (20, 16, 12), "a")
    assert session.segmentation[8, 10, 17] == 1
    session.add_click((17, 10, 8), "b")
    assert session.segmentation[8, 10, 17] == 2
    session.add_click((17, 10, 8), "a")
    assert session.segmentation[8, 10, 17] == 1


def test_results_depend_on_the_prompts_only(session: Session, tmp_path: Path, model: Model) -> None:
    session.add_box((4, 4, 4), (20, 16, 12), "a")
    session.add_box((14, 4, 4), (30, 16, 12), "b")
    session.save_prompts(tmp_path / "saved.json")
    again = opened(model, volume(SHAPE))
    again.load_prompts(tmp_path / "saved.json")
    assert again.labels == session.labels
    np.testing.assert_array_equal(again.segmentation, session.segmentation)


def test_slicers_files_keep_labels_of_any_kind(
    session: Session, tmp_path: Path, model: Model, write_image: Any
) -> None:
    image = str(write_image(shape=SHAPE))
    session.set_image(image)
    for number, label in enumerate([1, "lesion-2", "object", 7]):
        session.add_click((5 + 5 * number, 5, 5), label)
    session.save_prompts(tmp_path / "saved.mrk.json")
    again = Session(model)
    again.set_image(image)
    again.load_prompts(tmp_path / "saved.mrk.json")
    assert again.labels == session.labels


def test_without_a_prompt_nothing_is_segmented(session: Session) -> None:
    assert not session.segmentation.any()
    session.add_click((3, 3, 3), "background")
    assert not session.segmentation.any()
    assert NO_PROMPT in session.remarks


def test_a_mask_to_start_from_keeps_objects_without_prompts(session: Session) -> None:
    before = np.zeros(SHAPE, np.uint8)
    before[2:6, 2:8, 2:8], before[8:14, 20:30, 20:30] = 3, 7
    session.start_from(before)
    np.testing.assert_array_equal(session.segmentation, before)
    assert session.labels == {"background": 0, "3": 3, "7": 7}
    session.add_box((10, 2, 2), (18, 10, 8), "new")
    after = np.array(session.segmentation)
    assert session.labels["new"] == 1
    np.testing.assert_array_equal(after == 3, before == 3)
    np.testing.assert_array_equal(after == 7, before == 7)
    assert after[5, 6, 14] == 1


def test_an_object_keeps_its_mask_where_only_others_were_computed(session: Session) -> None:
    before = np.zeros(SHAPE, np.uint8)
    before[2:6, 2:8, 2:8], before[8:14, 28:36, 28:36] = 3, 3
    session.start_from(before)
    session.add_box((2, 2, 2), (8, 8, 6), "3")  # computed here, and not at the second component
    session.add_box((31, 28, 8), (38, 36, 14), "new")
    far, after = before[8:14, 28:36, 28:36], np.array(session.segmentation)[8:14, 28:36, 28:36]
    assert set(np.unique(after).tolist()) == {1, 3}
    np.testing.assert_array_equal(after[after != 1], far[after != 1])


def test_large_numbers_of_a_mask_and_of_paint_stay(session: Session) -> None:
    before = np.zeros(SHAPE, np.uint16)
    before[2:6, 2:8, 2:8], before[8:14, 20:30, 20:30] = 256, 1001
    session.start_from(before)
    np.testing.assert_array_equal(session.segmentation, before)
    session.add_box((10, 2, 2), (18, 10, 8), "new")
    np.testing.assert_array_equal(np.array(session.segmentation) >= 256, before > 0)
    session.reset()
    session.add([Paint([(30, 30, 15), (30, 31, 15)], 300)])
    assert set(np.unique(session.segmentation).tolist()) == {0, 300}


def test_what_a_later_click_calls_background_is_no_object(model: Model) -> None:
    image = PreparedImage(model, volume(SHAPE)[None], {"spacing": [1.0, 1.0, 1.0]})
    both = CasePrompts("case", "voxel", [Click((5, 5, 5), "a"), Click((5, 5, 5), "background")])
    result = image.segment(both)
    assert not result.label_map.any()
    assert not result.windows, "nothing is computed for it, least of all the whole image"


def test_probabilities_are_those_of_one_object(session: Session) -> None:
    session.add_box((4, 4, 4), (20, 16, 12), "a")
    np.testing.assert_array_equal(session.probabilities[1] > 0.5, np.array(session.segmentation) == 1)
    session.add_box((14, 4, 4), (30, 16, 12), "b")
    _ = session.segmentation
    with pytest.raises(UserError, match="segments every object separately"):
        _ = session.probabilities


def test_prompts_outside_are_refused_for_every_object(session: Session) -> None:
    session.add_click((3, 3, 3), "a")
    with pytest.raises(PromptError, match="outside the image"):
        session.add_click((300, 3, 3), "b")
    assert len(session.prompts) == 1


def test_labels_may_be_fixed(agnostic_folder: Path, model_folder: Path) -> None:
    fixed = Session(Model(agnostic_folder, [0], mirroring=False, objects=["liver", "spleen"]))
    fixed.set_image(volume(SHAPE), spacing=(1, 1, 1))
    assert fixed.labels == {"background": 0, "liver": 1, "spleen": 2}
    fixed.add_box((4, 4, 4), (20, 16, 12), "spleen")
    assert set(np.unique(fixed.segmentation)) == {0, 2}
    with pytest.raises(PromptError, match="unknown label 'kidney'"):
        fixed.add_click((3, 3, 3), "kidney")
    with pytest.raises(UserError, match="only class-agnostic"):
        Model(model_folder, [0], objects=["liver"])
    with pytest.raises(UserError, match="a name of its own"):
        Model(agnostic_folder, [0], objects=["liver", "liver"])


# ---------------------------------------------------------------------- folders


@pytest.mark.parametrize("scope", ["clicked", "everything"])
def test_a_folder_of_prompt_files_with_any_labels(
    model: Model, write_image: Callable[..., Path], tmp_path: Path, scope: str
) -> None:
    images = write_image("one_0000.nii.gz", SHAPE).parent
    write_image("two_0000.nii.gz", SHAPE)
    write_image("none_0000.nii.gz", SHAPE)
    for case, labels in {"one": ("spleen", "liver"), "two": ("kidney", "spleen")}.items():
        corners = [((4, 4, 4), (14, 14, 10)), ((22, 20, 8), (32, 30, 16))]
        boxes = [Box(low, high, label) for (low, high), label in zip(corners, labels, strict=True)]
        write_prompts(images / f"{case}.json", CasePrompts(case, "voxel", boxes))
    cases = find_cases(images, model)
    assert not any(case.problem for case in cases), [case.problem for case in cases]
    outcomes, _ = predict_folder(model, cases, tmp_path / "out", FolderOptions(scope=scope))
    assert all(outcome.status == "done" for outcome in outcomes), [outcome.error for outcome in outcomes]
    declared = load_json(str(tmp_path / "out" / "dataset.json"))["labels"]
    assert declared == {"background": 0, "kidney": 1, "liver": 2, "spleen": 3}
    masks = {name: read(tmp_path / "out" / f"{name}.nii.gz") for name in ("one", "two", "none")}
    found = {name: set(np.unique(mask).tolist()) for name, mask in masks.items()}
    assert found == {"one": {0, 2, 3}, "two": {0, 1, 3}, "none": {0}}
    (silent,) = [outcome for outcome in outcomes if outcome.case == "none"]
    assert NO_PROMPT in silent.warnings


def test_a_continued_prediction_keeps_the_numbers_of_finished_masks(
    model: Model, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    images = write_image("one_0000.nii.gz", SHAPE).parent
    write_prompts(images / "one.json", CasePrompts("one", "voxel", [Box((4, 4, 4), (14, 14, 10), "liver")]))
    predict_folder(model, find_cases(images, model), tmp_path / "out", FolderOptions())
    write_image("two_0000.nii.gz", SHAPE)
    write_prompts(images / "two.json", CasePrompts("two", "voxel", [Box((4, 4, 4), (14, 14, 10), "aorta")]))
    outcomes, _ = predict_folder(
        model, find_cases(images, model), tmp_path / "out", FolderOptions(continue_prediction=True)
    )
    assert [outcome.status for outcome in outcomes] == ["skipped", "done"]
    declared = load_json(str(tmp_path / "out" / "dataset.json"))["labels"]
    assert declared == {"background": 0, "liver": 1, "aorta": 2}
    found = [set(np.unique(read(tmp_path / "out" / f"{name}.nii.gz")).tolist()) for name in ("one", "two")]
    assert found == [{0, 1}, {0, 2}]


def test_names_of_a_mask_of_numbers_have_to_be_said(
    model: Model, agnostic_folder: Path, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    images = write_image("one_0000.nii.gz", SHAPE).parent
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 2:8, 2:8], mask[8:14, 28:36, 28:36] = 1, 2
    image = sitk.ReadImage(str(images / "one_0000.nii.gz"))
    before = sitk.GetImageFromArray(mask)
    before.CopyInformation(image)
    sitk.WriteImage(before, str(tmp_path / "before.nii.gz"))
    prompts = [MaskPrompt("../before.nii.gz"), Box((4, 20, 4), (14, 30, 10), "liver")]
    write_prompts(images / "one.json", CasePrompts("one", "voxel", prompts))
    (outcome,), _ = predict_folder(model, find_cases(images, model), tmp_path / "out", FolderOptions())
    assert outcome.status == "failed"
    assert "prompts name liver" in outcome.error
    assert "--labels" in outcome.error
    named = Model(agnostic_folder, [0], mirroring=False, objects=["tumour", "liver"])
    (outcome,), _ = predict_folder(named, find_cases(images, named), tmp_path / "out", FolderOptions())
    assert outcome.status == "done", outcome.error
    after = read(tmp_path / "out" / "one.nii.gz")
    np.testing.assert_array_equal(after == 1, mask == 1)
    assert (after == 2).sum() > (mask == 2).sum()
