"""What a first prompt says without a network: the body of which a box, a line or a lasso is the outline.

Controls are made of these bodies, so that geometry is not taken for skill. Axis letters: D, H, W = array axes z, y, x;
M corners.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds import Box, Lasso, Line, Shape, Window
from nnsam3d.prompts.kinds.lasso import Plane, signed_distance
from nnsam3d.prompts.voxels import VoxelPrompts

KINDS_WITH_BODY = (Box.kind, Line.kind, Lasso.kind)
Size = tuple[int, int, int]
Spacing = tuple[float, float, float]


def depth_in_body(shape: Shape, size: Size, spacing: Spacing) -> NDArray[np.float64]:
    """(D, H, W) from 1 in the middle of the shape's body to 0 on its surface; negative outside.

    A box: the inscribed ellipsoid. A line: the ball of which it is a diameter. A lasso: at a distance z from its slice,
    the curve shrunk by sqrt(1 - (z / r)²) towards its centre, where r is the radius of a circle with the same area. The
    other kinds have no body: -1 everywhere.

    Args:
        size: of the array. spacing: mm along D, H, W.
    """
    window = Window((0, 0, 0), size, spacing)
    if shape.kind == Box.kind:
        return Box.render(shape.points_N3, window)["box_el"].astype(np.float64)
    if shape.kind == Line.kind:
        return Line.render(shape.points_N3, window)["line_ball"].astype(np.float64)
    if shape.kind == Lasso.kind:
        return _inflated(shape.points_N3, size, spacing)
    return np.full(size, -1.0)


def _inflated(points_M3: NDArray[np.float64], size: Size, spacing: Spacing) -> NDArray[np.float64]:
    pitch = np.asarray(spacing)
    plane = Plane.of(points_M3 * pitch)
    centre, area = _centre_and_area(plane.corners_M2)
    radius = max(math.sqrt(area / math.pi), 1e-6)
    reach = radius * np.abs(plane.normal)
    ends = np.array([(points_M3 * pitch).min(axis=0) - reach, (points_M3 * pitch).max(axis=0) + reach]) / pitch
    low = np.clip(np.floor(ends[0]), 0, size).astype(int)
    high = np.clip(np.ceil(ends[1]) + 1, 0, size).astype(int)
    found = np.full(size, -1.0)
    places_N3 = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3) * pitch
    away_N = np.abs((places_N3 - plane.origin) @ plane.normal)
    share_N = np.sqrt(np.clip(1 - (away_N / radius) ** 2, 0, 1))
    near_N = share_N > 0
    spread_N2 = centre + (plane.project(places_N3[near_N]) - centre) / share_N[near_N, None]
    depth_N = np.full(len(places_N3), -1.0)
    depth_N[near_N] = share_N[near_N] * signed_distance(spread_N2, plane.corners_M2) / radius
    z, y, x = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    found[z, y, x] = np.clip(depth_N, -1, 1).reshape((high - low).tolist())
    return found


def _centre_and_area(corners_M2: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre of mass and area of a polygon."""
    following = np.roll(corners_M2, -1, axis=0)
    cross = corners_M2[:, 0] * following[:, 1] - following[:, 0] * corners_M2[:, 1]
    if abs(cross.sum()) < 1e-9:  # a curve that crosses itself
        return corners_M2.mean(axis=0), 0.0
    centre = ((corners_M2 + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return centre, abs(float(cross.sum())) / 2


def bodies(
    prompts: VoxelPrompts, size: Size, spacing: Spacing, regions: Mapping[int, frozenset[int]] | None = None
) -> NDArray[np.uint16]:
    """A label map (D, H, W) of the bodies of all shapes.

    Where bodies of several labels overlap, the one counts in which the voxel lies deeper; with regions, the smaller
    region.
    """
    result = np.zeros(size, np.uint16)
    deepest = np.zeros(size)
    for label in _outer_first([one.label for one in prompts.shapes if one.label], regions):
        own = [depth_in_body(one, size, spacing) for one in prompts.shapes if one.label == label]
        depth = np.maximum.reduce(own)
        wins = (depth >= 0) & ((depth >= deepest) if regions is None else True)
        result[wins] = label
        deepest[wins] = depth[wins]
    return result


def _outer_first(labels: Sequence[int], regions: Mapping[int, frozenset[int]] | None) -> list[int]:
    return sorted(set(labels), key=lambda label: (0 if regions is None else -len(regions[label]), label))


def clipped(
    label_map: NDArray[Any],
    prompts: VoxelPrompts,
    spacing: Spacing,
    regions: Mapping[int, frozenset[int]] | None = None,
) -> NDArray[Any]:
    """A label map (D, H, W) without what lies outside the boxes, balls and inflated lassos of its labels.

    Labels without such a shape stay as they are.
    """
    result = label_map.copy()
    d, h, w = label_map.shape
    for label in sorted({one.label for one in prompts.shapes if one.kind in KINDS_WITH_BODY and one.label}):
        inside = np.zeros(label_map.shape, dtype=bool)
        for one in prompts.shapes:
            if one.label == label and one.kind == Box.kind:
                inside |= Box.holds(one.points_N3, label_map.shape)
            elif one.label == label:
                inside |= depth_in_body(one, (d, h, w), spacing) >= 0
        values = [label] if regions is None else sorted(regions[label])
        result[np.isin(label_map, values) & ~inside] = 0
    return result
