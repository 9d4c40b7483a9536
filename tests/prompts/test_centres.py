"""The next click of a person who corrects a segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnsam3d.prompts import next_click
from nnsam3d.prompts.components import Components

SPACING = (3.0, 1.0, 0.7)
seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int, shape: tuple[int, int, int] = (8, 15, 13)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    volume = np.zeros(shape, np.int16)
    for value in (1, 2, 9, 1, 2):
        low = rng.integers(0, np.array(shape) - 3)
        volume[tuple(slice(a, a + s) for a, s in zip(low, rng.integers(1, 7, 3), strict=True))] = value
    return volume


@settings(max_examples=40)
@given(seed=seeds)
def test_a_click_lies_deepest_in_the_largest_error_and_tells_the_truth(seed: int) -> None:
    """Against the definition, computed the slow way on the whole volume."""
    truth, prediction = blobs(seed), blobs(seed + 1)
    found = next_click(truth, prediction, SPACING, labels=[1, 2], ignore_label=9)
    pieces = []
    for value in (0, 1, 2):
        numbers, count = ndimage.label((truth == value) & (prediction != value), np.ones((3, 3, 3)))
        pieces += [(value, numbers == number) for number in range(1, count + 1)]
    if not pieces:
        assert found is None
        return
    assert found is not None
    voxel, label = found
    assert truth[voxel] == label != prediction[voxel]
    (mine,) = [mask for value, mask in pieces if value == label and mask[voxel]]
    assert mine.sum() == max(mask.sum() for _, mask in pieces)
    depth = ndimage.distance_transform_edt(np.pad(mine, 1), sampling=SPACING)[1:-1, 1:-1, 1:-1]
    assert depth[voxel] == pytest.approx(depth.max())


@settings(max_examples=15)
@given(seed=seeds)
def test_following_the_clicks_never_repeats_and_ends(seed: int) -> None:
    truth, prediction = blobs(seed)[:4, :7, :6], blobs(seed + 1)[:4, :7, :6]
    clicked: list[tuple[int, int, int]] = []
    while click := next_click(truth, prediction, SPACING, labels=[1, 2], ignore_label=9, clicked=clicked):
        clicked.append(click[0])
    errors = (truth != prediction) & np.isin(truth, [0, 1, 2])
    assert sorted(clicked) == sorted(map(tuple, np.argwhere(errors).tolist()))


@settings(max_examples=25)
@given(seed=seeds)
def test_it_does_not_matter_where_in_the_volume_the_error_lies(seed: int) -> None:
    """The distance transform is computed in the piece's own box: the whole volume must give the same."""
    truth, prediction = blobs(seed), blobs(seed + 1)
    margin = ((5, 2), (0, 9), (3, 0))
    moved = next_click(np.pad(truth, margin), np.pad(prediction, margin), SPACING, labels=[1, 2])
    here = next_click(truth, prediction, SPACING, labels=[1, 2])
    assert (moved is None) == (here is None)
    if moved is not None and here is not None:
        assert moved == (tuple(np.add(here[0], (5, 0, 3)).tolist()), here[1])


def test_missed_parts_and_inventions() -> None:
    truth = np.zeros((9, 30, 30), int)
    truth[2:7, 2:9, 2:9] = 1
    prediction = np.zeros_like(truth)
    prediction[2:7, 2:9, 2:5] = 1  # misses x 5..8 of label 1: 5 * 7 * 4 = 140
    prediction[3:6, 14:19, 14:19] = 2  # invents 75
    first = next_click(truth, prediction, SPACING, labels=[1, 2])
    assert first is not None
    assert first[1] == 1
    corrected = np.where(truth == 1, truth, prediction)
    assert next_click(truth, corrected, SPACING, labels=[1, 2]) == ((4, 16, 16), 0)
    assert next_click(truth, truth, SPACING, labels=[1, 2]) is None


def test_a_label_taken_for_another_is_clicked_as_what_it_is() -> None:
    truth, prediction = np.zeros((5, 9, 9), int), np.zeros((5, 9, 9), int)
    truth[1:4, 2:7, 2:7], prediction[1:4, 2:7, 2:7] = 2, 1
    assert next_click(truth, prediction, (1, 1, 1), labels=[1, 2]) == ((2, 4, 4), 2)


def test_values_that_may_not_be_clicked() -> None:
    truth, prediction = np.zeros((5, 9, 9), int), np.zeros((5, 9, 9), int)
    truth[:, :4] = 3
    prediction[:, :4] = 1
    assert next_click(truth, prediction, (1, 1, 1), labels=[1]) is None
    assert next_click(truth, prediction, (1, 1, 1), labels=[1, 3], ignore_label=3) is None
    assert next_click(truth, prediction, (1, 1, 1), labels=[1, 3]) in [((2, 1, 4), 3), ((2, 2, 4), 3)]


def test_the_middle_of_a_thin_piece() -> None:
    truth = np.ones((1, 1, 9), int)
    assert next_click(truth, truth * 0, (1, 1, 1), labels=[1]) == ((0, 0, 4), 1)


def test_a_shell_in_a_large_box_is_measured_like_everything_else() -> None:
    """Sparse pieces take another way to the same distances."""
    zyx = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij")) - 20
    radius = np.sqrt((zyx**2).sum(0))
    (shell,) = Components((radius < 19) & (radius > 17.3)).largest_first()
    assert shell.box.mean() < 0.15
    expected = ndimage.distance_transform_edt(np.pad(shell.box, 1), sampling=SPACING)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(shell.depth(SPACING), expected[shell.box])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        next_click(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), (1, 1, 1), labels=[1])
