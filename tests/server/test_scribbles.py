"""Scribbles as clicks."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.server.scribbles import APART, CLICKS, spread_voxels


@given(st.sets(st.tuples(*[st.integers(0, 30)] * 3), max_size=40))
def test_few_voxels_of_the_drawing_far_from_each_other(drawn: set[tuple[int, int, int]]) -> None:
    mask = np.zeros((31, 31, 31), bool)
    for voxel in drawn:
        mask[voxel] = True
    chosen = spread_voxels(mask)
    assert set(chosen) <= drawn
    assert bool(chosen) == bool(drawn)
    assert len(chosen) <= CLICKS
    for one, other in itertools.combinations(chosen, 2):
        assert np.linalg.norm(np.subtract(one, other)) >= APART
