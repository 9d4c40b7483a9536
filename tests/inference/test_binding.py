"""Clicks bind."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.inference.binding import bind_clicks, ignored_clicks
from nnsam3d.prompts import Box, Lasso, Line, Prompt, Scribble, VoxelPrompts


def bound(
    segmentation: np.ndarray, *clicks: tuple[tuple[int, int, int], int], spacing: tuple[float, ...] = (1, 1, 1)
) -> np.ndarray:
    result = segmentation.copy()
    bind_clicks(result, VoxelPrompts.of(clicks), spacing=spacing)
    return result


def two_blobs() -> np.ndarray:
    segmentation = np.zeros((6, 12, 12), np.uint8)
    segmentation[1:4, 1:4, 1:4] = 1
    segmentation[1:4, 7:10, 7:10] = 1
    segmentation[1:4, 7:10, 10:12] = 2  # touches the second blob, is another label
    return segmentation


def test_clicks_at_which_nothing_was_found() -> None:
    """Around them either: beside a target a click adds a voxel to it, which is a correction."""
    clicks = VoxelPrompts.of(
        [((5, 0, 0), 1), ((4, 4, 4), 1), ((2, 8, 8), 1), ((2, 8, 8), 0), ((2, 2, 2), 2), ((2, 2, 2), 0), ((0, 0, 9), 2)]
    )
    assert ignored_clicks(two_blobs(), clicks) == (1, 7)
    assert ignored_clicks(two_blobs(), clicks, {1: frozenset({1, 2}), 2: frozenset({2})}) == (1, 7)
    assert ignored_clicks(two_blobs(), VoxelPrompts.of([((2, 2, 2), 2), ((2, 8, 10), 1)])) == (1,)
    assert ignored_clicks(two_blobs(), VoxelPrompts.of()) == ()


def test_a_positive_click_is_its_label() -> None:
    result = bound(two_blobs(), ((5, 0, 0), 2), ((2, 2, 2), 2))
    assert result[5, 0, 0] == 2
    assert result[2, 2, 2] == 2
    assert (result != two_blobs()).sum() == 2


def test_a_negative_click_removes_what_it_hits() -> None:
    result = bound(two_blobs(), ((2, 8, 8), 0))
    assert not result[1:4, 7:10, 7:10].any()
    assert (result[1:4, 1:4, 1:4] == 1).all()
    assert (result[1:4, 7:10, 10:12] == 2).all()


def test_a_negative_click_near_the_rim_says_that_it_reaches_too_far() -> None:
    """Found by the benchmark: a click that trims one of two structures removed all of it."""
    thick = np.zeros((11, 11, 11), np.uint8)
    thick[1:10, 1:10, 1:10] = 1
    for voxel in ((1, 5, 5), (5, 5, 9), (2, 2, 8), (3, 5, 5)):
        expected = thick.copy()
        expected[voxel] = 0
        np.testing.assert_array_equal(bound(thick, (voxel, 0)), expected)
    assert not bound(thick, ((4, 5, 5), 0)).any()
    assert not bound(thick, ((1, 5, 5), 0), ((5, 4, 5), 0)).any()
    for voxel, spacing in (((2, 5, 5), (3, 1, 1)), ((5, 5, 2), (1, 1, 3))):
        assert not bound(thick, (voxel, 0), spacing=spacing).any(), "the depth is in mm"
        assert bound(thick, (voxel, 0), spacing=spacing[::-1]).sum() == 9**3 - 1


def test_a_thin_structure_is_trimmed_and_not_removed() -> None:
    """Found by the benchmark: a click 2.2 voxels deep in a hippocampus whose deepest voxel is 3.7 deep removed it."""
    thin = np.zeros((9, 9, 40), np.uint8)
    thin[1:8, 1:8, 1:39] = 1  # the deepest voxels are 4 deep
    assert bound(thin, ((2, 4, 20), 0)).sum() == thin.sum() - 1
    assert not bound(thin, ((3, 4, 20), 0)).any(), "within a voxel"


@pytest.mark.parametrize("kind", ["box", "lasso", "line", "scribble"])
def test_what_a_shape_marks_is_not_removed(kind: str) -> None:
    """Found by the benchmark: a background click in a box removed the lesion that the box was drawn around."""
    shapes: dict[str, Prompt] = {
        "box": Box((6, 6, 0), (10, 10, 4), 1),
        "lasso": Lasso(((6, 6, 2), (10, 6, 2), (10, 10, 2), (6, 10, 2)), 1),
        "line": Line((7, 8, 2), (9, 8, 2), 1),
        "scribble": Scribble(((7, 8, 2), (9, 8, 2)), 1),
    }
    points_N3 = shapes[kind].points("voxel")[:, ::-1]
    for label, left in ((1, 27 - 1), (2, 0)):
        result = two_blobs()
        bind_clicks(result, VoxelPrompts.of([((2, 8, 8), 0)], [shapes[kind].shape(points_N3, label)]))
        assert (result[1:4, 7:10, 7:10] == 1).sum() == left, "a shape of another label says nothing about it"


def test_a_positive_click_holds_the_component() -> None:
    result = bound(two_blobs(), ((1, 8, 8), 1), ((3, 8, 8), 0))
    expected = two_blobs()
    expected[3, 8, 8] = 0
    np.testing.assert_array_equal(result, expected)


def test_a_positive_click_on_the_rim_holds_what_it_touches() -> None:
    """Found by the benchmark: the network stops one voxel short of the click, and is too large on the other side."""
    rim, excess = (0, 8, 8), (3, 7, 9)
    expected = two_blobs()
    expected[rim], expected[excess] = 1, 0
    for clicks in ([(rim, 1), (excess, 0)], [(excess, 0), (rim, 1)]):
        np.testing.assert_array_equal(bound(two_blobs(), *clicks), expected)
    apart = bound(two_blobs(), ((5, 8, 8), 1), (excess, 0))
    assert not apart[1:4, 7:10, 7:10].any(), "a click that does not touch it says nothing about it"
    assert apart[5, 8, 8] == 1


def test_the_order_of_negative_clicks_does_not_matter() -> None:
    thin = np.zeros((1, 1, 9), np.uint8)
    thin[..., 1:8] = 1
    clicks = [((0, 0, 1), 1), ((0, 0, 4), 0), ((0, 0, 6), 0)]
    first, second = bound(thin, *clicks), bound(thin, *clicks[::-1])
    np.testing.assert_array_equal(first, second)
    assert first[0, 0].tolist() == [0, 1, 1, 1, 0, 1, 0, 1, 0]


def test_the_last_click_on_a_voxel_counts() -> None:
    assert bound(two_blobs(), ((2, 2, 2), 0), ((2, 2, 2), 1))[2, 2, 2] == 1
    assert not bound(two_blobs(), ((2, 2, 2), 1), ((2, 2, 2), 0))[1:4, 1:4, 1:4].any()


def test_a_negative_click_on_background_changes_nothing() -> None:
    np.testing.assert_array_equal(bound(two_blobs(), ((5, 11, 11), 0)), two_blobs())
