"""Prompts on the voxels of one array: the form in which they are simulated, cropped, mirrored, encoded and bound.

Labels are values, and positions are voxels (D, H, W) of an array known to the caller: an image as read, a preprocessed
image, or a window of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds import KINDS, Shape
from nnsam3d.prompts.types import VoxelClick


@dataclass(frozen=True, eq=False)
class VoxelMask:
    """A label map to start from, seen on another array with parallel axes: the nearest voxel of the label map.

    Attributes:
        label_map_ZYX: on its own grid.
        axes: for each axis of the array, the axis of the label map that it follows.
        places: for each axis of the array, the index in the label map of every voxel along it; -1 = outside.
    """

    label_map_ZYX: NDArray[np.integer]
    axes: tuple[int, int, int]
    places: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

    @classmethod
    def of(cls, label_map_DHW: NDArray[np.integer]) -> VoxelMask:
        """On its own grid."""
        d, h, w = (np.arange(n, dtype=np.int64) for n in label_map_DHW.shape)
        return cls(label_map_DHW, (0, 1, 2), (d, h, w))

    def array(self) -> NDArray[np.int16]:
        """(D, H, W); 0 outside the label map."""
        order = np.argsort(self.axes)
        seen = self.label_map_ZYX[np.ix_(*(self.places[axis] for axis in order))].transpose(np.argsort(order))
        d, h, w = (place >= 0 for place in self.places)
        known = d[:, None, None] & h[:, None] & w
        return np.where(known, seen, 0).astype(np.int16)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> VoxelMask:
        """On a window, which may reach beyond the array."""
        places: list[NDArray[np.int64]] = []
        for place, low, length in zip(self.places, start, size, strict=True):
            index = np.arange(low, low + length)
            inside = (index >= 0) & (index < len(place))
            places.append(np.where(inside, place[np.clip(index, 0, len(place) - 1)], -1))
        d, h, w = places
        return replace(self, places=(d, h, w))

    def mirrored(self, axes: Iterable[int]) -> VoxelMask:
        """On the array flipped along these axes."""
        flipped = set(axes)
        d, h, w = (place[::-1] if axis in flipped else place for axis, place in enumerate(self.places))
        return replace(self, places=(d, h, w))


@dataclass(frozen=True, eq=False)
class VoxelPrompts:
    """All prompts on one array; clicks, and shapes of other kinds, each in order of creation.

    Attributes:
        voxels_N3: (N, 3) int64, axes as those of the array.
        labels_N: (N,) int64; 0 = negative.
        shapes: with positions of this array; they may lie outside it, and a window keeps all of them.
        mask: to start from.

    >>> prompts = VoxelPrompts.of([((4, 5, 6), 1), ((0, 0, 9), 0)])
    >>> prompts.positive.tolist()
    [[4, 5, 6]]
    >>> prompts.cropped(start=(2, 2, 2), size=(8, 8, 8)).clicks()
    [VoxelClick(voxel=(2, 3, 4), label=1)]
    >>> prompts.mirrored([0], size=(10, 10, 10)).voxels_N3.tolist()
    [[5, 5, 6], [9, 0, 9]]
    """

    voxels_N3: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    shapes: tuple[Shape, ...] = ()
    mask: VoxelMask | None = None

    @classmethod
    def of(
        cls, clicks: Iterable[tuple[Sequence[int] | NDArray[np.int64], int]] = (), shapes: Iterable[Shape] = ()
    ) -> VoxelPrompts:
        """From single clicks and shapes."""
        listed = list(clicks)
        voxels = np.array([voxel for voxel, _ in listed], np.int64).reshape(-1, 3)
        return cls(voxels, np.array([label for _, label in listed], np.int64), tuple(shapes))

    def __len__(self) -> int:
        """The number of clicks."""
        return len(self.labels_N)

    def __add__(self, more: VoxelPrompts) -> VoxelPrompts:
        return VoxelPrompts(
            np.concatenate([self.voxels_N3, more.voxels_N3]),
            np.concatenate([self.labels_N, more.labels_N]),
            (*self.shapes, *more.shapes),
            self.mask or more.mask,
        )

    def clicks(self) -> list[VoxelClick]:
        """As a list."""
        return [
            VoxelClick((z, y, x), label)
            for (z, y, x), label in zip(self.voxels_N3.tolist(), self.labels_N.tolist(), strict=True)
        ]

    def of_label(self, label: int) -> NDArray[np.int64]:
        """The voxels (n, 3) clicked with this label."""
        return self.voxels_N3[self.labels_N == label]

    @property
    def positive(self) -> NDArray[np.int64]:
        """The voxels (n, 3) clicked with any label except background."""
        return self.voxels_N3[self.labels_N > 0]

    @property
    def positive_labels(self) -> list[int]:
        """The labels of clicks and shapes, except background, in ascending order."""
        return sorted({*self.labels_N.tolist(), *(shape.label for shape in self.shapes)} - {0})

    def shifted(self, offset: Sequence[int]) -> VoxelPrompts:
        """The same prompts in an array that is padded by ``offset`` voxels at the low end."""
        moved = VoxelPrompts(self.voxels_N3 + np.asarray(offset, np.int64), self.labels_N, self._moved(offset))
        if self.mask is None or not any(offset):
            return replace(moved, mask=self.mask)
        size = [len(place) + more for place, more in zip(self.mask.places, offset, strict=True)]
        return replace(moved, mask=self.mask.cropped([-more for more in offset], size))

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> VoxelPrompts:
        """The clicks inside a window and all shapes, relative to its first voxel."""
        local_N3 = self.voxels_N3 - np.asarray(start, np.int64)
        inside = ((local_N3 >= 0) & (local_N3 < np.asarray(size))).all(axis=1)
        mask = None if self.mask is None else self.mask.cropped(start, size)
        return VoxelPrompts(local_N3[inside], self.labels_N[inside], self._moved([-low for low in start]), mask)

    def mirrored(self, axes: Iterable[int], size: Sequence[int]) -> VoxelPrompts:
        """The prompts after flipping an array of this size along these axes."""
        axes = list(axes)
        voxels_N3, shapes = self.voxels_N3.copy(), []
        for axis in axes:
            voxels_N3[:, axis] = size[axis] - 1 - voxels_N3[:, axis]
        for shape in self.shapes:
            points_N3 = shape.points_N3.copy()
            points_N3[:, axes] = np.asarray(size)[axes] - 1 - points_N3[:, axes]
            shapes.append(shape._replace(points_N3=points_N3))
        mask = None if self.mask is None else self.mask.mirrored(axes)
        return VoxelPrompts(voxels_N3, self.labels_N, tuple(shapes), mask)

    def _moved(self, offset: Sequence[int]) -> tuple[Shape, ...]:
        return tuple(shape._replace(points_N3=shape.points_N3 + np.asarray(offset)) for shape in self.shapes)

    def key(self) -> tuple[Any, ...]:
        """A key for caching: equal for equal prompts."""
        shapes = tuple((shape.kind, shape.label, shape.points_N3.tobytes()) for shape in self.shapes)
        mask = None if self.mask is None else self.mask.array().tobytes()
        return self.voxels_N3.tobytes(), self.labels_N.tobytes(), shapes, mask


def reaches(shape: Shape, size: Sequence[int]) -> bool:
    """Whether a shape reaches into an array of this size."""
    low, high = KINDS[shape.kind].bounds(shape.points_N3)
    return bool((high >= -0.5).all() and (low <= np.asarray(size) - 0.5).all())
