"""The prompt channel: clicks as an additional image channel in nnU-Net.

0 = no click, ``1 + label`` at the voxel of a click. The network reads the clicks back from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.geometry.boxes import Triple
from nnsam3d.geometry.frames import as_points
from nnsam3d.prompts.kinds.checks import PromptError

# Positions on the outer face of the volume may be outside by rounding errors of the mapping.
_TOLERANCE = 1e-4

# Resampling from 2 mm to 1 mm puts every voxel's centre exactly between two voxels. The same click in mm and in voxels
# must not be rounded to different sides because of an error in the last digit.
DECIMALS = 3


LARGEST_LABEL = 2**24 - 1
"""float32 holds all whole numbers up to one more."""


def write_channel(shape_DHW: Sequence[int], clicks_N3: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float32]:
    """Clicks -> prompt channel (D, H, W), each at the voxel chosen by :func:`place_clicks`.

    Args:
        shape_DHW: shape of the grid.
        clicks_N3: (N, 3) positions in voxels of this grid, order (D, H, W), fractions allowed.
        labels_N: (N,) whole numbers >= 0.

    Raises:
        PromptError: see :func:`place_clicks`.

    >>> channel = write_channel((2, 3, 4), [[1, 2, 3], [0, 0, 0.4]], [1, 0])
    >>> float(channel[1, 2, 3]), float(channel[0, 0, 0]), int((channel != 0).sum())
    (2.0, 1.0, 2)
    """
    shape = tuple(int(s) for s in shape_DHW)
    channel = np.zeros(shape, np.float32)
    for voxel, label in place_clicks(shape, clicks_N3, labels_N).items():
        channel[voxel] = 1 + label
    return channel


def place_clicks(shape_DHW: Sequence[int], clicks_N3: ArrayLike, labels_N: ArrayLike) -> dict[Triple, int]:
    """Assign clicks to the voxels (D, H, W) of a grid.

    Each click is assigned to its nearest voxel. Clicks of the same label in one voxel are merged. Of clicks at exactly
    the same position, the last one counts (a correction). Clicks of different labels that only share a voxel after
    resampling are all kept: the earlier one stays, and the later one moves to the nearest free voxel (Euclidean
    distance in voxels, ties in raster order).

    Args:
        shape_DHW: voxels of the grid.
        clicks_N3: positions on the grid in voxels (D, H, W), fractions allowed, integers at voxel centres.
        labels_N: whole numbers; 0 = background.

    Raises:
        PromptError: a click more than half a voxel outside the grid, a label that is negative, not whole or
            larger than :data:`LARGEST_LABEL`, or no voxel left; the message names the click (counted from 1).

    >>> place_clicks((2, 3, 4), [[1, 2, 3.2], [1, 2, 2.9]], [1, 0])  # two labels in one voxel: the later click moves
    {(1, 2, 3): 1, (1, 2, 2): 0}
    """
    shape = tuple(int(s) for s in shape_DHW)
    clicks = as_points(clicks_N3)
    labels = _checked_labels(labels_N, len(clicks))
    voxels = _nearest_voxels(clicks, shape)
    # The later of equal positions wins; popping first keeps the order.
    last: dict[tuple[float, ...], int] = {}
    for number, position in enumerate(map(tuple, clicks.tolist())):
        last.pop(position, None)
        last[position] = number
    # All clicks are assigned before any is moved, so that a moved click does not displace others.
    placed: dict[Triple, int] = {}
    displaced = []
    for number in last.values():
        z, y, x = voxels[number].tolist()
        if placed.setdefault((z, y, x), labels[number]) != labels[number]:
            displaced.append(number)
    for number in displaced:
        free = _nearest_free(placed, shape, clicks[number], voxels[number])
        if free is None:
            raise PromptError(f"click {number + 1}: no free voxel is left in a grid of shape {shape}")
        placed[free] = labels[number]
    return placed


def read_channel(channel: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompt channel (D, H, W) -> clicks (N, 3) int voxels and labels (N,), in raster order.

    Raises:
        PromptError: values that are not whole numbers, as in an interpolated channel.

    >>> clicks, labels = read_channel(write_channel((2, 3, 4), [[1, 2, 3]], [1]))
    >>> clicks.tolist(), labels.tolist()
    ([[1, 2, 3]], [1])
    """
    array = np.asarray(channel)
    if array.ndim != 3:
        raise PromptError(f"the prompt channel must have shape (D, H, W), got {array.shape}")
    clicks = np.argwhere(array != 0).astype(np.int64).reshape(-1, 3)
    values = array[tuple(clicks.T)].astype(np.float64)
    labels = np.rint(values) - 1
    if (labels < 0).any() or (np.abs(values - labels - 1) > 1e-3).any():
        raise PromptError("the prompt channel contains values that are not clicks (interpolated? normalised?)")
    return clicks, labels.astype(np.int64)


def _checked_labels(labels_N: ArrayLike, count: int) -> list[int]:
    labels = np.atleast_1d(np.asarray(labels_N))
    if labels.size != count:
        raise PromptError(f"{count} clicks but {labels.size} labels")
    checked = []
    for number, label in enumerate(labels.ravel().tolist()):
        if isinstance(label, (bool, str)) or label != label or label < 0 or int(label) != label:
            raise PromptError(f"click {number + 1}: label must be a whole number >= 0, got {label!r}")
        if label > LARGEST_LABEL:
            raise PromptError(f"click {number + 1}: label {label} is too large, at most {LARGEST_LABEL} is possible")
        checked.append(int(label))
    return checked


def _nearest_voxels(clicks: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.int64]:
    size = np.asarray(shape)
    # In this form, NaN counts as outside.
    inside = ((clicks >= -0.5 - _TOLERANCE) & (clicks <= size - 0.5 + _TOLERANCE)).all(axis=1)
    for number in np.flatnonzero(~inside)[:1]:
        place = ", ".join(f"{v:.2f}" for v in clicks[number])
        allowed = ", ".join(f"-0.5..{s - 0.5}" for s in shape)
        grid = f"the grid of shape {tuple(shape)}"
        raise PromptError(f"click {number + 1} at ({place}) is outside {grid}; allowed: {allowed}")
    return np.clip(np.floor(np.round(clicks, DECIMALS) + 0.5).astype(np.int64), 0, size - 1)


def _nearest_free(
    taken: Collection[Triple], shape: Sequence[int], position: NDArray[np.float64], voxel: NDArray[np.int64]
) -> Triple | None:
    """The free voxel whose centre is nearest to ``position``, or None."""
    for radius in range(1, max(shape) + 1):
        low = np.maximum(voxel - radius, 0)
        high = np.minimum(voxel + radius + 1, shape)
        candidates = itertools.product(*map(range, low.tolist(), high.tolist()))
        free = [c for c in candidates if c not in taken]
        if not free:
            continue
        # Distances are compared after rounding, so that raster order decides ties.
        distance = np.round(((np.asarray(free) - position) ** 2).sum(axis=1), 9)
        best = int(np.argmin(distance))
        # Voxels outside this cube are at least radius + 0.5 away.
        if distance[best] <= (radius + 0.5) ** 2 or (not low.any() and (high == np.asarray(shape)).all()):
            z, y, x = free[best]
            return z, y, x
    return None
