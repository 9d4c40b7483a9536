"""Binding: the output agrees with the prompts, whatever the network answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import box_between
from nnsam3d.inference.extent import clear_background, clip_to_boxes, is_pointed_at, keep_prompted, limits
from nnsam3d.prompts.components import Components, in_the_middle
from nnsam3d.prompts.labels import label_values
from nnsam3d.prompts.voxels import VoxelPrompts

Regions = Mapping[int, frozenset[int]]  # click label -> the values of the label map that lie in this region


def ignored_clicks(
    segmentation: NDArray[Any], prompts: VoxelPrompts, regions: Regions | None = None
) -> tuple[int, ...]:
    """The positive clicks (counted from 1) whose label is not in the label map at or next to the clicked voxel.

    Binding would turn them into targets of a single voxel.

    Args:
        segmentation: label map (z, y, x).
        prompts, regions: see :func:`bind_clicks`, which has not been applied to the label map yet.

    >>> segmentation = np.zeros((3, 3, 8), np.uint8)
    >>> segmentation[:, :, :2] = 1
    >>> ignored_clicks(segmentation, VoxelPrompts.of([((1, 1, 1), 1), ((1, 1, 6), 1)]))
    (2,)
    """
    last = dict(prompts.clicks())
    found = []
    for number, (voxel, label) in enumerate(prompts.clicks(), start=1):
        if label <= 0 or last[voxel] != label:
            continue
        around = segmentation[tuple(slice(max(0, n - 1), n + 2) for n in voxel)]
        if not np.isin(around, label_values(label, regions)).any():
            found.append(number)
    return tuple(found)


def enforce(
    segmentation: NDArray[Any],
    prompts: VoxelPrompts,
    regions: Regions | None,
    spacing: Sequence[float],
    only_prompted: bool,
    boxes: Sequence[Slices] | None = None,
) -> None:
    """Changes a label map (z, y, x) in place so that it agrees with prompts of all kinds; clicks have the last word.

    Args:
        segmentation: label map (z, y, x); is changed.
        prompts, regions, spacing: see :func:`bind_clicks`.
        only_prompted: remove what nobody has pointed at (:func:`keep_prompted`).
        boxes: outside of which there is only background, to save time; None: all of it.
    """
    limited = limits(prompts, segmentation.shape)
    for box in [box_between((0, 0, 0), segmentation.shape)] if boxes is None else boxes:
        start, part = [side.start for side in box], segmentation[box]
        local = prompts.cropped(start, part.shape)
        clip_to_boxes(part, limited, start, regions)
        clear_background(part, local)
        bind_clicks(part, local, regions, spacing)
        if only_prompted:
            keep_prompted(part, local, regions, prompts.positive_labels)


def bind_clicks(
    segmentation: NDArray[Any],
    prompts: VoxelPrompts,
    regions: Regions | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Changes a label map (z, y, x) in place so that it agrees with the clicks.

    First, every positively clicked voxel receives its click's label. Then, a negative click (label 0) in the middle of
    a component (26-connected, of one label) removes the component, unless a positive prompt speaks of it: a click,
    which may lie on its border, or a box, lasso, line or scribble. Nearer to the rim, the click says that the component
    reaches too far, not that it is wrong. Finally, every negatively clicked voxel becomes background. Of several clicks
    on one voxel, the last one counts.

    Args:
        segmentation: label map (z, y, x); is changed.
        prompts: on the voxels of the label map.
        regions: for datasets with regions. The core of a tumour is part of the tumour, so a click "tumour" changes
            nothing there; and a negative click removes a component of all foreground.
        spacing: mm along z, y, x, for :func:`in_the_middle`.

    >>> segmentation = np.zeros((3, 3, 8), np.uint8)
    >>> segmentation[:, :, :2] = 1
    >>> bind_clicks(segmentation, VoxelPrompts.of([((1, 1, 6), 1), ((1, 1, 0), 0)]))
    >>> int(segmentation[1, 1, 6]), int(segmentation[:, :, :2].sum())
    (1, 0)
    """
    last = dict(prompts.clicks())
    positive = {voxel: label for voxel, label in last.items() if label}
    for voxel, label in positive.items():
        if int(segmentation[voxel]) not in label_values(label, regions):
            segmentation[voxel] = label
    negative = [voxel for voxel, label in last.items() if not label]
    for voxel in negative:
        value = int(segmentation[voxel])
        if value:
            component = Components(segmentation == value if regions is None else segmentation > 0).holding(voxel)
            labels = [value] if regions is None else list(regions)
            if is_pointed_at(component, prompts, labels, segmentation.shape):
                continue
            clicked_N = (component.voxels() == voxel).all(axis=1)
            if in_the_middle(component.depth(spacing), spacing)[clicked_N].any():
                segmentation[component.place][component.box] = 0
    for voxel in negative:
        segmentation[voxel] = 0
