"""Where nnU-Net's preprocessing moves the voxels of an image. Positions are (z, y, x), integers at voxel centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.geometry.boxes import Triple
from nnsam3d.geometry.frames import GeometryError, as_points


@dataclass(frozen=True)
class Steps:
    """What nnU-Net's ``DefaultPreprocessor.run_case_npy`` does to the voxel grid: transpose -> crop -> resample.

    Resampling keeps the outer faces of the volume in place: (v + 0.5) * new / old - 0.5. The factor is the ratio of the
    shapes, not of the spacings: nnU-Net rounds the new shape, and skimage's ``resize`` as well as nnU-Net's separate-z
    path stretch the volume to that rounded shape. Nothing is rounded or clipped here.

    Attributes:
        transpose_forward: new axis a is old axis ``transpose_forward[a]``.
        start: first voxel of the crop, in transposed axes like the shapes.
        old_shape, new_shape: of the cropped array, and of the resampled one.

    Raises:
        GeometryError: not a permutation of 0, 1, 2, or a shape that is not three whole numbers >= 1.

    >>> steps = Steps((2, 0, 1), (10, 0, 5), (10, 10, 10), (20, 10, 5))
    >>> steps.apply([[1, 5, 10]]).tolist()
    [[0.5, 1.0, -0.25]]
    >>> steps.invert([[0.5, 1, -0.25]]).tolist()
    [[1.0, 5.0, 10.0]]
    """

    transpose_forward: Triple
    start: Triple
    old_shape: Triple
    new_shape: Triple

    def __post_init__(self) -> None:
        order = tuple(int(axis) for axis in self.transpose_forward)
        if sorted(order) != [0, 1, 2]:
            raise GeometryError(f"transpose_forward must permute 0, 1, 2, got {self.transpose_forward}")
        object.__setattr__(self, "transpose_forward", order)
        for name in ("old_shape", "new_shape"):
            shape = tuple(int(size) for size in getattr(self, name))
            if len(shape) != 3 or min(shape) < 1:
                raise GeometryError(f"{name} must be three whole numbers >= 1, got {getattr(self, name)}")
            object.__setattr__(self, name, shape)

    def apply(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        """Positions (N, 3) on the array as read -> on the preprocessed one."""
        cropped_N3 = as_points(points_N3)[:, list(self.transpose_forward)] - self.start
        return (cropped_N3 + 0.5) * np.divide(self.new_shape, self.old_shape) - 0.5

    def invert(self, points_N3: ArrayLike) -> NDArray[np.float64]:
        """The inverse of :meth:`apply`."""
        cropped_N3 = (as_points(points_N3) + 0.5) * np.divide(self.old_shape, self.new_shape) - 0.5
        return (cropped_N3 + self.start)[:, np.argsort(self.transpose_forward)]


def preprocessing_steps(
    properties: Mapping[str, Any], plans_transpose_forward: Sequence[int], new_shape: Sequence[int]
) -> Steps:
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
    start = tuple(low for low, _ in bbox)
    return Steps(tuple(plans_transpose_forward), start, old_shape, tuple(new_shape))  # type: ignore[arg-type]
