"""Random shapes, each as a level: a function that is below 1 inside and grows outwards.

Lengths are in units of the finest voxel edge. A pitch is the edges of a voxel (D, H, W) in this unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.geometry.boxes import Slices, box_between
from nnsam3d.synthetic.noise import smooth_noise

KINDS = {"ellipsoid": 0.35, "superellipsoid": 0.15, "box": 0.1, "lobes": 0.2, "tube": 0.2}
"""Share of each kind."""
WARPS = ((1.0, 0.35), (0.35, 0.3))  # scale and amplitude of warps; the scale in radii, the amplitude in scales
ELONGATION = 0.4  # standard deviation of the logarithm of semi-axes
SEGMENTS = (6, 16)  # of a tube
BRANCHES = 3  # at most


class Solid(NamedTuple):
    """A shape on a grid.

    Attributes:
        place: the box of voxels around it, within the grid.
        level_DHW: on these voxels; inside below 1.
    """

    place: Slices
    level_DHW: NDArray[np.float32]


def draw_shape(rng: Generator, grid_DHW: Sequence[int], pitch_DHW: Sequence[float], radius: float) -> Solid | None:
    """A shape of random kind, place, direction and warp; None if it lies outside of the grid.

    Args:
        grid_DHW: voxels of the grid. Shapes may be cut by its border.
        radius: mean semi-axis. A tube is thinner and longer.
    """
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    centre = rng.uniform(-0.05, 1.05, 3) * grid_DHW * pitch_DHW
    roughness = rng.uniform(0, 1) ** 2
    if kind == "tube":
        return _tube(rng, grid_DHW, pitch_DHW, radius, centre, roughness)
    axes = radius * np.exp(rng.normal(0, ELONGATION, 3))
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    reach = np.sqrt(((rotation * axes) ** 2).sum(1)) if kind == "ellipsoid" else np.abs(rotation * axes).sum(1)
    place = _box(centre - reach, centre + reach, grid_DHW, pitch_DHW, margin=radius * roughness)
    if place is None:
        return None
    y = _normalised(_positions(rng, place, pitch_DHW, centre, radius, roughness), rotation, axes)
    if kind == "lobes":
        return Solid(place, _lobes(rng, y))
    if kind == "box":
        level = np.max(np.abs(y), axis=0)
    elif kind == "superellipsoid":
        level = (np.abs(y) ** rng.uniform(1.2, 6)).sum(0)
    else:
        level = np.einsum("adhw,adhw->dhw", y, y)
    return Solid(place, level)


def _box(
    low: NDArray, high: NDArray, grid_DHW: Sequence[int], pitch_DHW: Sequence[float], margin: float
) -> Slices | None:
    """The voxels of the grid between two corners; None if there are none."""
    first = np.maximum(np.floor((low - margin) / pitch_DHW), 0).astype(int)
    end = np.minimum(np.ceil((high + margin) / pitch_DHW) + 1, grid_DHW).astype(int)
    if (first >= end).any():
        return None
    return box_between(first, end)


def _positions(
    rng: Generator,
    place: Slices,
    pitch_DHW: Sequence[float],
    centre: NDArray,
    radius: float,
    roughness: float,
) -> list[NDArray[np.float32]]:
    """Three arrays that broadcast to the box: positions of voxels relative to ``centre``, warped at several scales."""
    axes = [
        np.arange(side.start, side.stop, dtype=np.float32) * pitch - c
        for side, pitch, c in zip(place, pitch_DHW, centre, strict=True)
    ]
    positions = list(np.meshgrid(*(one.astype(np.float32) for one in axes), indexing="ij", sparse=True))
    shape = [side.stop - side.start for side in place]
    for scale, amplitude in WARPS:
        length = scale * radius
        if roughness * amplitude * length > 0.25:  # less than a quarter of a voxel is not seen
            amount = np.float32(roughness * amplitude * length)
            positions = [x + amount * smooth_noise(rng, shape, length / np.asarray(pitch_DHW)) for x in positions]
    return positions


def _normalised(positions: list[NDArray[np.float32]], rotation: NDArray, axes: NDArray) -> NDArray[np.float32]:
    """(3, D, H, W) positions along a shape's own axes, in semi-axes."""
    matrix = (rotation / axes).T.astype(np.float32)
    return np.stack([row[0] * positions[0] + row[1] * positions[1] + row[2] * positions[2] for row in matrix])


def _lobes(rng: Generator, y: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smooth union of several blobs."""
    total = np.zeros(y.shape[1:], np.float32)
    for _ in range(int(rng.integers(3, 8))):
        centre, radius = rng.uniform(-0.6, 0.6, (3, 1, 1, 1)).astype(np.float32), np.float32(rng.uniform(0.3, 0.6))
        offset = y - centre
        total += np.exp(np.einsum("adhw,adhw->dhw", offset, offset) / -(radius**2))
    return np.exp(-1) / np.maximum(total, 1e-6)


def _tube(
    rng: Generator,
    grid_DHW: Sequence[int],
    pitch_DHW: Sequence[float],
    radius: float,
    centre: NDArray,
    roughness: float,
) -> Solid | None:
    """A curved tube that may branch; each segment is drawn in its own box."""
    thickness = max(1.2, radius * rng.uniform(0.2, 0.5))
    segments = _walk(rng, centre, thickness)
    for _ in range(int(rng.integers(0, BRANCHES + 1)) if rng.random() < 0.5 else 0):
        start, _, width = segments[int(rng.integers(len(segments)))]
        segments += _walk(rng, start, width * rng.uniform(0.6, 0.9))
    ends = np.array([end for a, b, _ in segments for end in (a, b)])
    place = _box(ends.min(0), ends.max(0), grid_DHW, pitch_DHW, margin=1.5 * thickness)
    if place is None:
        return None
    positions = np.broadcast_arrays(*_positions(rng, place, pitch_DHW, np.zeros(3), thickness, roughness))
    level = np.full(positions[0].shape, 9, np.float32)
    low = np.array([side.start for side in place])
    for a, b, width in segments:
        around = _box(np.minimum(a, b), np.maximum(a, b), grid_DHW, pitch_DHW, margin=1.5 * width)
        if around is None:
            continue
        own = tuple(slice(s.start - first, s.stop - first) for s, first in zip(around, low, strict=True))
        level[own] = np.minimum(level[own], _distance([x[own] for x in positions], a, b) / np.float32(width))
    return Solid(place, level)


def _walk(rng: Generator, start: NDArray, thickness: float) -> list[tuple[NDArray, NDArray, float]]:
    """A curve's segments: both ends, and the radius of the tube there, which tapers."""
    direction = rng.standard_normal(3)
    segments, taper = [], rng.uniform(0.95, 1.0)
    for _ in range(int(rng.integers(*SEGMENTS))):
        direction = direction / np.linalg.norm(direction) + rng.normal(0, 0.25, 3)
        end = start + direction / np.linalg.norm(direction) * thickness * 1.5
        segments.append((start, end, thickness))
        start, thickness = end, thickness * taper
    return segments


def _distance(positions: list[NDArray[np.float32]], a: NDArray, b: NDArray) -> NDArray[np.float32]:
    """From the segment between two points."""
    x = [one - np.float32(c) for one, c in zip(positions, a, strict=True)]
    along = (b - a).astype(np.float32)
    share = np.clip(sum(one * c for one, c in zip(x, along, strict=True)) / (along @ along), 0, 1)
    squares = [(one - share * c) ** 2 for one, c in zip(x, along, strict=True)]
    return np.sqrt(squares[0] + squares[1] + squares[2])
