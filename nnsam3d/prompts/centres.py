"""Where users click: in the centre of a mask's components, or of a segmentation's largest error.

A centre is the voxel with the largest distance (in mm) to the outside of its component. :func:`next_click` and
:func:`error_centres` are deterministic. Axis letters: D, H, W = array axes z, y, x.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from nnsam3d.prompts.components import Component, Components, bounding_box
from nnsam3d.prompts.types import VoxelClick

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
        mask: (D, H, W), not empty.
        rng: draws among equally deep voxels.
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


def next_click(
    segmentation_DHW: ArrayLike,
    prediction_DHW: ArrayLike,
    spacing: Sequence[float],
    *,
    labels: Sequence[int],
    ignore_label: int | None = None,
    clicked: Iterable[Sequence[int]] = (),
) -> VoxelClick | None:
    """A click in the centre of the largest error, with the label of the ground truth there.

    An error is a 26-connected component of voxels with the same truth value that are predicted as something else: a
    missed part of label k (the click has label k), or background predicted as a label (the click is negative). The
    largest component by volume is chosen; of equal ones the smaller label, then raster order. Its centre is the deepest
    voxel by distance transform in mm; of equally deep ones, the nearest to the component's mean.

    Args:
        segmentation_DHW: ground truth (label map).
        prediction_DHW: label map of the same shape.
        spacing: mm along D, H, W.
        labels: foreground values that may be clicked, in addition to 0. Errors on other values are ignored.
        ignore_label: never clicked, even if it is among ``labels``.
        clicked: voxels (z, y, x) that have been clicked already.

    Returns:
        ((z, y, x), label), or None if there is no error, or all voxels of errors have been clicked.

    Raises:
        ValueError: not two volumes of the same shape.

    >>> truth, prediction = np.zeros((5, 5, 9), int), np.zeros((5, 5, 9), int)
    >>> truth[1:4, 1:4, 1:4] = 1
    >>> next_click(truth, prediction, (1, 1, 1), labels=[1])  # the lesion was missed
    VoxelClick(voxel=(2, 2, 2), label=1)
    >>> prediction[truth == 1] = 1
    >>> prediction[1:4, 1:4, 5:8] = 1
    >>> next_click(truth, prediction, (1, 1, 1), labels=[1])  # something else was found
    VoxelClick(voxel=(2, 2, 6), label=0)
    >>> next_click(truth, truth, (1, 1, 1), labels=[1]) is None
    True
    """
    truth, predicted = np.asarray(segmentation_DHW), np.asarray(prediction_DHW)
    if truth.ndim != 3 or predicted.shape != truth.shape:
        raise ValueError(
            f"segmentation {truth.shape} and prediction {predicted.shape} must have the same shape (D, H, W)"
        )
    return next(error_centres(truth, truth != predicted, spacing, {0, *labels} - {ignore_label}, clicked), None)


def error_centres(
    truth_DHW: NDArray,
    error_DHW: NDArray[np.bool_],
    spacing: Sequence[float],
    values: Iterable[int | None],
    clicked: Iterable[Sequence[int]] = (),
    grain: int = 1,
) -> Iterator[VoxelClick]:
    """The centres of all errors as defined by :func:`next_click`, largest error first.

    Errors in which all voxels have been clicked are omitted.

    Args:
        truth_DHW: label map.
        error_DHW: True where the prediction is wrong.
        spacing: mm along D, H, W.
        values: truth values on which an error counts.
        clicked: voxels (z, y, x) that have been clicked already.
        grain: equally large errors of one value follow each other in raster order of blocks of this many voxels a side.
    """
    taken = np.array([as_voxel(voxel) for voxel in clicked], dtype=np.int64).reshape(-1, 3)
    box = bounding_box(error_DHW)
    truth, error = truth_DHW[box], error_DHW[box]
    offset = np.array([axis.start for axis in box])
    pieces = []  # (volume, truth value, number) of all errors
    components = {}
    occurring = set(np.unique(truth[error]).tolist())
    for value in sorted(occurring & {v for v in values if v is not None}):
        components[value] = Components(error & (truth == value))
        pieces += [(-volume, value, number) for number, volume in enumerate(components[value].volumes.tolist())]
    pieces.sort()
    ordered = pieces if grain == 1 else _by_blocks(pieces, components, offset, grain)
    for _, value, number in ordered:
        centre = _centre(components[value][number], spacing, taken - offset)
        if centre is not None:
            yield VoxelClick(as_voxel(centre + offset), int(value))


def _by_blocks(
    pieces: Iterable[tuple[int, int, int]],
    components: Mapping[int, Components],
    offset: NDArray[np.int64],
    grain: int,
) -> Iterator[tuple[int, int, int]]:
    """Sorted (volume, value, number) of pieces; those that differ in the number only, by their first block."""
    for (_, value), alike in itertools.groupby(pieces, key=lambda piece: piece[:2]):
        tied = list(alike)
        if len(tied) > 1:
            found = components[value]
            tied.sort(key=lambda piece: min(map(tuple, ((found[piece[2]].voxels() + offset) // grain).tolist())))
        yield from tied


def _centre(component: Component, spacing: Sequence[float], taken_N3: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The deepest voxel that has not been clicked; None if there is none."""
    voxels_N3 = component.voxels()
    depth_N = component.depth(spacing)
    inner = taken_N3 - component.low
    inner = inner[((inner >= 0) & (inner < component.box.shape)).all(axis=1)]
    if len(inner):
        clicked = np.zeros(component.box.shape, dtype=bool)
        clicked[tuple(inner.T)] = True
        depth_N = np.where(clicked[component.box], 0.0, depth_N)
    if depth_N.max() <= 0:
        return None
    best = voxels_N3[depth_N >= depth_N.max() * (1 - TIE)]
    # A thin or flat error is equally deep nearly everywhere; users aim at its middle.
    from_mean = np.linalg.norm((best - voxels_N3.mean(axis=0)) * np.asarray(spacing), axis=1)
    return best[int(np.argmin(np.round(from_mean, 6)))]
