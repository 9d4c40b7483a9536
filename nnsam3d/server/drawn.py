"""Prompts from what viewers draw: masks of scribbles and lassos, and boxes. Positions are z, y, x ("array")."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.prompts import Box, Click, Lasso, Prompt, Scribble
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.kinds.base import spread
from nnsam3d.prompts.kinds.checks import MAX_POINTS
from nnsam3d.server.refusal import Refusal

MOST = 100 * MAX_POINTS  # voxels of a scribble: more are an area, and would take much memory
CLICKS, APART = 4, 4.0  # of a scribble for a model without scribbles: so many clicks, so many voxels apart
SLICES, AREAS = 16, 16  # of a lasso: so many slices, and areas of each, become prompts
NEEDS = "the model was not trained with prompts of type {}: use clicks or scribbles"


def interactions(kinds: Collection[str]) -> dict[str, bool]:
    """nnInteractive's names of what can be drawn, and whether a model with these kinds takes it.

    Without scribbles in the training, they become clicks.
    """
    boxes = Box.kind in kinds
    return {"points": True, "bbox2d": boxes, "bbox3d": boxes, "scribble": True, "lasso": Lasso.kind in kinds}


def scribble_prompts(mask: NDArray[np.bool_], first: Sequence[int], label: int, kinds: Collection[str]) -> list[Prompt]:
    """A scribble, with all its voxels; for a model without scribbles, a few clicks.

    Args:
        mask: of the scribble, or a part of the image that contains it.
        first: voxel of the image (z, y, x) at which the mask begins.
        kinds: of prompts that the model was trained with.

    Raises:
        Refusal: the scribble is empty, or has more than a million voxels (400).
    """
    count = np.count_nonzero(mask)
    if not count:
        raise Refusal(400, "the scribble is empty")
    if count > MOST:
        raise Refusal(400, "the scribble covers too much of the image: draw a thinner one")
    voxels_N3 = np.argwhere(mask)
    if Scribble.kind not in kinds:
        places_N3 = spread(voxels_N3.astype(np.float64), (1.0, 1.0, 1.0), CLICKS, APART) + first
        return [Click((z, y, x), label) for z, y, x in places_N3.tolist()]
    if len(voxels_N3) > MAX_POINTS:
        voxels_N3 = voxels_N3[np.linspace(0, len(voxels_N3) - 1, MAX_POINTS).astype(int)]
    return [Scribble((voxels_N3 + first).tolist(), label, joined=False)]


def lasso_prompts(mask: NDArray[np.bool_], first: Sequence[int], label: int, kinds: Collection[str]) -> list[Prompt]:
    """The outlines of a mask that was drawn on a slice along any axis; it may be filled or not.

    Every area of the slice is a lasso. A mask on several slices was drawn on each of them: along its thinnest axis,
    every slice has its own lassos, because their outlines are what the drawing says, and a scribble would lose them. Of
    more than 16 slices, 16 are taken, evenly from the first to the last.

    Args:
        mask, first, kinds: as for :func:`scribble_prompts`.

    Raises:
        Refusal: the mask is empty, or the model was not trained with lassos (400).
    """
    if Lasso.kind not in kinds:
        raise Refusal(400, NEEDS.format(Lasso.kind))
    if not mask.any():
        raise Refusal(400, "the lasso is empty")
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    axis = int(np.argmin([np.ptp(numbers) for numbers in used]))
    numbers = used[axis]
    if len(numbers) > SLICES:
        numbers = numbers[np.linspace(0, len(numbers) - 1, SLICES).astype(int)]
    return [
        Lasso((np.insert(curve_N2, axis, number, axis=1) + first).tolist(), label)
        for number in numbers.tolist()
        for curve_N2 in outlines(np.take(mask, number, axis=axis))
    ]


def outlines(area: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The outer outlines (N, 2) of the areas (8-connected) of a slice, halfway between their pixels and the others.

    Of more than 16 areas, those of the 16 largest.
    """
    from skimage.measure import find_contours  # late: it takes long to import

    areas = Components(area[None])
    found = []
    for number in np.sort(np.argsort(-areas.volumes, kind="stable")[:AREAS]).tolist():
        one = areas[number]
        own = np.pad(ndimage.binary_fill_holes(one.box[0]), 1)
        curve = max(find_contours(own.astype(np.float64), 0.5, fully_connected="high"), key=len)
        found.append(curve[:-1] - 1 + one.low[1:])  # the last point is the first one
    return found


def box_prompts(ends: Sequence[Sequence[int]], size: Sequence[int], label: int, kinds: Collection[str]) -> list[Prompt]:
    """A box from half-open ranges; the part of it inside the image.

    Args:
        ends: first voxel, and the one after the last, along z, y, x. Equal ones mean this voxel: a box on one slice has
            a thickness of one.
        size: of the image (z, y, x).
        label, kinds: as for :func:`scribble_prompts`.

    Raises:
        Refusal: the box lies outside the image, or the model was not trained with boxes (400).
    """
    if Box.kind not in kinds:
        raise Refusal(400, NEEDS.format(Box.kind))
    low_high = [(min(a, b), max(a, b, min(a, b) + 1) - 1) for a, b in ends]
    if any(high < 0 or low >= n for (low, high), n in zip(low_high, size, strict=True)):
        raise Refusal(400, f"the box {[list(pair) for pair in ends]} is outside the image of size {list(size)}")
    low, high = zip(
        *((max(low, 0), min(high, n - 1)) for (low, high), n in zip(low_high, size, strict=True)), strict=True
    )
    return [Box(low, high, label)]
