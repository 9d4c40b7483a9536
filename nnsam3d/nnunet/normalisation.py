"""nnU-Net's normalisations as a few statistics of the whole image that can be applied to any part of it.

Letters: I J K voxels of the cropped image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError

EPS = 1e-8  # as in nnU-Net, to avoid division by zero
Z_SCORE = "ZScoreNormalization"


@dataclass(frozen=True)
class Normalisation:
    """(clip(x, low, high) - offset) / scale, in float32, like nnU-Net."""

    offset: float = 0.0
    scale: float = 1.0
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.low > -np.inf or self.high < np.inf:
            values = np.clip(values, self.low, self.high)
        if self.offset == 0 and self.scale == 1:
            return values
        result: NDArray[np.float32] = (values - np.float32(self.offset)) / np.float32(self.scale)
        return result


def _z_score(raw_IJK: NDArray[Any], _: dict[str, Any]) -> Normalisation:
    """Slice by slice, without a copy of the image."""
    return _of_parts(raw_IJK.transpose(np.argsort([-abs(step) for step in raw_IJK.strides], kind="stable")))


def z_score_within(raw_IJK: NDArray[Any], mask_IJK: NDArray[np.bool_]) -> Normalisation:
    """The same for the voxels in a mask; the identity if it is empty."""
    return _of_parts([part[inside].astype(np.float64) for part, inside in zip(raw_IJK, mask_IJK, strict=True)])


def _of_parts(parts: Sequence[NDArray[Any]] | NDArray[Any]) -> Normalisation:
    """By the mean and the standard deviation of all values."""
    count = sum(part.size for part in parts)
    if not count:
        return Normalisation()
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
    variance = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in parts) / count
    return Normalisation(mean, max(float(np.sqrt(variance)), EPS))


def _ct(_: NDArray[Any], known: dict[str, Any]) -> Normalisation:
    low, high = float(known["percentile_00_5"]), float(known["percentile_99_5"])
    return Normalisation(float(known["mean"]), max(float(known["std"]), EPS), low, high)


def _unit_range(raw_IJK: NDArray[Any], _: dict[str, Any]) -> Normalisation:
    low, high = float(raw_IJK.min()), float(raw_IJK.max())
    return Normalisation(low, max(float(np.float32(high) - np.float32(low)), EPS))


def _rgb(raw_IJK: NDArray[Any], _: dict[str, Any]) -> Normalisation:
    if raw_IJK.min() < 0 or raw_IJK.max() > 255:
        raise UserError("the plans expect RGB values from 0 to 255; this image has others")
    return Normalisation(0.0, 255.0)


NORMALISATIONS: dict[str, Callable[[NDArray[Any], dict[str, Any]], Normalisation]] = {
    Z_SCORE: _z_score,
    "CTNormalization": _ct,
    "NoNormalization": lambda raw, known: Normalisation(),
    "RescaleTo01Normalization": _unit_range,
    "RGBTo01Normalization": _rgb,
}
"""nnU-Net's normalisations by name, from a channel of the cropped image and its properties in the plans."""
