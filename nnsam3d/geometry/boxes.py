"""Positions, sizes and boxes on the voxels of an array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Triple: TypeAlias = tuple[int, int, int]
"""Three whole numbers, one for each axis of an array: a voxel, or a size in voxels."""

Slices: TypeAlias = tuple[slice, slice, slice]
"""A box of an array."""


def box_between(low: ArrayLike, high: ArrayLike) -> Slices:
    """The box from the voxel ``low`` to before the voxel ``high``.

    >>> box_between((0, 1, 2), (5, 5, 5))
    (slice(0, 5, None), slice(1, 5, None), slice(2, 5, None))
    """
    d, h, w = (slice(int(a), int(b)) for a, b in zip(np.asarray(low), np.asarray(high), strict=True))
    return d, h, w


def moved(box: Slices, by: Sequence[int] | NDArray[np.int64]) -> Slices:
    """The box, so many voxels further along each axis."""
    d, h, w = (slice(int(side.start + n), int(side.stop + n)) for side, n in zip(box, by, strict=True))
    return d, h, w


def hull(boxes: Iterable[Slices]) -> Slices:
    """The smallest box around one or more boxes."""
    d, h, w = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
    return d, h, w


def overlap(box: Slices, within: Slices) -> Slices | None:
    """What two boxes share, in voxels from the start of the second one; None if they share nothing.

    >>> overlap(box_between((0, 0, 0), (9, 9, 9)), box_between((5, 5, 5), (11, 7, 9)))
    (slice(0, 4, None), slice(0, 2, None), slice(0, 4, None))
    """
    low = [max(one.start, side.start) for one, side in zip(box, within, strict=True)]
    high = [min(one.stop, side.stop) for one, side in zip(box, within, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    return moved(box_between(low, high), [-side.start for side in within])


def touch(first: Slices, second: Slices) -> bool:
    """Whether two boxes overlap, or lie side by side."""
    return all(a.start <= b.stop and b.start <= a.stop for a, b in zip(first, second, strict=True))
