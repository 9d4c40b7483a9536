"""Orders in which the voxels of a mask are clicked: at random, or centre first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

# Distances within this share of the largest one count as equal: the difference is floating point noise.
_TIE = 1e-6


def shuffled(count: int, rng: Generator) -> Iterator[int]:
    """Endless indices 0..count-1: every one once in random order, then all over again.

    A Fisher-Yates shuffle that stores only what it swapped: a few draws from millions cost a few draws.
    """
    while count:
        swapped: dict[int, int] = {}
        for done in range(count):
            pick = int(rng.integers(done, count))
            yield swapped.get(pick, pick)
            swapped[pick] = swapped.get(done, done)


def centres_first(
    flat: NDArray[np.int64], shape: Sequence[int], rng: Generator, spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """Endless voxels (z, y, x) of a mask, the most central first.

    First the deepest voxel of every 26-connected component, largest component first; then, again and again,
    the voxel with the largest distance to border and earlier clicks. Ties are drawn from ``rng``.

    Args:
        flat: raveled indices of the mask's voxels in a volume of ``shape`` (D, H, W); not empty.
        spacing: mm along z, y, x. The border of the volume counts as border of the mask.
    """
    coords = np.stack(np.unravel_index(flat, tuple(shape)), axis=1)
    low = coords.min(axis=0)
    # The bounding box with a margin of one empty voxel gives the same distances as the whole padded volume.
    inner = coords - low + 1
    box = np.zeros(inner.max(axis=0) + 2, dtype=bool)
    box[tuple(inner.T)] = True
    depth = ndimage.distance_transform_edt(box, sampling=tuple(spacing))[tuple(inner.T)]
    component, count = ndimage.label(box, structure=np.ones((3, 3, 3)))
    component_N = component[tuple(inner.T)]
    position_mm = (coords * np.asarray(spacing)).astype(np.float64)

    free = depth.copy()
    sizes = np.bincount(component_N, minlength=count + 1)[1:]
    for number in np.argsort(-sizes, kind="stable") + 1:
        members = np.flatnonzero(component_N == number)
        pick = members[_deepest(depth[members], rng)]
        free = np.minimum(free, _distances(position_mm, pick))
        yield _as_voxel(coords[pick])
    while True:
        if free.max() <= 0:  # every voxel has been clicked
            free = depth.copy()
        pick = _deepest(free, rng)
        free = np.minimum(free, _distances(position_mm, pick))
        yield _as_voxel(coords[pick])


def _deepest(depth: NDArray[np.float64], rng: Generator) -> int:
    best = np.flatnonzero(depth >= depth.max() * (1 - _TIE))
    return int(best[rng.integers(len(best))])


def _distances(position_mm: NDArray[np.float64], pick: int) -> NDArray[np.float64]:
    return np.sqrt(((position_mm - position_mm[pick]) ** 2).sum(axis=1))


def _as_voxel(row: NDArray[np.int64]) -> tuple[int, int, int]:
    return int(row[0]), int(row[1]), int(row[2])
