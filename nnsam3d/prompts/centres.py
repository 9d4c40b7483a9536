"""Centres of a mask's components, where users tend to click, and orders of clicks on a mask.

A centre is the voxel with the largest distance (in mm) to the outside of its component.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.prompts.components import Components

# Distances within this share of the largest one count as equal (floating-point noise).
TIE = 1e-6


def shuffled(count: int, rng: Generator) -> Iterator[int]:
    """An infinite sequence of indices 0..count-1: random permutations, one after the other.

    A Fisher-Yates shuffle that stores only swapped items, so that a few draws from millions are cheap.
    """
    while count:
        swapped: dict[int, int] = {}
        for done in range(count):
            pick = int(rng.integers(done, count))
            yield swapped.get(pick, pick)
            swapped[pick] = swapped.get(done, done)


def centres_first(mask: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """An infinite sequence of voxels (z, y, x) of a non-empty mask (D, H, W), the most central first.

    First the deepest voxel of every 26-connected component, largest component first; then repeatedly
    the voxel with the largest distance to the border and earlier clicks. Ties are drawn from ``rng``.

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
        if free.max() <= 0:  # all voxels have been clicked
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
