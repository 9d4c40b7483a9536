"""Array positions through transpose, crop and resample; nnU-Net's own are compared in tests/nnunet/test_contract.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsam3d.geometry import GeometryError, Steps, preprocessing_steps

orders = st.permutations([0, 1, 2]).map(tuple)
shapes = st.tuples(*[st.integers(1, 400)] * 3)


@settings(max_examples=100)
@given(
    order=orders, start=st.tuples(*[st.integers(0, 200)] * 3), old=shapes, new=shapes, seed=st.integers(0, 2**32 - 1)
)
def test_steps_are_inverted_exactly(order: tuple, start: tuple, old: tuple, new: tuple, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-1, 500, (10, 3))
    steps = Steps(order, start, old, new)
    assert np.abs(steps.invert(steps.apply(points)) - points).max() < 1e-6


@settings(max_examples=50)
@given(order=orders, start=st.tuples(*[st.integers(0, 3)] * 3), seed=st.integers(0, 999))
def test_transpose_and_crop_follow_numpy(order: tuple, start: tuple, seed: int) -> None:
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    moved = array.transpose(order)[start[0] :, start[1] :, start[2] :]
    voxel = np.random.default_rng(seed).integers(0, moved.shape)
    old = Steps(order, start, moved.shape, moved.shape).invert([voxel])[0]
    assert array[tuple(old.astype(int))] == moved[tuple(voxel)]


def test_resampling_keeps_the_outer_faces() -> None:
    steps = Steps((0, 1, 2), (0, 0, 0), (10, 4, 1), (5, 7, 3))
    assert np.allclose(steps.apply([[-0.5] * 3, [9.5, 3.5, 0.5]]), [[-0.5] * 3, [4.5, 6.5, 2.5]])
    assert steps.apply([]).shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Steps((0, 1, 1), (0, 0, 0), (1, 1, 1), (1, 1, 1)),
        lambda: Steps((0, 1, 2), (0, 0, 0), (0, 1, 1), (1, 1, 1)),
        lambda: Steps((0, 1, 2), (0, 0, 0), (1, 1, 1), (1, 1)),
        lambda: Steps((0, 1, 2), (0, 0, 0), (1, 1, 1), (1, 1, 1)).apply([[1, 2]]),
        lambda: preprocessing_steps({}, (0, 1, 2), (1, 1, 1)),
        lambda: preprocessing_steps(
            {
                "bbox_used_for_cropping": [[0, 2]] * 3,
                "shape_after_cropping_and_before_resampling": (3, 3, 3),
            },
            (0, 1, 2),
            (1, 1, 1),
        ),
    ],
)
def test_impossible_steps_are_refused(make) -> None:
    with pytest.raises(GeometryError):
        make()
