"""Prompts on the voxels of one array: the form in which they are simulated, cropped, mirrored, encoded and bound.

Labels are values, and positions are voxels (D, H, W) of an array known to the caller: an image as read, a preprocessed
image, or a window of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.prompts.channel import place_clicks
from nnsam3d.prompts.types import VoxelClick


@dataclass(frozen=True, eq=False)
class VoxelPrompts:
    """All clicks on one array, in order of creation.

    Attributes:
        voxels_N3: (N, 3) int64, axes as those of the array.
        labels_N: (N,) int64; 0 = negative.

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

    @classmethod
    def of(cls, clicks: Iterable[tuple[Sequence[int] | NDArray[np.int64], int]] = ()) -> VoxelPrompts:
        """From single clicks."""
        listed = list(clicks)
        voxels = np.array([voxel for voxel, _ in listed], np.int64).reshape(-1, 3)
        return cls(voxels, np.array([label for _, label in listed], np.int64))

    @classmethod
    def placed(cls, shape: Sequence[int], positions_N3: ArrayLike, labels_N: ArrayLike) -> VoxelPrompts:
        """From positions with fractions; rules and errors as in :func:`place_clicks`."""
        return cls.of(place_clicks(shape, positions_N3, labels_N).items())

    def __len__(self) -> int:
        return len(self.labels_N)

    def __add__(self, more: VoxelPrompts) -> VoxelPrompts:
        return VoxelPrompts(
            np.concatenate([self.voxels_N3, more.voxels_N3]), np.concatenate([self.labels_N, more.labels_N])
        )

    def clicks(self) -> list[VoxelClick]:
        """As a list."""
        return [
            VoxelClick((z, y, x), label)
            for (z, y, x), label in zip(self.voxels_N3.tolist(), self.labels_N.tolist(), strict=True)
        ]

    def last_of_each_voxel(self) -> VoxelPrompts:
        """Without clicks that a later click on the same voxel replaces."""
        last: dict[tuple[int, ...], int] = {}
        for voxel, label in zip(map(tuple, self.voxels_N3.tolist()), self.labels_N.tolist(), strict=True):
            last.pop(voxel, None)  # it moves to the end of the order
            last[voxel] = label
        return VoxelPrompts.of(last.items())

    def of_label(self, label: int) -> NDArray[np.int64]:
        """The voxels (n, 3) clicked with this label."""
        return self.voxels_N3[self.labels_N == label]

    @property
    def positive(self) -> NDArray[np.int64]:
        """The voxels (n, 3) clicked with any label except background."""
        return self.voxels_N3[self.labels_N > 0]

    def shifted(self, offset: Sequence[int]) -> VoxelPrompts:
        """The same clicks in an array that is padded by ``offset`` voxels at the low end."""
        return VoxelPrompts(self.voxels_N3 + np.asarray(offset, np.int64), self.labels_N)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> VoxelPrompts:
        """The clicks inside a window, relative to its first voxel."""
        local_N3 = self.voxels_N3 - np.asarray(start, np.int64)
        inside = ((local_N3 >= 0) & (local_N3 < np.asarray(size))).all(axis=1)
        return VoxelPrompts(local_N3[inside], self.labels_N[inside])

    def mirrored(self, axes: Iterable[int], size: Sequence[int]) -> VoxelPrompts:
        """The clicks after flipping an array of this size along these axes."""
        voxels_N3 = self.voxels_N3.copy()
        for axis in axes:
            voxels_N3[:, axis] = size[axis] - 1 - voxels_N3[:, axis]
        return VoxelPrompts(voxels_N3, self.labels_N)

    def key(self) -> tuple[bytes, bytes]:
        """A key for caching: equal for equal prompts."""
        return self.voxels_N3.tobytes(), self.labels_N.tobytes()
