"""Controls by geometry: bodies of known volume, and label maps that are clipped to them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnsam3d.evaluation.bodies import bodies, clipped, depth_in_body
from nnsam3d.evaluation.first import challenge_box
from nnsam3d.prompts import VoxelPrompts
from nnsam3d.prompts.kinds import Shape

SPACING = (2.0, 1.0, 1.0)
SIZE = (40, 70, 60)


def ellipsoid(middle=(20.0, 35.0, 30.0), half=(8.0, 20.0, 15.0)) -> np.ndarray:
    z, y, x = np.ogrid[:40, :70, :60]
    return sum(((axis - m) / h) ** 2 for axis, m, h in zip((z, y, x), middle, half, strict=True)) <= 1


def circle(radius: float, axis: int = 0, middle=(20.0, 35.0, 30.0), label: int = 1) -> Shape:
    """A lasso with a radius in mm on one slice."""
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    around = radius * np.stack([np.cos(turns), np.sin(turns)], -1) / np.delete(SPACING, axis)
    points = np.insert(around, axis, 0.0, axis=1) + np.array(middle)
    return Shape("lasso", label, points)


def volume_ml(mask: np.ndarray) -> float:
    return float(mask.sum()) * math.prod(SPACING) / 1000


def test_an_ellipsoid_is_found_in_its_box():
    target = ellipsoid()
    found = depth_in_body(challenge_box(target), SIZE, SPACING) >= 0
    dice = 2 * (found & target).sum() / (found.sum() + target.sum())
    assert dice > 0.93
    assert volume_ml(found) == pytest.approx(4 / 3 * math.pi * 17 * 20.5 * 15.5 / 1000, rel=0.02)


def test_a_line_is_the_diameter_of_a_ball():
    line = Shape("line", 1, np.array([[20.0, 23.0, 30.0], [20.0, 47.0, 30.0]]))
    found = depth_in_body(line, SIZE, SPACING) >= 0
    assert volume_ml(found) == pytest.approx(4 / 3 * math.pi * 12**3 / 1000, rel=0.03)
    assert found[20, 24:47, 30].all()
    assert not found[27:].any(), "12 mm are 6 slices"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_round_lasso_is_inflated_to_a_ball(axis):
    lasso = circle(14.0, axis)
    found = depth_in_body(lasso, SIZE, SPACING) >= 0
    assert volume_ml(found) == pytest.approx(4 / 3 * math.pi * 14**3 / 1000, rel=0.03)
    z, y, x = np.ogrid[:40, :70, :60]
    from_middle = np.sqrt((2 * (z - 20)) ** 2 + (y - 35) ** 2 + (x - 30) ** 2)
    assert found[from_middle <= 12.9].all()
    assert not found[from_middle >= 14.1].any()


def test_an_inflated_lasso_shrinks_to_its_own_centre():
    """Of an L, with the point of reference far from the mean of the corners."""
    corners = np.array(
        [[20, 10, 10], [20, 10, 12], [20, 10, 50], [20, 50, 50], [20, 50, 40], [20, 20, 40], [20, 20, 10]]
    )
    depth = depth_in_body(Shape("lasso", 1, corners.astype(float)), SIZE, SPACING)
    areas = (depth >= 0).sum(axis=(1, 2))
    radius = math.sqrt(700 / math.pi)
    assert areas[20] == pytest.approx(700, rel=0.12)  # corners and edges are voxels, too
    for away in (3, 6):
        shrunk = 1 - (2 * away / radius) ** 2
        assert areas[20 + away] == areas[20 - away] == pytest.approx(700 * shrunk, rel=0.12)
    assert not areas[: 20 - math.ceil(radius / 2)].any()


def test_other_kinds_have_no_body():
    assert not bodies(VoxelPrompts.of((), [Shape("scribble", 1, np.array([[3.0, 3, 3]]))]), SIZE, SPACING).any()


def test_where_bodies_overlap_the_deeper_one_counts():
    first, second = circle(12.0, middle=(20, 30, 30)), circle(12.0, middle=(20, 40, 30), label=2)
    both = bodies(VoxelPrompts.of((), [first, second]), SIZE, SPACING)
    swapped = bodies(VoxelPrompts.of((), [second, first]), SIZE, SPACING)
    np.testing.assert_array_equal(both, swapped)
    assert (both[20, 34, 30], both[20, 36, 30]) == (1, 2)


def test_with_regions_the_smaller_one_lies_in_the_larger():
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    whole, core = circle(16.0), circle(6.0, label=2)
    found = bodies(VoxelPrompts.of((), [core, whole]), SIZE, SPACING, regions)
    assert volume_ml(found == 2) == pytest.approx(4 / 3 * math.pi * 6**3 / 1000, rel=0.06)
    assert volume_ml(found > 0) == pytest.approx(4 / 3 * math.pi * 16**3 / 1000, rel=0.03)


def test_clipping_an_inner_region_leaves_the_outer_one():
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    core = np.full(SIZE, 2, np.uint8)
    found = clipped(core, VoxelPrompts.of((), [circle(6.0, label=2)]), SPACING, regions)
    assert set(np.unique(found).tolist()) == {1, 2}


def test_clipping_leaves_other_labels_alone():
    everywhere = np.ones(SIZE, np.uint8)
    everywhere[:, :10] = 2
    box = challenge_box(ellipsoid())
    found = clipped(everywhere, VoxelPrompts.of((), [box]), SPACING)
    assert (found[:, :10] == 2).all()
    assert (found == 1).sum() == 17 * 41 * 31, "exactly the box"
    ball = clipped(everywhere, VoxelPrompts.of((), [circle(14.0)]), SPACING)
    np.testing.assert_array_equal(ball == 1, (depth_in_body(circle(14.0), SIZE, SPACING) >= 0) & (everywhere == 1))
    scribble = VoxelPrompts.of((), [Shape("scribble", 1, np.array([[3.0, 3, 3]]))])
    np.testing.assert_array_equal(clipped(everywhere, scribble, SPACING), everywhere)
