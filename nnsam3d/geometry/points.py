"""Positions with their coordinate space, so that mm and voxels, or x, y, z and z, y, x, are never confused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry.frames import GeometryError, ImageGrid, as_points

PointSpace = Literal["voxel", "lps", "ras", "array"]


@dataclass(frozen=True)
class Points:
    """Positions and their coordinate space; nothing is rounded or clipped.

    Attributes:
        values_N3: (N, 3) float64.
        space: "voxel" = index i, j, k of the image file as stored, "lps" / "ras" = world mm x, y, z,
            "array" = the same voxels in array order z, y, x, as returned by nnU-Net's readers;
            :func:`nnsam3d.geometry.preprocessing_steps` maps these to the network's voxels.

    Raises:
        GeometryError: wrong shape or unknown space.

    >>> grid = ImageGrid((10, 20, 30), (1.0, 1.0, 2.5), (0.0, 0.0, 100.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    >>> points = Points([[5, 10, 4]], "voxel")
    >>> points.to("lps", grid).values_N3.tolist()
    [[5.0, 10.0, 110.0]]
    >>> points.to("array", grid).values_N3.tolist()
    [[4.0, 10.0, 5.0]]
    >>> points.inside(grid).tolist()
    [True]
    """

    values_N3: NDArray[np.float64]
    space: PointSpace

    def __post_init__(self) -> None:
        if self.space not in get_args(PointSpace):
            raise GeometryError(f"unknown space {self.space!r}; allowed are {', '.join(get_args(PointSpace))}")
        object.__setattr__(self, "values_N3", as_points(self.values_N3))

    def __len__(self) -> int:
        return len(self.values_N3)

    def to(self, space: PointSpace, grid: ImageGrid) -> Points:
        """The same positions in another space.

        Args:
            grid: of the image to which "voxel" and "array" refer.
        """
        if self.space == "array":
            index_N3 = self.values_N3[:, ::-1]
        else:
            index_N3 = grid.to_index(self.values_N3, self.space)
        if space == "array":
            return Points(index_N3[:, ::-1], space)
        return Points(index_N3 if space == "voxel" else grid.index_to_world(index_N3, space), space)

    def inside(self, grid: ImageGrid) -> NDArray[np.bool_]:
        """(N,) whether they are inside the volume covered by the image's voxels."""
        return grid.contains_index(self.to("voxel", grid).values_N3)
