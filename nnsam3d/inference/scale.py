"""Which spacing a model for any spacing works at: the target is to be about as large as those of its training.

The size of the target is known from a prompt with an extent. Clicks say where, not how large: the image decides then,
since thin slices are made for small things. Only an answer of a very different size is computed again on another grid:
an answer that leaks would otherwise choose a coarse grid, on which clicks cannot correct it, and a click corrects best
on the grid whose answer it was set for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices
from nnsam3d.prompts import CasePrompts, Line
from nnsam3d.prompts.components import bounding_box
from nnsam3d.prompts.kinds import KINDS, Shape
from nnsam3d.prompts.voxels import VoxelPrompts

WANTED = 36.0  # voxels along the longest edge of a target: docs/starter.md, "The grid matters"
LEVELS = 2  # spacings per octave, so that few grids are ever computed
TOLERATED = 1.5  # octaves between the size of an answer and the wanted one, within which it is kept
THICK, VIEW, COARSE_MM = 1.2, 64.0, 4.0
"""After clicks, the least of: a multiple of the coarsest voxel edge, a part of the median image edge, mm."""
FINER = 2.0  # times the finest voxel edge of the image: small structures gain from it
STEPS = 4  # answers that are computed for one set of prompts, at most
OUTGROWN = 1.5  # times the longest line: then, clicks show that lines do not span the target
CACHES = 4  # parts of the memory for windows, of which every grid gets one


def level(spacing_mm: float, shape_ZYX: Sequence[int], spacing_ZYX: Sequence[float]) -> float:
    """The nearest spacing in mm of a fixed geometric series.

    Args:
        spacing_mm: the wished one. The result is at least a part of the image's finest voxel edge, and so fine that a
            target as large as the image has the wanted size.
        shape_ZYX: voxels. spacing_ZYX: mm, of the image.
    """
    low = math.floor(LEVELS * math.log2(min(spacing_ZYX) / FINER) + 1e-6)
    high = max(low, math.floor(LEVELS * math.log2(_longest(shape_ZYX, spacing_ZYX) / WANTED)))
    number = round(LEVELS * math.log2(spacing_mm))
    return float(2 ** (min(max(number, low), high) / LEVELS))


def first_spacing(shape_ZYX: Sequence[int], spacing_ZYX: Sequence[float], shapes: Sequence[Shape] = ()) -> float:
    """mm, before there is an answer.

    Args:
        shape_ZYX: voxels. spacing_ZYX: mm.
        shapes: prompts with an extent, with positions (z, y, x); without any, the image decides.
    """
    outlined = [KINDS[shape.kind].bounds(shape.points_N3) for shape in shapes if shape.label > 0]
    if outlined:
        lows_N3, highs_N3 = (np.array(ends) for ends in zip(*outlined, strict=True))
        return spacing_for(np.maximum(highs_N3.max(0) - lows_N3.min(0), 1), shape_ZYX, spacing_ZYX)
    edges_mm = np.multiply(shape_ZYX, spacing_ZYX)
    wished = min(THICK * max(spacing_ZYX), float(np.median(edges_mm)) / VIEW, COARSE_MM)
    return level(wished, shape_ZYX, spacing_ZYX)


def spacing_for(edges_ZYX: Any, shape_ZYX: Sequence[int], spacing_ZYX: Sequence[float]) -> float:
    """mm for a target of a known extent.

    Args:
        edges_ZYX: voxels of the image that it spans.
        shape_ZYX: voxels. spacing_ZYX: mm, of the image.
    """
    return level(_longest(edges_ZYX, spacing_ZYX) / WANTED, shape_ZYX, spacing_ZYX)


def without_outgrown_lines(
    prompts: CasePrompts, placed: VoxelPrompts, spacing_ZYX: Sequence[float]
) -> CasePrompts | None:
    """The prompts with clicks in place of lines, if clicks show that the target is much longer; None if not.

    On a slice at the end of a target, its diameter is short. A model that was trained on shapes takes a line at its
    word, and later clicks would hardly extend the answer.

    Args:
        prompts: on one object, with label 1.
        placed: the same on the image's voxels (z, y, x).
        spacing_ZYX: mm.
    """
    lines = [prompt for prompt in prompts.prompts if isinstance(prompt, Line) and prompt.label == 1]
    ends = [shape.points_N3 for shape in placed.shapes if shape.kind == Line.kind and shape.label == 1]
    if not ends:
        return None
    length = max(float(np.linalg.norm((end - start) * spacing_ZYX)) for start, end in ends)
    points_N3 = np.concatenate([placed.positive, *ends]) * spacing_ZYX
    if np.linalg.norm(points_N3[:, None] - points_N3, axis=2).max() < OUTGROWN * length:
        return None
    others = [prompt for prompt in prompts.prompts if prompt not in lines]
    # behind the user's own, which remarks number
    return CasePrompts(prompts.case, prompts.space, [*others, *(click for line in lines for click in line.as_clicks())])


def next_spacing(
    current_mm: float, label_map_ZYX: NDArray[Any], boxes: Iterable[Slices], spacing_ZYX: Sequence[float]
) -> float:
    """mm, after an answer; the current one if it suits the answer, or if that is empty.

    Args:
        current_mm: at which the answer was computed.
        label_map_ZYX: the answer. boxes: outside of which it is empty.
        spacing_ZYX: mm, of the image.
    """
    longest = 0.0
    for box in boxes:
        part = label_map_ZYX[box] != 0
        if part.any():
            longest = max(longest, _longest([side.stop - side.start for side in bounding_box(part)], spacing_ZYX))
    wished = longest / WANTED
    if not longest or abs(math.log2(wished / current_mm)) < TOLERATED:
        return current_mm
    return level(wished, label_map_ZYX.shape, spacing_ZYX)


def _longest(edges_ZYX: Any, spacing_ZYX: Sequence[float]) -> float:
    return float(np.max(np.asarray(edges_ZYX, float) * np.asarray(spacing_ZYX)))
