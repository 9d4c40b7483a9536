"""How nnU-Net resamples logits to the image's grid, and weights overlapping windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnsam3d.nnunet.contract import ANISO_THRESHOLD, compute_gaussian, determine_do_sep_z_and_axis


@dataclass(frozen=True)
class Resampling:
    """Resampling of logits, for one image.

    Attributes:
        nearest: the axis (of the preprocessed image) with nearest-neighbour resampling across coarse slices; None if
            all axes are treated alike.
        is_linear: linear along the other axes, so that parts can be resampled separately. Other functions are left
            to nnU-Net, for the whole image.
    """

    nearest: int | None
    is_linear: bool


def resampling_of(configuration_manager: Any, spacing_DHW: Sequence[float]) -> Resampling:
    """The resampling defined by the plans for an image.

    Args:
        configuration_manager: nnU-Net's.
        spacing_DHW: mm, of the image, in the axes of the preprocessed one.
    """
    configuration = configuration_manager.configuration
    target = [float(value) for value in configuration_manager.spacing]
    how = {"order": 3, "order_z": 0} | configuration["resampling_fn_probabilities_kwargs"]
    coarse = coarse_axis(how, target, spacing_DHW)
    default = configuration["resampling_fn_probabilities"] == "resample_data_or_seg_to_shape"
    linear = default and how["order"] == 1 and (how["order_z"] == 0 or coarse is None)
    return Resampling(coarse, linear)


def coarse_axis(how: Mapping[str, Any], now: Sequence[float], then: Sequence[float]) -> int | None:
    """The axis across whose slices nnU-Net resamples in another way; None: all axes are treated alike.

    Args:
        how: arguments of nnU-Net's resampling, in the plans.
        now, then: mm, before and after.
    """
    threshold = how.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD)
    separate, axis = determine_do_sep_z_and_axis(how.get("force_separate_z", False), now, then, threshold)
    return int(axis) if separate else None  # type: ignore[arg-type]


def window_weights(size_DHW: Sequence[int]) -> NDArray[np.float32]:
    """(D, H, W) weights of overlapping windows: nnU-Net's Gaussian."""
    cpu = torch.device("cpu")
    weights = compute_gaussian(tuple(size_DHW), sigma_scale=1 / 8, value_scaling_factor=10, device=cpu)
    result: NDArray[np.float32] = weights.float().numpy()
    return result
