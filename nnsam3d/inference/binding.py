"""Clicks bind: what the user said about a voxel holds in the output, whatever the network thinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours
Regions = Mapping[int, frozenset[int]]  # click label -> the values of the label map that lie in this region


def bind_clicks(
    segmentation: NDArray[Any],
    voxels_N3: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    regions: Regions | None = None,
) -> None:
    """Changes a label map (z, y, x) in place so that it agrees with the clicks.

    A negative click (label 0) removes the component that it hits (26-connected, of one label), unless a positive
    click that the label map agrees with lies in it too. Then every clicked voxel gets its click's label; of several
    clicks on one voxel the last one counts.

    Args:
        voxels_N3: (z, y, x) in the label map.
        regions: of a dataset with regions: the core of a tumour is tumour, so a click "tumour" there is obeyed
            already; and a negative click removes a component of everything that is not background.
    """
    last = {tuple(voxel): int(label) for voxel, label in zip(voxels_N3.tolist(), labels_N.tolist(), strict=True)}
    for voxel, label in last.items():
        value = int(segmentation[voxel])
        if label == 0 and value:
            components, _ = ndimage.label(segmentation == value if regions is None else segmentation > 0, TOUCHING)
            component = components == components[voxel]
            inside = [(place, other) for place, other in last.items() if component[place]]
            if not any(_agrees(segmentation, place, other, regions) for place, other in inside):
                segmentation[component] = 0
    for voxel, label in last.items():
        if not _agrees(segmentation, voxel, label, regions):
            segmentation[voxel] = label


def _agrees(
    segmentation: NDArray[Any], voxel: tuple[int, int, int], label: int, regions: Regions | None
) -> bool:
    value = int(segmentation[voxel])
    return value == label if regions is None or label == 0 else value in regions[label]
