"""Clicks bind: what the user said about a voxel holds in the output, whatever the network thinks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours


def bind_clicks(segmentation: NDArray[Any], voxels_N3: NDArray[np.int64], labels_N: NDArray[np.int64]) -> None:
    """Changes a label map (z, y, x) in place so that it agrees with the clicks.

    A negative click (label 0) removes the component that it hits (26-connected, of one label), unless a positive
    click of that label lies in it too. Then every clicked voxel gets its click's label; of several clicks on one
    voxel the last one counts.

    Args:
        voxels_N3: (z, y, x) in the label map.
    """
    last = {tuple(voxel): int(label) for voxel, label in zip(voxels_N3.tolist(), labels_N.tolist(), strict=True)}
    for voxel, label in last.items():
        hit = int(segmentation[voxel])
        if label == 0 and hit:
            components, _ = ndimage.label(segmentation == hit, TOUCHING)
            component = components == components[voxel]
            if not any(held == hit and component[place] for place, held in last.items()):
                segmentation[component] = 0
    for voxel, label in last.items():
        segmentation[voxel] = label
