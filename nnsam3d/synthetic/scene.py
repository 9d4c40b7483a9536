"""Scenes: many shapes in one volume, one over the other, some with another one inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.synthetic.noise import smooth_noise
from nnsam3d.synthetic.shapes import Solid, draw_shape

OBJECTS = 30  # the largest number of objects in a volume, whose labels are 1 to OBJECTS
INSIDE = {OBJECTS + number: number for number in range(1, OBJECTS + 1)}
"""Label -> label of the object that it lies inside of: the core, cap or nodules of object 3 have label 33."""
FEWEST = 6  # objects in a volume
RADII = (2.2, 0.42)  # of the smallest objects, in finest voxel edges, and of the largest, in the volume's shortest edge
SMALLEST = 20  # voxels
BODY_SHARE = 0.6  # of volumes in which objects lie in a body with other surroundings
INSIDE_SHARE = 0.35  # of objects


class Scene(NamedTuple):
    """
    Attributes:
        labels_DHW: 0 is what belongs to no object; see :data:`INSIDE`.
        body_DHW: False in the surroundings of a body.
    """

    labels_DHW: NDArray[np.uint8]
    body_DHW: NDArray[np.bool_]


def draw_scene(rng: Generator, grid_DHW: Sequence[int], pitch_DHW: Sequence[float]) -> Scene:
    """A scene of at least one object.

    Args:
        pitch_DHW: edges of a voxel in units of the finest one.
    """
    body = _body(rng, grid_DHW, pitch_DHW) if rng.random() < BODY_SHARE else np.ones(grid_DHW, bool)
    labels = np.zeros(grid_DHW, np.uint8)
    count = int(rng.integers(FEWEST, OBJECTS + 1))
    largest = max(RADII[1] * min(n * p for n, p in zip(grid_DHW, pitch_DHW, strict=True)), RADII[0])
    radii = np.exp(rng.uniform(np.log(RADII[0]), np.log(largest), count))
    # mostly large ones first, which would otherwise cover small ones
    radii = radii[np.argsort(-radii * np.exp(rng.normal(0, 0.4, count)))]
    while not labels.any():
        for number, radius in enumerate(radii, start=1):
            shape = draw_shape(rng, grid_DHW, pitch_DHW, radius)
            if shape is None:
                continue
            mask = shape.level_DHW < 1
            if rng.random() < 0.9:
                mask &= body[shape.place]
            if mask.sum() < SMALLEST:
                continue
            labels[shape.place][mask] = number
            if rng.random() < INSIDE_SHARE:
                labels[shape.place][_inside(rng, shape, mask, pitch_DHW, radius)] = OBJECTS + number
        labels = _without_remains(labels)
    return Scene(labels, body)


def _body(rng: Generator, grid_DHW: Sequence[int], pitch_DHW: Sequence[float]) -> NDArray[np.bool_]:
    """Something like an ellipsoid that fills much of the volume and may be cut by its border."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) / np.float32(rng.uniform(0.8, 1.4)) for n in grid_DHW]
    d, h, w = np.meshgrid(*axes, indexing="ij", sparse=True)
    wobble = smooth_noise(rng, grid_DHW, 12 / np.asarray(pitch_DHW))
    return d**2 + h**2 + w**2 + np.float32(rng.uniform(0, 0.15)) * wobble < 1


def _inside(
    rng: Generator, shape: Solid, mask: NDArray[np.bool_], pitch_DHW: Sequence[float], radius: float
) -> NDArray[np.bool_]:
    """Some voxels of an object: a core (which leaves a rim), a cap, or nodules."""
    kind, share = rng.random(), rng.uniform(0.15, 0.7)
    noise = smooth_noise(rng, mask.shape, max(1.5, radius * rng.uniform(0.15, 0.4)) / np.asarray(pitch_DHW))
    if kind < 0.5:
        depth = shape.level_DHW * (1 + np.float32(rng.uniform(0, 0.3)) * noise)
    elif kind < 0.75:
        direction = rng.standard_normal(3) * pitch_DHW
        d, h, w = np.meshgrid(*map(np.arange, mask.shape), indexing="ij", sparse=True)
        depth = (direction[0] * d + direction[1] * h + direction[2] * w).astype(np.float32)
        depth = depth + np.float32(0.3 * radius) * noise
    else:
        depth, share = noise, share / 2
    return mask & (depth < np.quantile(depth[mask], share))


def _without_remains(labels_DHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Without objects of which others left little; what lies inside of one whose rim has gone becomes the object."""
    counts = np.bincount(labels_DHW.reshape(-1), minlength=2 * OBJECTS + 1)
    new = np.arange(2 * OBJECTS + 1, dtype=np.uint8)
    for inner, outer in INSIDE.items():
        if counts[inner] < SMALLEST or counts[outer] < SMALLEST:
            new[inner] = outer
            counts[outer] += counts[inner]
        if counts[outer] < SMALLEST:
            new[inner] = new[outer] = 0
    return new[labels_DHW]
