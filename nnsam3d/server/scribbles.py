"""Converts scribbles to clicks: a few voxels of the scribble that are far from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLICKS = 4
APART = 4.0  # voxels


def spread_voxels(mask: NDArray[np.bool_], count: int = CLICKS, apart: float = APART) -> list[tuple[int, int, int]]:
    """Up to ``count`` voxels (z, y, x) of a scribble: the one nearest to its centre, then always the one farthest away.

    Args:
        apart: minimum distance between the chosen voxels.
    """
    voxels_N3 = np.argwhere(mask)
    if not len(voxels_N3):
        return []
    middle = np.linalg.norm(voxels_N3 - voxels_N3.mean(axis=0), axis=1)
    chosen = [int(middle.argmin())]
    distance = np.linalg.norm(voxels_N3 - voxels_N3[chosen[0]], axis=1)
    while len(chosen) < count and distance.max() >= apart:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(voxels_N3 - voxels_N3[chosen[-1]], axis=1))
    return [(z, y, x) for z, y, x in voxels_N3[chosen].tolist()]
