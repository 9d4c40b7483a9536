"""Small invertible steps on ARRAY positions (zyx voxel coordinates, integers at voxel centres).

A chain of them reproduces what nnU-Net's ``DefaultPreprocessor.run_case_npy`` does to the voxel grid:
transpose -> crop -> (normalise) -> resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.geometry.frames import GeometryError, as_points


class Step(Protocol):
    """Maps positions (N, 3) forward with ``apply`` and back with ``invert``; without rounding or clipping."""

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]: ...

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Transpose:
    """``array.transpose(transpose_forward)``: new axis a is old axis ``transpose_forward[a]``.

    Raises:
        GeometryError: not a permutation of 0, 1, 2.

    >>> Transpose((2, 0, 1)).apply([[1, 2, 3]]).tolist()
    [[3.0, 1.0, 2.0]]
    """

    transpose_forward: tuple[int, int, int]

    def __post_init__(self) -> None:
        order = tuple(int(a) for a in self.transpose_forward)
        if sorted(order) != [0, 1, 2]:
            raise GeometryError(f"transpose_forward must permute 0, 1, 2, got {self.transpose_forward}")
        object.__setattr__(self, "transpose_forward", order)

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return as_points(points_N3)[:, list(self.transpose_forward)]

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return as_points(points_N3)[:, np.argsort(self.transpose_forward)]


@dataclass(frozen=True)
class Crop:
    """``array[start[0]:, start[1]:, start[2]:]``: subtracts ``start`` (voxels).

    >>> Crop((10, 0, 5)).apply([[12, 3, 5]]).tolist()
    [[2.0, 3.0, 0.0]]
    """

    start: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.start) != 3 or not np.isfinite(np.asarray(self.start, dtype=float)).all():
            raise GeometryError(f"crop start must be three finite numbers, got {self.start}")

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return as_points(points_N3) - np.asarray(self.start)

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return as_points(points_N3) + np.asarray(self.start)


@dataclass(frozen=True)
class Resample:
    """Resizing that keeps the outer faces of the volume in place: (v + 0.5) * new / old - 0.5.

    The factor is the ratio of the shapes, not of the spacings: nnU-Net rounds the new shape, and skimage's
    ``resize`` as well as nnU-Net's separate-z path stretch the volume to that rounded shape.

    Raises:
        GeometryError: a shape is not three whole numbers >= 1.

    >>> step = Resample((10, 10, 10), (20, 10, 5))
    >>> step.apply([[0, 0, 0]]).tolist()
    [[0.5, 0.0, -0.25]]
    >>> step.invert([[0.5, 0, -0.25]]).tolist()
    [[0.0, 0.0, 0.0]]
    """

    old_shape: tuple[int, int, int]
    new_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in ("old_shape", "new_shape"):
            shape = tuple(int(s) for s in getattr(self, name))
            if len(shape) != 3 or min(shape) < 1:
                raise GeometryError(f"{name} must be three whole numbers >= 1, got {getattr(self, name)}")
            object.__setattr__(self, name, shape)

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return (as_points(points_N3) + 0.5) * np.divide(self.new_shape, self.old_shape) - 0.5

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        return (as_points(points_N3) + 0.5) * np.divide(self.old_shape, self.new_shape) - 0.5


@dataclass(frozen=True)
class Chain:
    """Steps in the order in which they are applied; ``invert`` runs them backwards.

    >>> chain = Chain((Transpose((2, 1, 0)), Crop((1, 0, 0))))
    >>> chain.apply([[7, 8, 9]]).tolist()
    [[8.0, 8.0, 7.0]]
    >>> chain.invert([[8, 8, 7]]).tolist()
    [[7.0, 8.0, 9.0]]
    """

    steps: tuple[Step, ...]

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        points = as_points(points_N3)
        for step in self.steps:
            points = step.apply(points)
        return points

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        points = as_points(points_N3)
        for step in reversed(self.steps):
            points = step.invert(points)
        return points


def preprocessing_steps(
    properties: Mapping[str, Any], plans_transpose_forward: Sequence[int], new_shape: Sequence[int]
) -> Chain:
    """The steps of nnU-Net's DefaultPreprocessor for one case: array zyx as read -> voxel of its output.

    Args:
        properties: as modified by ``run_case_npy``; must contain 'bbox_used_for_cropping' and
            'shape_after_cropping_and_before_resampling', both in transposed axes.
        plans_transpose_forward: ``plans_manager.transpose_forward``.
        new_shape: ``data.shape[1:]`` of the preprocessed array.

    Raises:
        GeometryError: the properties lack a key (the case was not preprocessed yet), or shapes disagree.

    >>> properties = {
    ...     "bbox_used_for_cropping": [[2, 12], [0, 20], [0, 20]],
    ...     "shape_after_cropping_and_before_resampling": (10, 20, 20),
    ... }
    >>> steps = preprocessing_steps(properties, (0, 1, 2), new_shape=(20, 20, 20))
    >>> steps.apply([[2, 4, 4]]).tolist()
    [[0.5, 4.0, 4.0]]
    """
    needed = ("bbox_used_for_cropping", "shape_after_cropping_and_before_resampling")
    missing = [key for key in needed if key not in properties]
    if missing:
        raise GeometryError(f"the properties do not contain {', '.join(missing)}: the case has not been preprocessed")
    bbox = [(int(low), int(high)) for low, high in properties[needed[0]]]
    old_shape = tuple(int(s) for s in properties[needed[1]])
    if tuple(high - low for low, high in bbox) != old_shape:
        raise GeometryError(f"crop box {bbox} does not have the cropped shape {old_shape}")
    return Chain(
        (
            Transpose(tuple(plans_transpose_forward)),  # type: ignore[arg-type]
            Crop(tuple(float(low) for low, _ in bbox)),  # type: ignore[arg-type]
            Resample(old_shape, tuple(new_shape)),  # type: ignore[arg-type]
        )
    )
