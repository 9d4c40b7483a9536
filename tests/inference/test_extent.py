"""Prompts with an extent on their whole way, with a network that takes them at their word; boxes and components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.inference.extent import clear_background, clip_to_boxes, keep_prompted, limits
from nnsam3d.inference.image import PreparedImage, network_mask
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.preprocessing import network_prompts
from nnsam3d.prompts import (
    Box,
    CasePrompts,
    Click,
    Lasso,
    Line,
    Prompt,
    PromptError,
    Scribble,
    VoxelPrompts,
    write_prompts,
)
from nnsam3d.prompts.kinds import Shape

from .conftest import opened, predict_with, read, volume

SHAPE = (30, 44, 40)  # z, y, x
RECTANGLE = ((8, 10, 12), (30, 10, 12), (30, 32, 12), (8, 32, 12))
EXTENTS: dict[str, Prompt] = {
    "box": Box((8, 10, 5), (30, 33, 24), 1),  # larger than a window
    "line": Line((8, 10, 12), (30, 32, 12), 1),
    "lasso": Lasso(RECTANGLE, 1),
    "flat box": Box((8, 10, 12), (30, 32, 12), 1),
}


def prepare(model: Model, array: np.ndarray | None = None) -> PreparedImage:
    return PreparedImage(model, (volume(SHAPE) if array is None else array)[None], {"spacing": [1.0, 1.0, 1.0]})


def said(*prompts: Prompt) -> CasePrompts:
    return CasePrompts("case", "voxel", prompts)


# ---------------------------------------------------------------------- the whole way


def test_a_box_is_answered_in_the_box_over_several_windows(literal: Model) -> None:
    result = prepare(literal).segment(said(EXTENTS["box"]))
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ellipsoid = ((x - 19) / 11.5) ** 2 + ((y - 21.5) / 12) ** 2 + ((z - 14.5) / 10) ** 2 < 1
    found = result.label_map == 1
    assert 2 * (found & ellipsoid).sum() / (found.sum() + ellipsoid.sum()) > 0.95
    where = np.argwhere(found)
    assert (where.min(axis=0) >= (4, 9, 7)).all()
    assert (where.max(axis=0) <= (25, 34, 31)).all()
    assert result.windows > 1


@pytest.mark.parametrize("name", EXTENTS)
def test_the_windows_say_what_the_sliding_window_says(literal: Model, name: str) -> None:
    """Maps are right in every window, also where a prompt lies far outside of it."""
    image = prepare(literal)
    near, whole = (image.segment(said(EXTENTS[name]), scope, bind=False) for scope in ("clicked", "everything"))
    inside = np.zeros(SHAPE, dtype=bool)
    for part in near.boxes:
        inside[part] = True
    inside[:6] = inside[19:] = False  # far from its slice, a lasso says next to nothing, and rounding decides
    differing = (near.label_map != whole.label_map)[inside].mean()
    assert whole.label_map.any()
    assert differing < 0.02, "windows overlap in other places, and round"


@pytest.mark.parametrize("name", EXTENTS)
@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1, 2)])
def test_a_flipped_image_with_flipped_prompts_has_the_flipped_answer(
    literal: Model, name: str, axes: tuple[int, ...]
) -> None:
    array = volume((16, 24, 24))  # one window: its places do not depend on the direction
    prompt = EXTENTS[name]
    prompt = prompt.at(prompt.points("voxel") * 0.6 + 0.13, "voxel")
    index_axes = [2 - axis for axis in axes]
    points = prompt.points("voxel").copy()
    size = np.array(array.shape)[::-1]
    points[:, index_axes] = size[index_axes] - 1 - points[:, index_axes]
    plain = prepare(literal, array).segment(said(prompt)).label_map
    flipped = prepare(literal, np.flip(array, axes)).segment(said(prompt.at(points, "voxel"))).label_map
    assert plain.any()
    near = slice(4, 12)  # see above
    assert (np.flip(flipped, axes) != plain)[near].mean() < 0.002


def test_mirroring_and_padding_keep_the_maps(literal_folder: Path, literal: Model) -> None:
    """An image smaller than the window is padded; nnU-Net's padding of the channels is zero, and so is ours."""
    array = volume((10, 20, 18))
    box = said(Box((-5, 3, 2), (14, 15, 12), 1))
    mirrored = Model(literal_folder, [0], mirroring=True)
    answers = [prepare(model, array).segment(box, bind=False).label_map for model in (literal, mirrored)]
    whole = prepare(literal, array).segment(box, "everything", bind=False).label_map
    assert whole.any()
    assert (answers[0] != whole).mean() < 0.002
    assert (answers[1] != whole).mean() < 0.01


def test_a_session_draws_undoes_saves_and_predicts_the_same(
    literal: Model, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(shape=SHAPE)
    session = opened(literal, file)
    session.add_box((8, 10, 5), (30, 33, 24), "lesion")
    boxed = session.segmentation.copy()
    session.add_lasso(RECTANGLE, 1)
    session.add_line((8, 10, 12), (30, 32, 12), 1)
    session.add_scribble([(10, 12, 8), (20, 20, 8)], 0)
    session.add_click((5, 5, 5), 1)
    assert [prompt.kind for prompt in session.prompts] == ["box", "lasso", "line", "scribble", "click"]
    everything = session.segmentation.copy()
    assert everything[5, 5, 5] == 1
    assert not everything[8, [12, 16, 20], [10, 15, 20]].any(), "a background scribble holds"
    session.save_prompts(tmp_path / "saved.json")
    again = opened(literal, file)
    again.load_prompts(tmp_path / "saved.json")
    assert again.prompts == session.prompts
    assert np.array_equal(again.segmentation, everything)
    again.remove(1)
    assert [prompt.kind for prompt in again.prompts] == ["box", "line", "scribble", "click"]
    assert again.undo() == "removed"
    assert np.array_equal(again.segmentation, everything)
    for _ in range(3):
        session.undo()
    assert isinstance(session.undo(), Lasso)
    assert np.array_equal(session.segmentation, boxed)


def test_the_same_prompts_in_mm_have_the_same_answer(literal: Model, write_image: Callable[..., Path]) -> None:
    file = write_image(shape=(16, 24, 24))  # one window
    for prompt in EXTENTS.values():
        prompt = prompt.at(prompt.points("voxel") * 0.6 + 0.13, "voxel")
        answers = []
        for space in ("voxel", "lps", "ras"):
            session = opened(literal, file)
            moved = CasePrompts("case", "voxel", [prompt]).to(space, session.grid).prompts
            session.add(moved, space)
            answers.append(session.segmentation.copy())
        assert answers[0].any()
        assert np.array_equal(answers[0], answers[1])
        assert np.array_equal(answers[0], answers[2])


def test_predict_reads_boxes_from_files(
    literal_folder: Path, literal: Model, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(shape=SHAPE)
    write_prompts(file.parent / "case.json", said(EXTENTS["box"], Click((20, 20, 12), 1)))
    assert predict_with(literal_folder, file.parent, tmp_path / "out", "-f", 0) == 0
    session = opened(literal, file)
    session.load_prompts(file.parent / "case.json")
    written = read(tmp_path / "out" / "case.nii.gz")
    assert written.any()
    assert np.array_equal(written, session.segmentation)


def test_a_mask_to_start_from_reaches_the_network(literal: Model) -> None:
    start = np.zeros(SHAPE, np.uint8)
    start[8:20, 10:30, 8:28] = 1
    session = opened(literal, volume(SHAPE))
    session.start_from(start)
    session.add_click((18, 20, 14), 1)
    kept = session.segmentation == 1
    assert (kept & (start == 1)).sum() > 0.9 * start.sum(), "the network sees the mask, and says the same"
    session.reset()
    session.add_click((18, 20, 14), 1)
    assert (session.segmentation == 1).sum() < 10


def test_background_shapes_clear_a_mask_where_the_network_does_not_look(literal: Model) -> None:
    start = np.zeros((40, 90, 90), np.uint8)
    start[3:10, 3:14, 3:14] = 1
    start[30:37, 76:87, 76:87] = 1
    session = opened(literal, volume(start.shape))
    session.start_from(start)
    session.add_click((8, 8, 6), 1)
    session.add([Lasso(((75, 75, 33), (81, 75, 33), (81, 88, 33), (75, 88, 33)), 0)])
    cleared = session.segmentation
    assert not cleared[33, 76:87, 76:81].any()
    np.testing.assert_array_equal(cleared[30:33, 76:87, 76:87], start[30:33, 76:87, 76:87])


def test_a_transposed_plan_sees_the_same_mask(literal: Model) -> None:
    image = prepare(literal)
    label_map = np.random.default_rng(0).integers(0, 2, SHAPE)
    seen = network_mask(label_map, literal, image.properties, image.volume.shape)
    assert np.array_equal(seen.array(), label_map)
    part = VoxelPrompts.of() + VoxelPrompts(np.zeros((0, 3), np.int64), np.zeros(0, np.int64), (), seen)
    window = part.cropped((-3, 5, 30), (10, 8, 20)).mask
    assert window is not None
    expected = np.pad(label_map, [(3, 0), (0, 0), (0, 20)])[:10, 5:13, 30:50]
    assert np.array_equal(window.array(), expected)
    assert np.array_equal(window.mirrored([1]).array(), expected[:, ::-1])


# ---------------------------------------------------------------------- words


def test_a_model_that_was_not_trained_with_a_kind_says_so(model: Model) -> None:
    session = opened(model, volume(SHAPE))
    assert session.kinds == ("click",)
    with pytest.raises(PromptError, match="trained with prompts of type click, not box"):
        session.add_box((8, 10, 5), (30, 33, 24), "lesion")
    assert session.prompts == ()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Box((100, 100, 100), (120, 120, 120), 1), "box 2 .*outside the image"),
        (Line((100, 100, 100), (120, 120, 120), 1), "line 1 .*outside the image"),
        (Lasso([(0, 0, 0), (10, 0, 8), (10, 10, 0), (0, 10, 8)], 1), "one slice"),
        (Scribble([(1, 1, 1)], "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(literal: Model, prompt: Prompt, message: str) -> None:
    session = opened(literal, volume(SHAPE))
    session.add_box((8, 10, 5), (30, 33, 24), 1)
    with pytest.raises(PromptError, match=message):
        session.add([prompt])
    assert len(session.prompts) == 1


def test_prompts_may_reach_out_of_the_image(literal: Model) -> None:
    image = prepare(literal)
    result = image.segment(said(Box((-20, 10, 5), (30, 33, 60), 1)))
    assert result.label_map.any()
    shape = image.volume.shape
    placed = network_prompts(
        said(Scribble([(-9, 5, 5), (9, 5, 5)], 1)),
        literal.labels,
        SHAPE,
        image.properties,
        literal.plans_manager,
        shape,
        literal.codec,
    )
    assert ((placed.voxels_N3 >= 0) & (placed.voxels_N3 < shape)).all()


# ---------------------------------------------------------------------- boxes and components


def box(low: Any, high: Any, label: int = 1) -> Shape:
    return Box(low, high, label).shape(Box(low, high, label).points("voxel"), label)


def test_a_box_limits_its_label_unless_another_prompt_lies_outside() -> None:
    one, clicks = box((2, 2, 2), (6, 6, 6)), [((4, 4, 4), 1), ((9, 9, 9), 0)]
    assert set(limits(VoxelPrompts.of(clicks, [one]), (12, 12, 12))) == {1}
    assert set(limits(VoxelPrompts.of([*clicks, ((7, 4, 4), 1)], [one]), (12, 12, 12))) == {1}, "within a voxel"
    assert not limits(VoxelPrompts.of([*clicks, ((9, 4, 4), 1)], [one]), (12, 12, 12))
    assert set(limits(VoxelPrompts.of([*clicks, ((9, 4, 4), 2)], [one]), (12, 12, 12))) == {1}
    far = Shape("line", 1, np.array([[9.0, 9, 2], [9, 9, 9]]))
    assert not limits(VoxelPrompts.of(clicks, [one, far]), (12, 12, 12))
    assert not limits(VoxelPrompts.of(clicks, [box((2, 2, 2), (6, 6, 6), 0)]), (12, 12, 12))


def test_clipping_leaves_other_labels_and_what_a_voxel_beyond() -> None:
    segmentation = np.ones((12, 12, 12), np.uint8)
    segmentation[10] = 2
    prompts = VoxelPrompts.of((), [box((2, 2, 2), (6, 6, 6))])
    part = segmentation[1:, 1:, 1:]
    clip_to_boxes(part, limits(prompts, segmentation.shape), (1, 1, 1), None)
    inside = np.zeros((11, 11, 11), dtype=bool)
    inside[0:7, 0:7, 0:7] = True
    inside &= np.indices((11, 11, 11)).min(axis=0) >= 0
    assert (part[9] == 2).all()
    assert not part[:9][~inside[:9]].any()
    assert (part[1:6, 1:6, 1:6] == 1).all()


def test_beyond_the_box_of_an_inner_region_is_the_outer_one() -> None:
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    segmentation = np.full((12, 12, 12), 2, np.uint8)
    inner = VoxelPrompts.of((), [box((2, 2, 2), (6, 6, 6), 2)])
    clip_to_boxes(segmentation, limits(inner, segmentation.shape), (0, 0, 0), regions)
    assert segmentation[4, 4, 4] == 2
    assert (segmentation > 0).all(), "no hole in the whole"
    both = VoxelPrompts.of((), [box((2, 2, 2), (6, 6, 6), 2), box((1, 1, 1), (9, 9, 9), 1)])
    segmentation = np.full((12, 12, 12), 2, np.uint8)
    clip_to_boxes(segmentation, limits(both, segmentation.shape), (0, 0, 0), regions)
    assert (segmentation[4, 4, 4], segmentation[9, 9, 9], segmentation[11, 11, 11]) == (2, 1, 0)


def test_background_shapes_clear_what_they_contain() -> None:
    segmentation = np.ones((12, 12, 12), np.uint8)
    shapes = [box((2, 2, 2), (4, 4, 4), 0), Shape("scribble", 0, np.array([[9.0, 9, 9]])), box((8, 1, 1), (9, 2, 2))]
    clear_background(segmentation, VoxelPrompts.of((), shapes))
    assert not segmentation[2:5, 2:5, 2:5].any()
    assert segmentation[9, 9, 9] == 0
    assert (segmentation == 0).sum() == 28


def test_components_without_a_prompt_go() -> None:
    segmentation = np.zeros((12, 12, 30), np.uint8)
    segmentation[2:5, 2:5, 2:5] = 1
    segmentation[2:5, 2:5, 10:13] = 1
    segmentation[2:5, 2:5, 20:23] = 1
    segmentation[8, 8, 8] = 2
    shapes = [box((10, 2, 2), (11, 3, 3))]  # array axes: nothing there
    prompts = VoxelPrompts.of(
        [((3, 3, 3), 1), ((3, 3, 21), 0)], [*shapes, Shape("line", 1, np.array([[3.0, 3, 8], [3, 3, 14]]))]
    )
    keep_prompted(segmentation, prompts, None)
    assert (segmentation[2:5, 2:5, 2:5] == 1).all()
    assert (segmentation[2:5, 2:5, 10:13] == 1).all()
    assert (segmentation == 1).sum() == 2 * 27
    assert segmentation[8, 8, 8] == 2, "no prompt speaks of this label"
    keep_prompted(segmentation, prompts, None, labels=(1, 2))  # a part of an image, of which another part has the click
    assert not segmentation[8, 8, 8]


def test_predict_finishes_what_another_model_began(
    literal_folder: Path, write_image: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = np.zeros(SHAPE, np.uint8)
    began[3:6, 3:6, 3:6] = 1
    began[20:26, 30:38, 5:12] = 2
    for name in ("case", "untouched", "missing"):
        file = write_image(f"{name}_0000.nii.gz", shape=SHAPE)
        if name != "missing":
            mask = sitk.GetImageFromArray(began)
            mask.CopyInformation(sitk.ReadImage(str(file)))
            (tmp_path / "began").mkdir(exist_ok=True)
            sitk.WriteImage(mask, str(tmp_path / "began" / f"{name}.nii.gz"))
    write_prompts(file.parent / "case.json", said(Box((10, 8, 10), (20, 20, 18), 1)))
    more = ("-f", 0, "--start", tmp_path / "began")
    assert predict_with(literal_folder, file.parent, tmp_path / "out", *more) == 1
    assert "missing.nii.gz, does not exist" in capsys.readouterr().err
    found = {name: read(tmp_path / "out" / f"{name}.nii.gz") for name in ("case", "untouched")}
    assert np.array_equal(found["untouched"], began)
    assert found["case"][14, 14, 15] == 1, "the box is answered"
    assert (found["case"][22:25, 32:36, 7:10] == 2).all(), "what no prompt speaks of stays"
    assert not (tmp_path / "out" / "missing.nii.gz").exists()


def test_a_box_around_a_whole_ct_takes_little_memory() -> None:
    """Uploads are strangers': what a box holds is never listed voxel by voxel, nor its distances kept for all of it."""
    import tracemalloc

    whole = Box((0, 0, 0), (159, 159, 159), 1)
    shape = whole.shape(whole.points("voxel"), 1)
    segmentation = np.ones((160, 160, 160), np.uint8)
    tracemalloc.start()
    keep_prompted(segmentation, VoxelPrompts.of((), [shape]), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert segmentation.all()
    assert peak < 20 * segmentation.nbytes
