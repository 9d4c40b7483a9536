"""The first prompts of a case: drawn around the ground truth, the same for all arms.

Axis letters: D, H, W = array axes z, y, x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.evaluation.names import Protocol
from nnsam3d.prompts.centres import as_voxel, centres_first
from nnsam3d.prompts.components import bounding_box
from nnsam3d.prompts.kinds import KINDS, Box, Click, Shape
from nnsam3d.prompts.kinds.box import points_of_faces
from nnsam3d.prompts.labels import label_values

JITTER = 0.1  # largest error of a box's face, as a share of the box's edge
LEAST = 1.0  # voxels; the same where the edge is short
TRIES = 8  # of drawing a prompt; some draws fail on small targets


@dataclass(frozen=True)
class Truth:
    """The ground truth of a case on its grid.

    Attributes:
        segmentation_DHW: label map.
        spacing: mm along D, H, W.
        labels: foreground values that may be prompted.
        ignore_label: never prompted, never scored.
        regions: for datasets with regions: label -> the values of the label map inside its region.
    """

    case: str
    segmentation_DHW: NDArray
    spacing: tuple[float, float, float]
    labels: tuple[int, ...]
    ignore_label: int | None = None
    regions: Mapping[int, frozenset[int]] | None = None

    def values(self, label: int) -> list[int]:
        """The values of a label map that lie in this label."""
        return label_values(label, self.regions)


def target_of(truth: Truth, label: int) -> NDArray[np.bool_]:
    """(D, H, W) where a label is."""
    return np.isin(truth.segmentation_DHW, truth.values(label))


def first_prompts(protocol: Protocol, truth: Truth, rng: Generator) -> tuple[Shape, ...]:
    """One prompt for every label that occurs, around all of its components, in the order of the labels.

    A target that is too small for its prompt gets a click on its deepest voxel instead.
    """
    found = []
    for label in truth.labels:
        target = target_of(truth, label)
        if target.any():
            found.append(_drawn(protocol, target, rng, truth.spacing)._replace(label=label))
    return tuple(found)


def _drawn(protocol: Protocol, target: NDArray[np.bool_], rng: Generator, spacing: tuple[float, float, float]) -> Shape:
    if protocol.first == "challenge":
        return challenge_box(target)
    if protocol.first == Box.kind:
        return jittered_box(target, rng)
    for _ in range(TRIES):
        shape = KINDS[protocol.first].simulate(target, rng, spacing)
        if shape is not None and len(shape.points_N3):
            return shape
    deepest = as_voxel(next(centres_first(target, rng, spacing)))
    return Shape(Click.kind, 1, np.array([deepest], dtype=np.float64))


def jittered_box(target: NDArray[np.bool_], rng: Generator) -> Shape:
    """A box with label 1 around a target, as a user draws it: faces have a uniform error, but stay in the array."""
    faces = []
    for side, length in zip(bounding_box(target), target.shape, strict=True):
        low, high = side.start - 0.5, side.stop - 0.5
        error = max(LEAST, JITTER * (high - low))
        moved = np.clip(np.array([low, high]) + rng.uniform(-error, error, 2), -0.5, length - 0.5)
        faces.append(moved if moved[1] - moved[0] >= 1 else np.array([low, high]))
    return Shape(Box.kind, 1, points_of_faces(np.array(faces)))


def challenge_box(target: NDArray[np.bool_]) -> Shape:
    """The exact 2D box of a target on its middle slice along D, as high as the target."""
    slices = np.flatnonzero(target.any(axis=(1, 2)))
    area = target[int(slices[len(slices) // 2])]
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    faces = [[one[0] - 0.5, one[-1] + 0.5] for one in (slices, rows, columns)]
    return Shape(Box.kind, 1, points_of_faces(np.array(faces)))
