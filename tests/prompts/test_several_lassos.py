"""Several lassos of one label: what the network is told."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.prompts import PromptCodec, VoxelPrompts
from nnsam3d.prompts.kinds import Shape

CODEC = PromptCodec(("click", "lasso"), labels=2)
SIZE = (12, 70, 70)


def square(axis: int, slice_: float, low: float, high: float) -> Shape:
    corners = np.array([[low, low], [low, high], [high, high], [high, low]])
    return Shape("lasso", 1, np.insert(corners, axis, slice_, axis=1))


def maps(*shapes: Shape) -> np.ndarray:
    return CODEC.dense(SIZE, VoxelPrompts.of(shapes=shapes))


@pytest.mark.parametrize("axis", [0, 1])
def test_two_areas_of_a_slice_are_both_inside(axis: int) -> None:
    small, large = square(axis, 5, 2.5, 8.5), square(axis, 5, 3.0, 60.0)._replace(label=1)
    large = large._replace(points_N3=large.points_N3 + np.eye(3)[2] * 9)
    both = maps(small, large)
    np.testing.assert_array_equal(both, np.maximum(maps(small), maps(large)))
    np.testing.assert_array_equal(both, maps(large, small))
    voxel = (5, 5, 5)
    assert maps(large)[(0, *voxel)] < 0 < both[(0, *voxel)]


def test_of_two_slices_the_nearer_one_speaks() -> None:
    """An area that the other slice has nothing of."""
    left, right = square(0, 2, 2.5, 20.5), square(0, 9, 30.5, 60.5)
    both = maps(left, right)
    for voxel, wanted in (((2, 10, 10), 1), ((2, 40, 40), -1), ((9, 40, 40), 1), ((9, 10, 10), -1)):
        assert np.sign(both[(0, *voxel)]) == wanted
