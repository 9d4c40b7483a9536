"""How many clicks a network follows by itself, and the answer in which all clicks are enforced.

Label maps (z, y, x) and clicks are on the image's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.inference.binding import Regions, bind_clicks, enforce
from nnsam3d.prompts import VoxelClick
from nnsam3d.prompts.labels import label_values
from nnsam3d.prompts.voxels import VoxelPrompts


def obeyed(own_ZYX: NDArray[Any], clicks: Sequence[VoxelClick], regions: Regions | None = None) -> float | None:
    """The share of clicks whose voxel has the click's label; None without clicks.

    Args:
        own_ZYX: the network's label map, before :func:`bound`, after which the share is always 1.
        regions: with regions, the value of the voxel must be inside the click's region, as in :func:`bind_clicks`.

    Of several clicks on one voxel, the last one counts.
    """
    last = dict(clicks)
    right = [int(own_ZYX[voxel]) in label_values(label, regions) for voxel, label in last.items()]
    return float(np.mean(right)) if right else None


def bound(
    own_ZYX: NDArray[Any],
    prompts: VoxelPrompts,
    regions: Regions | None,
    spacing: Sequence[float],
    components: str = "",
) -> NDArray[Any]:
    """A new label map in which the prompts are enforced, with the same rule for all arms.

    Args:
        components: of a network that gets the prompts: "prompted" or "all", as in :meth:`PreparedImage.segment`; what
            boxes and background shapes say is then enforced, too. "": clicks only (:func:`bind_clicks`).
    """
    result = own_ZYX.copy()
    if components:
        enforce(result, prompts, regions, spacing, components == "prompted")
    else:
        bind_clicks(result, prompts, regions, spacing)
    return result
