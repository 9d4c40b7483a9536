"""Components of a mask and their centres: where a person would click, and orders of clicks on a mask.

A centre is the voxel with the largest distance (in mm) to what lies outside its component.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

# Distances within this share of the largest one count as equal: the difference is floating point noise.
TIE = 1e-6

# Below this share of its bounding box a piece's distances are cheaper voxel by voxel than by a transform.
_SPARSE = 0.15

_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Component:
    """One 26-connected piece of a mask.

    Attributes:
        low: first voxel (z, y, x) of its bounding box in the whole volume.
        box: the piece in its bounding box, True inside.
    """

    low: NDArray[np.int64]
    box: NDArray[np.bool_]

    def voxels(self) -> NDArray[np.int64]:
        """Its voxels (N, 3) in the whole volume, raster order."""
        return np.argwhere(self.box) + self.low

    def depth(self, spacing: Sequence[float]) -> NDArray[np.float64]:
        """(N,) distance in mm of :meth:`voxels` to the nearest voxel outside; beyond the volume is outside.

        The box with a margin of one voxel is enough: another piece is never nearer than the gap before it.
        """
        padded = np.pad(self.box, 1)
        if self.box.mean() > _SPARSE:
            return ndimage.distance_transform_edt(padded, sampling=tuple(spacing))[padded]
        # A thin shell in a large box (what a slightly shifted prediction leaves): distances of its voxels only.
        flat = np.flatnonzero(padded)
        shell = np.zeros(padded.shape, dtype=bool)
        for step in itertools.product((-1, 0, 1), repeat=3):
            shell.reshape(-1)[flat + (step[0] * padded.shape[1] + step[1]) * padded.shape[2] + step[2]] = True
        # The nearest voxel outside touches the piece, else the one before it on the way would be nearer.
        outside = KDTree(np.argwhere(shell & ~padded) * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
        return outside.query(np.argwhere(padded) * np.asarray(spacing))[0]


class Components:
    """The 26-connected components of a mask (D, H, W): their volumes at once, each of them when asked for."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._box = bounding_box(mask)
        self._numbers, count = ndimage.label(mask[self._box], structure=_NEIGHBOURS_26)
        self.volumes = np.bincount(self._numbers.reshape(-1), minlength=count + 1)[1:]

    def __getitem__(self, number: int) -> Component:
        """The component whose volume is ``volumes[number]``; they are numbered in raster order."""
        mask = self._numbers == number + 1
        box = bounding_box(mask)
        low = np.array([outer.start + inner.start for outer, inner in zip(self._box, box, strict=True)])
        return Component(low, mask[box])

    def largest_first(self) -> Iterator[Component]:
        """All of them; of equal ones the first in raster order comes first."""
        for number in np.argsort(-self.volumes, kind="stable"):
            yield self[number]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box that holds every True voxel; empty slices if there is none."""
    # One axis after the other, each in what the last one left: little more than one pass over the mask.
    box: list[slice] = []
    inner = mask
    for axis in range(3):
        used = np.flatnonzero(inner.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0))
        inner = inner[(slice(None),) * axis + (box[-1],)]
    return box[0], box[1], box[2]


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
    mask: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
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
