"""Clicks against answers: how many a network obeys by itself, and the answer in which all of them hold.

Label maps (z, y, x) are on the image's own grid, as clicks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.inference.binding import Regions, bind_clicks
from nnsam3d.prompts import VoxelClick
from nnsam3d.prompts.voxels import VoxelPrompts


def obeyed(own_ZYX: NDArray[Any], clicks: Sequence[VoxelClick], regions: Regions | None = None) -> float | None:
    """The share of the clicks whose voxel has the click's label; None without clicks.

    Args:
        own_ZYX: a network's own label map, before :func:`bound`: after it the share is 1 whatever the network does.
        regions: with regions a voxel is right where its value lies in the click's region, as :func:`bind_clicks` has
            it.

    Of several clicks on one voxel the last one counts.
    """
    last = dict(clicks)
    right = [int(own_ZYX[voxel]) in _values(label, regions) for voxel, label in last.items()]
    return float(np.mean(right)) if right else None


def _values(label: int, regions: Regions | None) -> frozenset[int]:
    """Of the label map, where a click with this label is right; outside of all regions is 0."""
    return frozenset({label}) if regions is None or not label else regions[label]


def bound(own_ZYX: NDArray[Any], clicks: Sequence[VoxelClick], regions: Regions | None = None) -> NDArray[Any]:
    """A new label map in which the clicks hold, by one rule for all arms."""
    result = own_ZYX.copy()
    if clicks:
        bind_clicks(result, VoxelPrompts.of(clicks), regions)
    return result
