"""How far boxes let a segmentation reach, and which of its components somebody asked for.

Axis letters: D, H, W = axes of the array: an image as read, or preprocessed, or a part of it; N voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import box_between
from nnsam3d.prompts.components import Component, touched
from nnsam3d.prompts.kinds import KINDS, Shape
from nnsam3d.prompts.labels import label_values, value_around
from nnsam3d.prompts.voxels import VoxelPrompts

BEYOND = 1.0  # voxels that an answer may reach beyond its box


def prompted(mask: NDArray[np.bool_], prompts: VoxelPrompts, labels: Sequence[int]) -> NDArray[np.bool_]:
    """The components (26-connected) of a mask (D, H, W) of which a prompt with one of these labels speaks.

    Args:
        mask: (D, H, W).
        prompts: on the voxels of the mask; those outside are ignored.
        labels: values; prompts of other labels say nothing.
    """
    marked = _marked(prompts.shapes, labels, mask.shape)
    for label in labels:
        voxels_N3 = prompts.of_label(label)
        inside_N = ((voxels_N3 >= 0) & (voxels_N3 < mask.shape)).all(axis=1)
        marked[tuple(voxels_N3[inside_N].T)] = True
    return touched(mask, marked)


def _marked(shapes: Sequence[Shape], labels: Sequence[int], shape_DHW: Sequence[int]) -> NDArray[np.bool_]:
    """(D, H, W) what shapes with one of these labels mark."""
    marked = np.zeros(tuple(shape_DHW), dtype=bool)
    for shape in shapes:
        if shape.label in labels:
            KINDS[shape.kind].mark(shape.points_N3, marked)
    return marked


def is_pointed_at(component: Component, prompts: VoxelPrompts, labels: Sequence[int], shape_DHW: Sequence[int]) -> bool:
    """Whether a positive prompt speaks of a component: a click in it, or a box, line or the like that marks a part.

    Args:
        component: of a label map (D, H, W).
        prompts: on its voxels. Of several clicks on one voxel, the last one counts.
        labels: of the shapes that count.
        shape_DHW: voxels of the label map.
    """
    if any(label and component.holds(voxel) for voxel, label in dict(prompts.clicks()).items()):
        return True
    if not prompts.shapes:
        return False
    return bool((_marked(prompts.shapes, labels, shape_DHW)[component.place] & component.box).any())


def limits(prompts: VoxelPrompts, shape_DHW: Sequence[int]) -> dict[int, tuple[Shape, ...]]:
    """The labels that stay inside shapes that confine them (boxes), and these shapes.

    A box says how far its target reaches, unless a positive click, scribble, line or lasso with its label lies outside.
    """
    found = {}
    confining = [one for one in prompts.shapes if KINDS[one.kind].confines]
    for label in sorted({one.label for one in confining if one.label}):
        boxes = tuple(one for one in confining if one.label == label)
        others = [one for one in prompts.shapes if not KINDS[one.kind].confines and one.label == label]
        voxels = [KINDS[one.kind].inside(one.points_N3, shape_DHW) for one in others]
        voxels_N3 = np.concatenate([prompts.of_label(label), *voxels])
        inside_N = np.zeros(len(voxels_N3), dtype=bool)
        for box in boxes:
            inside_N |= KINDS[box.kind].holds_voxels(box.points_N3, voxels_N3, BEYOND)
        if inside_N.all():
            found[label] = boxes
    return found


def allowed(boxes: Sequence[Shape], start: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
    """(D, H, W) the voxels of a part of the array that lie in one of these boxes, or next to it.

    Args:
        boxes: on the voxels (D, H, W) of the whole array.
        start, size: (D, H, W) voxels of the part.
    """
    found = np.zeros(tuple(size), dtype=bool)
    for box in boxes:
        found |= KINDS[box.kind].holds(box.points_N3 - np.asarray(start), size, BEYOND)
    return found


def clip_to_boxes(
    segmentation: NDArray[Any],
    boxes: Mapping[int, Sequence[Shape]],
    start: Sequence[int],
    regions: Mapping[int, frozenset[int]] | None,
) -> None:
    """Removes from a part of a label map (D, H, W), in place, what lies outside the boxes that limit a label.

    Args:
        segmentation: the part of the label map; is changed.
        boxes: :func:`limits` of the whole array.
        start: first voxel of the part.
        regions: label -> values inside its region; None for a dataset without regions.
    """
    keep_inside(segmentation, boxes, lambda label: allowed(boxes[label], start, segmentation.shape), regions)


def keep_inside(
    segmentation: NDArray[Any],
    labels: Iterable[int],
    inside: Callable[[int], NDArray[np.bool_]],
    regions: Mapping[int, frozenset[int]] | None,
) -> None:
    """Takes out of labels, in place, the voxels of a label map (D, H, W) that lie outside of where each may be.

    Args:
        segmentation: is changed.
        labels: that are limited.
        inside: (D, H, W) where a label may be.
        regions: label -> values inside its region; None for a dataset without regions.
    """
    for label in sorted(labels, key=lambda label: len(label_values(label, regions))):  # inner regions first
        beyond = np.isin(segmentation, label_values(label, regions)) & ~inside(label)
        segmentation[beyond] = value_around(label, regions)


def clear_background(segmentation: NDArray[Any], prompts: VoxelPrompts) -> None:
    """Makes background, in place, of what boxes, lassos, lines and scribbles with the label background contain."""
    if any(shape.label == 0 for shape in prompts.shapes):
        segmentation[_marked(prompts.shapes, [0], segmentation.shape)] = 0


def keep_prompted(
    segmentation: NDArray[Any],
    prompts: VoxelPrompts,
    regions: Mapping[int, frozenset[int]] | None,
    labels: Sequence[int] | None = None,
) -> None:
    """Removes from a label map (D, H, W), in place, components (26-connected) that nobody has pointed at.

    A label with a positive prompt keeps the components that have one. A label without any stays as it is: a click on
    one structure says nothing about the others.

    Args:
        segmentation: is changed.
        prompts: on the voxels of the label map.
        regions: with regions, components are those of all foreground, and any positive prompt keeps them.
        labels: those with a positive prompt anywhere in the image; None: as in ``prompts``.
    """
    labels = prompts.positive_labels if labels is None else labels
    if not labels:
        return
    for asked in [[label] for label in labels] if regions is None else [labels]:
        part = np.isin(segmentation, asked) if regions is None else segmentation > 0
        segmentation[part & ~prompted(part, prompts, asked)] = 0


def with_voxels(boxes: Sequence[Slices], voxels_N3: NDArray[np.int64]) -> tuple[Slices, ...]:
    """The boxes, with additional ones for voxels outside of them."""
    more: list[Slices] = []
    for voxel in voxels_N3.tolist():
        if not any(all(a.start <= n < a.stop for a, n in zip(box, voxel, strict=True)) for box in (*boxes, *more)):
            more.append(box_between(voxel, np.add(voxel, 1)))
    return (*boxes, *more)
