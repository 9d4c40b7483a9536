"""Random fields of any smoothness, anisotropic, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def smooth_noise(rng: Generator, shape_DHW: Sequence[int], scale_DHW: Iterable[float]) -> NDArray[np.float32]:
    """A random field (D, H, W) of mean 0 and variance 1: white noise on a coarse grid, interpolated by cubic B-splines.

    Args:
        scale_DHW: distance of the coarse grid's nodes along each axis, in voxels: blobs are about twice as wide. Below
            1, the field is white along this axis.
    """
    nodes = [_nodes(rng, n, scale) for n, scale in zip(shape_DHW, scale_DHW, strict=True)]
    coarse = [n if one is None else int(one[0][-1]) + 4 for n, one in zip(shape_DHW, nodes, strict=True)]
    field = rng.standard_normal(coarse, dtype=np.float32)
    # element by element: the last digits of a matrix product depend on the number of threads
    for axis, one in enumerate(nodes):
        if one is not None:
            first_N, weights_4N = one
            along = [-1 if a == axis else 1 for a in range(3)]
            parts = [
                np.take(field, first_N + k, axis) * weight_N.reshape(along) for k, weight_N in enumerate(weights_4N)
            ]
            field = parts[0] + parts[1] + parts[2] + parts[3]
    return field


def _nodes(rng: Generator, n: int, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """The first of each voxel's four nodes (n,) and their weights (4, n), whose squares add up to 1; None: white."""
    if scale < 1:
        return None
    position_N = np.arange(n) / scale + rng.random()
    first_N = np.floor(position_N).astype(np.int64)
    f = position_N - first_N
    splines = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3])
    return first_N, (splines / np.sqrt((splines**2).sum(0))).astype(np.float32)
