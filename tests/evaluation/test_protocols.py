"""Protocols: the same clicks for all arms, first as drawn, then where the error is largest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from nnsam3d.evaluation.first import Truth, challenge_box, jittered_box
from nnsam3d.evaluation.metrics import area_under_curve
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.protocols import as_prompts, challenge_click, run_protocol
from nnsam3d.nnunet.preprocessing import image_prompts
from nnsam3d.prompts import PromptSimulator, VoxelClick
from nnsam3d.prompts.kinds import KINDS, Box


def two_labels() -> Truth:
    segmentation = np.zeros((10, 14, 12), np.uint8)
    segmentation[2:8, 2:8, 2:8] = 1
    segmentation[3:5, 10:13, 3:10] = 2
    return Truth("case", segmentation, (2.0, 1.0, 1.0), (1, 2))


def nothing(truth: Truth):
    return lambda clicks: np.zeros_like(truth.segmentation_DHW)


@pytest.mark.parametrize("name", ["random", "center"])
def test_without_correction_there_is_one_click_on_every_label(name):
    truth = two_labels()
    steps = list(run_protocol(PROTOCOLS[name], truth, 0, nothing(truth)))
    assert [step.clicks for step in steps] == [len(step.prompts) for step in steps] == [0, 2]
    assert sorted(label for _, label in steps[1].prompts.clicks()) == [1, 2]
    for voxel, label in steps[1].prompts.clicks():
        assert truth.segmentation_DHW[voxel] == label


def test_center_is_the_deepest_voxel():
    truth = two_labels()
    *_, last = run_protocol(PROTOCOLS["center"], truth, 0, nothing(truth))
    z, y, x = next(voxel for voxel, label in last.prompts.clicks() if label == 1)
    assert (4 <= y <= 5, 4 <= x <= 5) == (True, True)
    assert 3 <= z <= 6  # slices are thicker: 4 mm from the border is as deep as 6 mm


def test_seeds_draw_different_first_clicks_and_arms_the_same_ones():
    truth = two_labels()

    def first(seed, answer):
        return [tuple(s.prompts.clicks()) for s in run_protocol(PROTOCOLS["iterative"], truth, seed, answer, 1)][-1]

    everything = lambda prompts: np.ones_like(truth.segmentation_DHW)  # noqa: E731
    assert first(0, nothing(truth)) == first(0, everything)
    assert len({first(seed, nothing(truth)) for seed in range(8)}) > 4


def test_corrections_go_where_the_error_is():
    truth = two_labels()
    shown = []

    def answer(clicks):
        result = truth.segmentation_DHW.copy()
        if len(clicks) < 2:
            result[truth.segmentation_DHW == 2] = 0  # missed
            result[0, :3, 10:] = 1  # and a smaller false alarm
        elif len(clicks) < 3:
            result[0, :3, 10:] = 1
        shown.append(len(clicks))
        return result

    steps = list(run_protocol(PROTOCOLS["iterative"], truth, 3, answer, 10))
    assert shown == [0, 1, 2, 3], "it ends where nothing is left to correct"
    clicks = steps[-1].prompts.clicks()
    assert truth.segmentation_DHW[clicks[0][0]] == clicks[0][1] != 0
    assert clicks[1][1] == 2
    assert truth.segmentation_DHW[clicks[1][0]] == 2
    assert clicks[2][1] == 0
    assert clicks[2][0][0] == 0


def test_no_voxel_is_clicked_twice_and_the_number_has_a_limit():
    truth = two_labels()
    steps = list(run_protocol(PROTOCOLS["iterative"], truth, 0, nothing(truth), 6))
    clicks = steps[-1].prompts.clicks()
    assert len(clicks) == len({voxel for voxel, _ in clicks}) == 6


def test_a_case_without_foreground_is_clicked_only_where_something_is_found():
    truth = Truth("empty", np.zeros((6, 6, 6), np.uint8), (1, 1, 1), (1,))
    assert [step.clicks for step in run_protocol(PROTOCOLS["random"], truth, 0, nothing(truth))] == [0]

    def false_alarm(prompts):
        result = np.zeros((6, 6, 6), np.uint8)
        result[1:3, 1:3, 1:3] = not len(prompts)
        return result

    steps = list(run_protocol(PROTOCOLS["iterative"], truth, 0, false_alarm))
    assert [label for _, label in steps[-1].prompts.clicks()] == [0]


def test_prompts_are_in_file_order():
    prompts = as_prompts("case", [((1, 2, 3), 1)])
    assert (prompts.space, prompts.clicks[0].position, prompts.clicks[0].label) == ("voxel", (3, 2, 1), 1)


# ---------------------------------------------------------------------- prompts with extent

EXTENTS = [name for name, protocol in PROTOCOLS.items() if protocol.extent]


def perfect(truth: Truth):
    return lambda prompts: truth.segmentation_DHW.copy()


def phantom(seed: int) -> Truth:
    """Two ellipsoids, one of which has a second part."""
    rng = np.random.default_rng(seed)
    places = np.indices((24, 40, 36)).reshape(3, -1).T
    segmentation = np.zeros((24, 40, 36), np.uint8)
    for label, middle in ((1, (8, 10, 12)), (2, (15, 28, 20)), (1, (18, 8, 28))):
        half = rng.uniform((2.5, 4, 4), (5, 8, 8))
        inside = (((places - np.array(middle)) / half) ** 2).sum(1) <= 1
        segmentation.reshape(-1)[inside] = label
    return Truth(f"phantom_{seed}", segmentation, (2.0, 1.0, 1.0), (1, 2))


@pytest.mark.parametrize("name", EXTENTS)
def test_first_prompts_are_those_of_the_seed_whatever_an_arm_answers(name):
    truth = phantom(0)

    def first(seed, answer):
        step = next(iter(run_protocol(PROTOCOLS[name], truth, seed, answer, 2)))
        assert (step.clicks, len(step.prompts)) == (0, 0)
        return [(one.kind, one.label, one.points_N3.tolist()) for one in step.prompts.shapes]

    assert first(3, nothing(truth)) == first(3, perfect(truth))
    assert [label for _, label, _ in first(3, nothing(truth))] == [1, 2]
    different = {str(first(seed, nothing(truth))) for seed in range(6)}
    assert len(different) == (1 if name == "cvpr25" else 6)


@pytest.mark.parametrize("name", EXTENTS)
def test_prompts_of_all_kinds_reach_the_arms_as_they_were_drawn(name):
    truth = phantom(1)
    step = next(iter(run_protocol(PROTOCOLS[name], truth, 0, nothing(truth), 1)))
    properties = {"spacing": truth.spacing}
    prompts = as_prompts("case", [VoxelClick((1, 2, 3), 2)], step.prompts.shapes)
    placed = image_prompts(prompts, {"background": 0, "a": 1, "b": 2}, truth.segmentation_DHW.shape, properties)
    assert placed.clicks() == [VoxelClick((1, 2, 3), 2)]
    assert [(one.kind, one.label) for one in placed.shapes] == [(one.kind, one.label) for one in step.prompts.shapes]
    size = truth.segmentation_DHW.shape
    for one, drawn in zip(placed.shapes, step.prompts.shapes, strict=True):
        voxels = [set(map(tuple, KINDS[s.kind].inside(s.points_N3, size).tolist())) for s in (one, drawn)]
        assert len(voxels[0] ^ voxels[1]) <= 0.02 * len(voxels[1])


@pytest.mark.parametrize("name", EXTENTS)
def test_the_prompt_stays_and_clicks_follow_on_errors(name):
    truth = phantom(2)
    steps = list(run_protocol(PROTOCOLS[name], truth, 0, nothing(truth), 4))
    assert [step.clicks for step in steps] == [0, 1, 2, 3, 4]
    per_step = 2 if name == "cvpr25" else 1
    for step in steps:
        assert step.prompts.shapes == steps[0].prompts.shapes
        assert len(step.prompts) == per_step * step.clicks
        assert all(truth.segmentation_DHW[voxel] == label for voxel, label in step.prompts.clicks())
    assert len(list(run_protocol(PROTOCOLS[name], truth, 0, perfect(truth), 4))) == 1, "nothing to correct"


def test_faces_of_a_box_are_wrong_by_a_tenth_at_most():
    target = np.zeros((30, 60, 90), bool)
    target[4:26, 10:50, 5:85] = True
    exact = np.array([[3.5, 25.5], [9.5, 49.5], [4.5, 84.5]])
    most = np.array([2.2, 4.0, 8.0])
    errors = []
    for seed in range(200):
        low, high = Box.bounds(jittered_box(target, np.random.default_rng(seed)).points_N3)
        errors.append(np.stack([low, high], 1) - exact)
    found = np.abs(errors)
    assert (found <= most[:, None] + 1e-9).all()
    assert (found.max(axis=0) > 0.9 * most[:, None]).all()
    assert np.abs(np.mean(errors, axis=0)).max() < 0.12 * most.max(), "neither too large nor too small"


def test_a_box_has_a_voxel_of_freedom_at_least_and_stays_in_the_image():
    target = np.zeros((6, 6, 6), bool)
    target[0, 2:4, 3] = True
    boxes = [Box.bounds(jittered_box(target, np.random.default_rng(seed)).points_N3) for seed in range(100)]
    assert all((low >= -0.5).all() and (high <= 5.5).all() and (high - low >= 1).all() for low, high in boxes)
    assert max(high[1] for _, high in boxes) > 3.9 + 0.5


def test_what_is_too_small_for_a_line_gets_a_click():
    segmentation = np.zeros((6, 6, 6), np.uint8)
    segmentation[3, 2, 4] = 1
    truth = Truth("dot", segmentation, (1, 1, 1), (1,))
    (shape,) = next(iter(run_protocol(PROTOCOLS["line"], truth, 0, nothing(truth)))).prompts.shapes
    assert (shape.kind, shape.points_N3.tolist()) == ("click", [[3, 2, 4]])
    prompt = as_prompts("dot", [], [shape]).prompts[0]
    assert (prompt.kind, prompt.position) == ("click", (4, 2, 3))


def test_the_challenges_box_is_that_of_the_middle_slice():
    target = np.zeros((12, 20, 20), bool)
    target[2:9, 8:11, 8:11] = True  # slices 2 to 8: the middle one is 5
    target[5, 6:12, 7:15] = True
    target[8, 2:18, 2:18] = True
    low, high = Box.bounds(challenge_box(target).points_N3)
    assert (low.tolist(), high.tolist()) == ([1.5, 5.5, 6.5], [8.5, 11.5, 14.5])


def test_the_challenges_click_is_in_the_middle_of_misses_and_false_alarms_together():
    """A miss and a false alarm touch: together they are the largest error, with its middle between them; a larger
    single miss is elsewhere."""
    truth = np.zeros((9, 9, 40), np.uint8)
    truth[2:7, 2:7, 2:6] = 1
    truth[1:8, 1:8, 28:34] = 1
    answer = np.zeros_like(truth)
    answer[1:8, 1:8, 28:34] = 1
    answer[1:8, 1:8, 6:12] = 1  # behind the missed part: 294 voxels, and the miss has 100
    answer[2:7, 2:7, 30:34] = 0  # a miss of 100 as well
    case = Truth("case", truth, (5.0, 1.0, 1.0), (1,))
    click = challenge_click(case, answer, 1, np.random.default_rng(0))
    error = (truth == 1) != (answer == 1)
    joined = error.copy()
    joined[:, :, 20:] = False
    depth = ndimage.distance_transform_edt(np.pad(joined, 1))[1:-1, 1:-1, 1:-1]
    assert depth[click.voxel] == depth.max(), "in voxels: the spacing does not count"
    assert click.label == truth[click.voxel]
    # the rule for ordinary clicks keeps the two errors apart
    ordinary = PromptSimulator((1,), case.spacing).correction(truth, answer)
    assert ordinary.label == 0
    assert challenge_click(case, truth, 1, np.random.default_rng(0)) is None


def test_the_challenge_ends_after_five_clicks_on_each_label():
    truth = phantom(3)
    steps = list(run_protocol(PROTOCOLS["cvpr25"], truth, 0, nothing(truth), 10))
    assert [step.clicks for step in steps] == [0, 1, 2, 3, 4, 5]
    assert sorted(label for _, label in steps[-1].prompts.clicks()) == [1] * 5 + [2] * 5
    assert area_under_curve(pd.DataFrame([{step.clicks: 1.0 for step in steps}])).tolist() == [4]


def test_a_start_is_corrected_without_a_first_click_of_its_own():
    truth = phantom(4)
    start = truth.segmentation_DHW.copy()
    start[truth.segmentation_DHW == 2] = 0

    def answer(prompts):
        return truth.segmentation_DHW if len(prompts) else start

    steps = list(run_protocol(PROTOCOLS["start"], truth, 0, answer, 10))
    assert [step.clicks for step in steps] == [0, 1]
    assert [label for _, label in steps[1].prompts.clicks()] == [2]


def test_with_regions_a_whole_is_prompted_with_its_core():
    segmentation = np.zeros((12, 20, 20), np.uint8)
    segmentation[2:10, 2:18, 2:18] = 1
    segmentation[4:8, 10:18, 6:12] = 2
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    truth = Truth("case", segmentation, (1, 1, 1), (1, 2), None, regions)
    shapes = next(iter(run_protocol(PROTOCOLS["cvpr25"], truth, 0, nothing(truth)))).prompts.shapes
    bounds = [np.array(Box.bounds(shape.points_N3)).tolist() for shape in shapes]
    assert bounds == [[[1.5, 1.5, 1.5], [9.5, 17.5, 17.5]], [[3.5, 9.5, 5.5], [7.5, 17.5, 11.5]]]
