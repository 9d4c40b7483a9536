"""What a first prompt says without a network: the body of which a box, a line or a lasso is the outline.

Controls are made of these bodies, so that geometry is not taken for skill. Axis letters: D, H, W = array axes z, y, x;
M corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.inference.extent import keep_inside
from nnsam3d.prompts.kinds import KINDS, Shape, Window
from nnsam3d.prompts.voxels import VoxelPrompts

KINDS_WITH_BODY = tuple(name for name, kind in KINDS.items() if kind.body)
Size = tuple[int, int, int]
Spacing = tuple[float, float, float]


def depth_in_body(shape: Shape, size: Size, spacing: Spacing) -> NDArray[np.float64]:
    """(D, H, W) from 1 in the middle of the shape's body to 0 on its surface; negative outside, or without a body.

    Args:
        size: of the array. spacing: mm along D, H, W.
    """
    return KINDS[shape.kind].depth(shape.points_N3, Window((0, 0, 0), size, spacing))


def bodies(
    prompts: VoxelPrompts, size: Size, spacing: Spacing, regions: Mapping[int, frozenset[int]] | None = None
) -> NDArray[np.uint16]:
    """A label map (D, H, W) of the bodies of all shapes.

    Where bodies of several labels overlap, the one counts in which the voxel lies deeper; with regions, the smaller
    region.
    """
    result = np.zeros(size, np.uint16)
    deepest = np.zeros(size)
    labels = {one.label for one in prompts.shapes if one.label}
    outer_first = sorted(labels, key=lambda label: (0 if regions is None else -len(regions[label]), label))
    for label in outer_first:
        own = [depth_in_body(one, size, spacing) for one in prompts.shapes if one.label == label]
        depth = np.maximum.reduce(own)
        wins = (depth >= 0) & ((depth >= deepest) if regions is None else True)
        result[wins] = label
        deepest[wins] = depth[wins]
    return result


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

    def inside(label: int) -> NDArray[np.bool_]:
        found = np.zeros(label_map.shape, dtype=bool)
        for one in prompts.shapes:
            if one.label == label and KINDS[one.kind].confines:
                found |= KINDS[one.kind].holds(one.points_N3, label_map.shape)
            elif one.label == label:
                found |= depth_in_body(one, (d, h, w), spacing) >= 0
        return found

    limited = sorted({one.label for one in prompts.shapes if one.kind in KINDS_WITH_BODY and one.label})
    keep_inside(result, limited, inside, regions)
    return result
