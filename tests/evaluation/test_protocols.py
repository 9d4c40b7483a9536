"""Protocols: the same clicks for all arms, first as drawn, then where the error is largest."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.protocols import Truth, as_prompts, run_protocol


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
