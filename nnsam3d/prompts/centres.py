"""Centres of a mask's components: where a person would click, and orders of clicks on a mask.

A centre is the voxel with the largest distance (in mm) to what lies outside its component.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.prompts.components import Components

# Distances within this share of the largest one count as equal: the difference is floating point noise.
TIE = 1e-6


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


def centres_first(mask: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """Endless voxels (z, y, x) of a mask (D, H, W), the most central first; it must not be empty.

    First the deepest voxel of every 26-connected component, largest component first; then, again and again,
    the voxel with the largest distance to border and earlier clicks. Ties are drawn from ``rng``.

    Args:
        spacing: mm along z, y, x. The border of the volume counts as border of the mask.
    """
    pitch = np.asarray(spacing, dtype=np.float64)
    voxels, depths, clicked = [], [], []
    for component in Components(mask).largest_first():
        voxels.append(component.voxels())
        depths.append(component.depth(spacing))
        clicked.append(voxels[-1][_deepest(depths[-1], rng)])
        yield as_voxel(clicked[-1])
    all_voxels, depth = np.concatenate(voxels), np.concatenate(depths)
    position_mm = all_voxels * pitch
    free = depth.copy()
    for voxel in clicked:
        free = np.minimum(free, np.linalg.norm(position_mm - voxel * pitch, axis=1))
    while True:
        if free.max() <= 0:  # every voxel has been clicked
            free = depth.copy()
        pick = _deepest(free, rng)
        free = np.minimum(free, np.linalg.norm(position_mm - position_mm[pick], axis=1))
        yield as_voxel(all_voxels[pick])


def _deepest(depth: NDArray[np.float64], rng: Generator) -> int:
    best = np.flatnonzero(depth >= depth.max() * (1 - TIE))
    return int(best[rng.integers(len(best))])


def as_voxel(row: Sequence[int] | NDArray[np.int64]) -> tuple[int, int, int]:
    """Three numbers as a tuple of Python integers."""
    z, y, x = row
    return int(z), int(y), int(x)
