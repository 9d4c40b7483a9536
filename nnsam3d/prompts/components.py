"""Connected components of a mask, with 26 neighbours everywhere in this library; measures of masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from nnsam3d.geometry.boxes import Slices, box_between

NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)

CORE = 0.75  # share of the largest depth from which on a voxel lies in the middle of its component

# Below this share of the bounding box, distances are cheaper voxel by voxel than by a transform.
_SPARSE = 0.15


@dataclass(frozen=True)
class Component:
    """One component of a mask.

    Attributes:
        low: first voxel (z, y, x) of its bounding box in the whole volume.
        box: the component in its bounding box, True inside.
    """

    low: NDArray[np.int64]
    box: NDArray[np.bool_]

    def voxels(self) -> NDArray[np.int64]:
        """Its voxels (N, 3) in the whole volume, raster order."""
        return np.argwhere(self.box) + self.low

    @property
    def place(self) -> Slices:
        """Its bounding box in the whole volume."""
        return box_between(self.low, self.low + self.box.shape)

    def holds(self, voxel: Sequence[int]) -> bool:
        """Whether a voxel (z, y, x) of the whole volume is one of its own."""
        local = np.asarray(voxel) - self.low
        return bool(((local >= 0) & (local < self.box.shape)).all() and self.box[tuple(local)])

    def depth(self, spacing: Sequence[float]) -> NDArray[np.float64]:
        """(N,) distance in mm of :meth:`voxels` to the nearest voxel outside; beyond the volume counts as outside.

        The box with a margin of one voxel is sufficient: the gap before another component is always nearer.
        """
        padded = np.pad(self.box, 1)
        if self.box.mean() > _SPARSE:
            return ndimage.distance_transform_edt(padded, sampling=tuple(spacing))[padded]
        # A thin shell in a large box, as left by a slightly shifted prediction: distances of its voxels only.
        flat = np.flatnonzero(padded)
        shell = np.zeros(padded.shape, dtype=bool)
        for step in itertools.product((-1, 0, 1), repeat=3):
            shell.reshape(-1)[flat + (step[0] * padded.shape[1] + step[1]) * padded.shape[2] + step[2]] = True
        # The nearest voxel outside is adjacent to the component.
        outside = KDTree(np.argwhere(shell & ~padded) * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
        return outside.query(np.argwhere(padded) * np.asarray(spacing))[0]


class Components:
    """The 26-connected components of a mask (D, H, W): all volumes at once, each component on request."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        box = bounding_box(mask)
        self._origin = np.array([side.start for side in box], np.int64)
        self._numbers, count = ndimage.label(mask[box], structure=NEIGHBOURS_26)
        self._boxes = ndimage.find_objects(self._numbers) if count else []
        self.volumes = np.bincount(self._numbers.reshape(-1), minlength=count + 1)[1:]

    def __len__(self) -> int:
        return len(self._boxes)

    def __getitem__(self, number: int) -> Component:
        """The component whose volume is ``volumes[number]``; they are numbered in raster order."""
        box = self._boxes[number]
        low = self._origin + [side.start for side in box]
        return Component(low, self._numbers[box] == number + 1)

    def holding(self, voxel: Sequence[int]) -> Component:
        """The component that contains this voxel (D, H, W), which must be True in the mask."""
        return self[int(self._numbers[tuple(np.asarray(voxel) - self._origin)]) - 1]

    def __iter__(self) -> Iterator[Component]:
        return (self[number] for number in range(len(self)))

    def largest_first(self) -> Iterator[Component]:
        """All components by decreasing volume; equal ones in raster order."""
        for number in np.argsort(-self.volumes, kind="stable"):
            yield self[int(number)]


def largest_area(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component of a mask on a slice, with 8 neighbours; of equal ones, the first in raster order."""
    numbered, count = ndimage.label(mask_HW, structure=NEIGHBOURS_26[0])
    return numbered == 1 + int(np.argmax(np.bincount(numbered.reshape(-1))[1:])) if count > 1 else mask_HW


def in_the_middle(depth_N: NDArray[np.float64], spacing: Sequence[float]) -> NDArray[np.bool_]:
    """(N,) which voxels lie in the middle of their component: nearly as deep as the deepest, or a voxel less.

    Whoever means all of a component points there; elsewhere, a background click trims it.

    Args:
        depth_N: from :meth:`Component.depth`.
        spacing: mm along z, y, x.
    """
    return depth_N >= min(CORE * depth_N.max(), depth_N.max() - min(spacing))


def volume_and_count(mask: NDArray[np.bool_], spacing_zyx: Sequence[float]) -> tuple[float, int]:
    """Volume in ml and number of components of a mask (z, y, x) with voxels of ``spacing_zyx`` mm."""
    return int(np.count_nonzero(mask)) * (math.prod(spacing_zyx) / 1000), len(Components(mask))


def dice_of(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def touched(mask: NDArray[np.bool_], marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The components of a mask (D, H, W) of which a voxel is marked."""
    numbers, count = ndimage.label(mask, structure=NEIGHBOURS_26)
    keep = np.zeros(count + 1, bool)
    keep[numbers[marked & mask]] = True
    return keep[numbers]


def bounding_box(mask: NDArray[np.bool_]) -> Slices:
    """The smallest box that contains all True voxels; empty slices if there are none."""
    # Axis by axis, each within the result of the last: little more than one pass over the mask.
    box: list[slice] = []
    inner = mask
    for axis in range(3):
        used = np.flatnonzero(inner.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0))
        inner = inner[(slice(None),) * axis + (box[-1],)]
    return box[0], box[1], box[2]
