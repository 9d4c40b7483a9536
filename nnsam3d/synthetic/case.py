"""One synthetic volume, drawn from a generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.synthetic.appearance import draw_image
from nnsam3d.synthetic.scene import draw_scene

FINEST = (0.7, 1.4)  # mm, range of the finest voxel edge
THICKEST = 5.0  # the largest ratio of a slice's thickness to the finest edge
SMALLEST = 8  # voxels along an axis, below which no scene can be drawn


class SyntheticCase(NamedTuple):
    """
    Attributes:
        image_ZYX: float32.
        labels_ZYX: uint8; 0 is background, 1 to 30 are objects, and 30 + n is what lies inside object n
            (:data:`nnsam3d.synthetic.INSIDE`).
        spacing_ZYX: mm.
    """

    image_ZYX: NDArray[np.float32]
    labels_ZYX: NDArray[np.uint8]
    spacing_ZYX: tuple[float, float, float]


def synthetic_case(
    rng: Generator, shape_ZYX: Sequence[int], spacing_ZYX: Sequence[float] | None = None
) -> SyntheticCase:
    """A random volume with random objects, determined by the state of the generator.

    Args:
        shape_ZYX: voxels.
        spacing_ZYX: mm. Objects are as large as multiples of its finest edge. None: drawn (:func:`draw_spacing`).

    Raises:
        ValueError: fewer than 8 voxels along an axis, or a spacing that is not positive.

    >>> case = synthetic_case(np.random.default_rng(0), (24, 32, 32), (2, 1, 1))
    >>> case.image_ZYX.shape, case.labels_ZYX.shape, case.spacing_ZYX
    ((24, 32, 32), (24, 32, 32), (2.0, 1.0, 1.0))
    """
    shape = tuple(int(n) for n in shape_ZYX)
    if len(shape) != 3 or min(shape) < SMALLEST:
        raise ValueError(f"a synthetic volume needs {SMALLEST} voxels or more along each of 3 axes, got {shape}")
    spacing = np.array(draw_spacing(rng) if spacing_ZYX is None else spacing_ZYX, float)
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise ValueError(f"spacing must be three positive lengths in mm, got {spacing_ZYX}")
    pitch = spacing / spacing.min()
    scene = draw_scene(rng, shape, pitch)
    image = draw_image(rng, scene, pitch).astype(np.float32, copy=False)
    z, y, x = (float(length) for length in spacing)
    return SyntheticCase(image, scene.labels_DHW, (z, y, x))


def draw_spacing(rng: Generator) -> tuple[float, float, float]:
    """Spacing (z, y, x) in mm: nearly isotropic in half of the cases, otherwise with slices up to 5 times as thick."""
    finest = float(np.exp(rng.uniform(*np.log(FINEST))))
    thick = rng.uniform(1, 1.3) if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(1.3), np.log(THICKEST))))
    spacing = [finest * thick, finest, finest]
    if rng.random() < 0.1:  # slices are not always axial
        spacing = spacing[1:] + spacing[:1]
    z, y, x = (round(length, 3) for length in spacing)
    return z, y, x
