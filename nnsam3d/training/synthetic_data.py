"""data=synthetic: training patches from volumes that are drawn during the training, so that none is seen twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.synthetic import synthetic_case

LARGER = 1.25  # than a patch, along every axis: objects are also cut by the border of patches
GAIN, OFFSET = 0.4, 0.4  # standard deviations; of the gain's logarithm
CANDIDATES = 50  # voxels per label around which a patch may be cut


class SyntheticCases:
    """As nnU-Net's dataset of preprocessed cases, with a new volume at every request.

    Volumes are drawn with NumPy's global generator, as nnU-Net draws its patches; so a seed makes them repeatable.
    """

    identifiers = ("synthetic",)

    def __init__(self, patch_DHW: Sequence[int], spacing_DHW: Sequence[float]) -> None:
        """
        Args:
            patch_DHW: voxels of a patch before augmentation.
            spacing_DHW: mm of preprocessed images.
        """
        self.shape = tuple(round(n * LARGER) for n in patch_DHW)
        self.spacing = tuple(spacing_DHW)

    def load_case(self, identifier: str) -> tuple[NDArray[Any], NDArray[Any], None, dict[str, Any]]:
        """Image (1, D, H, W), normalised; labels (1, D, H, W); no previous stage; where each label is."""
        rng = np.random.default_rng(np.random.randint(0, 2**31, size=4))  # noqa: NPY002
        case = synthetic_case(rng, self.shape, self.spacing)
        image = (case.image_ZYX - case.image_ZYX.mean()) / max(float(case.image_ZYX.std()), 1e-8)
        # whole images are normalised, and what surrounds a target there has other means and contrasts than all of it
        image = image * np.float32(np.exp(rng.normal(0, GAIN))) + np.float32(rng.normal(0, OFFSET))
        labels = case.labels_ZYX.astype(np.int16)
        flat = rng.permutation(np.flatnonzero(labels))
        values = labels.reshape(-1)[flat]
        locations = {}
        for value in np.unique(values).tolist():
            voxels_N3 = np.stack(np.unravel_index(flat[values == value][:CANDIDATES], labels.shape), axis=1)
            locations[value] = np.pad(voxels_N3, ((0, 0), (1, 0)))  # nnU-Net counts the channel, too
        return image[None], labels[None], None, {"class_locations": locations}
