"""An image on the network's grid, computed box by box, as by nnU-Net's DefaultPreprocessor.

Transposition is a view, cropping a box, normalisation needs a few statistics of the whole image, and resampling is a
matrix along each axis: a box of the result needs a few rows of the matrices and the part of the image with non-zero
weights. Cubic splines depend on the whole image, but weights beyond about twenty voxels are below rounding errors.

If the plans use other functions for resampling or normalisation, nnU-Net preprocesses the whole image.

Letters: C channels, D H W voxels of the preprocessed image, I J K voxels of the cropped one, both in transposed axes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.errors import UserError
from nnsam3d.geometry import Slices, Triple
from nnsam3d.geometry.plausible import checked_spacing
from nnsam3d.nnunet.contract import DefaultPreprocessor
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.normalisation import NORMALISATIONS, Z_SCORE, Normalisation, z_score_within
from nnsam3d.nnunet.resampling import coarse_axis
from nnsam3d.nnunet.size import check_grid, nonzero_box

logger = logging.getLogger(__name__)

RESAMPLING = "resample_data_or_seg_to_shape"
NEGLIGIBLE = 1e-9  # relative weight below which voxels are ignored


class Volume(Protocol):
    """A preprocessed image (C, D, H, W) that provides boxes."""

    @property
    def shape(self) -> Triple:
        """(D, H, W)."""

    @property
    def properties(self) -> dict[str, Any]:
        """The properties after nnU-Net's preprocessing."""

    def box(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
        """(C, *size) starting at voxel ``start``; zero outside the image."""

    def whole(self) -> NDArray[np.float32]:
        """(C, D, H, W)."""


def volume_of(
    model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any], where: str = "the image"
) -> Volume:
    """An image as returned by nnU-Net's reader, on the network's grid; computed lazily if possible.

    Args:
        where: the image, for messages.

    Raises:
        UserError: an implausible spacing, or a size on the network's grid for which there is not enough memory.
    """
    checked_spacing(properties["spacing"], where)
    if can_be_lazy(model):
        return LazyVolume(model, image_CZYX, properties, where)
    _warn_whole()
    return WholeVolume(model, image_CZYX, properties)


@lru_cache(maxsize=1)
def _warn_whole() -> None:
    """Said once."""
    logger.warning(
        "nnsam3d: the model's plans use custom normalisation or resampling: every image is preprocessed as a "
        "whole, which takes a while for large images"
    )


def can_be_lazy(model: TrainedModel) -> bool:
    """Whether this module supports the preprocessing of the plans."""
    manager = model.configuration_manager
    configuration = manager.configuration
    return (
        configuration.get("preprocessor_name", "DefaultPreprocessor") == DefaultPreprocessor.__name__
        and configuration["resampling_fn_data"] == RESAMPLING
        and not configuration["resampling_fn_data_kwargs"].get("is_seg", False)
        and all(scheme in NORMALISATIONS for scheme in manager.normalization_schemes)
    )


class WholeVolume:
    """Preprocessed by nnU-Net as a whole."""

    def __init__(self, model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> None:
        data, self.properties = model.preprocess(image_CZYX, dict(properties))
        self.data_CDHW = data[: model.num_channels]

    @property
    def shape(self) -> Triple:
        d, h, w = self.data_CDHW.shape[1:]
        return d, h, w

    def box(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
        return _padded_box(self.shape, start, size, lambda box: self.data_CDHW[(slice(None), *box)])

    def whole(self) -> NDArray[np.float32]:
        return self.data_CDHW


class LazyVolume:
    """Boxes are computed on request.

    Raises:
        UserError: the image is too thin for the model's spacing, or too large on its grid.
    """

    def __init__(
        self, model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any], where: str = "the image"
    ) -> None:
        self._model = model
        self._image_CZYX, self._raw_properties = image_CZYX, dict(properties)
        forward = model.plans_manager.transpose_forward
        whole = nonzero_box(image_CZYX)  # in memory order
        turned = image_CZYX.transpose([0, *(axis + 1 for axis in forward)])
        spacing = [float(properties["spacing"][axis]) for axis in forward]
        crop = [whole[axis] for axis in forward]
        self._crop_CIJK = turned[(slice(None), *crop)]
        self.properties = {
            **properties,
            "shape_before_cropping": turned.shape[1:],
            "bbox_used_for_cropping": [[side.start, side.stop] for side in crop],
            "shape_after_cropping_and_before_resampling": self._crop_CIJK.shape[1:],
        }
        manager = model.configuration_manager
        target = list(manager.spacing)
        d, h, w = check_grid(target, self._crop_CIJK.shape[1:], spacing, where)
        self.shape: Triple = (d, h, w)
        if 0 in self.shape:
            raise UserError(
                f"the non-zero part of the image has {self._crop_CIJK.shape[1:]} voxels of {spacing} mm: on one axis, "
                f"less than half a voxel of the model ({target} mm). There is nothing to segment"
            )
        how = manager.configuration["resampling_fn_data_kwargs"]
        self._coarse = coarse_axis(how, spacing, target)
        self._order, self._order_coarse = int(how.get("order", 3)), int(how.get("order_z", 0))
        # the other schemes do not use the mask
        self._masked = [
            bool(masked) and scheme == Z_SCORE
            for masked, scheme in zip(manager.use_mask_for_norm, manager.normalization_schemes, strict=True)
        ]
        self._known_bounds: dict[tuple[int, int | None], tuple[float, float]] = {}

    def whole(self) -> NDArray[np.float32]:
        """Computed by nnU-Net."""
        return WholeVolume(self._model, self._image_CZYX, self._raw_properties).data_CDHW

    def box(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
        return _padded_box(self.shape, start, size, self._inside)

    def _inside(self, box: Slices) -> NDArray[np.float32]:
        old = self._crop_CIJK.shape[1:]
        if tuple(old) == self.shape:
            return np.stack([self._normalised(c, box) for c in range(len(self._crop_CIJK))])
        matrices, seen = [], []
        for axis, side in enumerate(box):
            order = self._order_coarse if axis == self._coarse else self._order
            rows = spline_matrix(old[axis], self.shape[axis], order, axis == self._coarse)[side]
            used = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
            seen.append(slice(int(used[0]), int(used[-1]) + 1))
            matrices.append(rows[:, seen[-1]])
        source: Slices = (seen[0], seen[1], seen[2])
        return np.stack([self._resampled(c, source, matrices) for c in range(len(self._crop_CIJK))])

    def _resampled(self, channel: int, source: Slices, matrices: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        part = self._normalised(channel, source).astype(np.float64)
        for axis, matrix in enumerate(matrices):
            if axis != self._coarse:
                part = np.moveaxis(np.tensordot(matrix, part, (1, axis)), 0, axis)
        # nnU-Net clips to the range of what it resamples at a time: the whole image, or one coarse slice
        if self._coarse is None:
            return np.clip(part, *self._bounds(channel)).astype(np.float32)
        numbers = range(source[self._coarse].start, source[self._coarse].stop)
        limits = np.array([self._bounds(channel, number) for number in numbers])
        shape = [-1 if axis == self._coarse else 1 for axis in range(3)]
        part = np.clip(part, limits[:, 0].reshape(shape), limits[:, 1].reshape(shape))
        return np.moveaxis(np.tensordot(matrices[self._coarse], part, (1, self._coarse)), 0, self._coarse).astype(
            np.float32
        )

    # ------------------------------------------------------------------ intensities

    def _normalised(self, channel: int, box: Slices) -> NDArray[np.float32]:
        raw = self._crop_CIJK[(channel, *box)].astype(np.float32)
        values = self._normalisations[channel](raw)
        return np.where(self._mask_IJK[box], values, raw) if self._masked[channel] else values

    @cached_property
    def _mask_IJK(self) -> NDArray[np.bool_]:
        """nnU-Net's foreground mask: non-zero voxels with holes filled."""
        mask: NDArray[np.bool_] = ndimage.binary_fill_holes((self._crop_CIJK != 0).any(axis=0))
        return mask

    @cached_property
    def _normalisations(self) -> list[Normalisation]:
        """Computed once, because they depend on the whole image."""
        schemes = self._model.configuration_manager.normalization_schemes
        known = self._model.plans_manager.foreground_intensity_properties_per_channel
        return [
            z_score_within(self._crop_CIJK[c], self._mask_IJK)
            if self._masked[c]
            else NORMALISATIONS[scheme](self._crop_CIJK[c], known.get(str(c), {}))
            for c, scheme in enumerate(schemes)
        ]

    def _bounds(self, channel: int, number: int | None = None) -> tuple[float, float]:
        """The least and the largest value, once normalised, of a channel or of one of its coarse slices.

        Normalisation is monotone, so extremes remain extremes; outside a mask, all values are zero.
        """
        if (channel, number) not in self._known_bounds:
            place = tuple(slice(None) if number is None or axis != self._coarse else number for axis in range(3))
            raw, normalised = self._crop_CIJK[(channel, *place)], self._normalisations[channel]
            mask = self._mask_IJK[place] if self._masked[channel] else None
            if mask is None or mask.all():
                ends = normalised(np.array([raw.min(), raw.max()], np.float32))
                bounds = float(ends[0]), float(ends[1])
            else:
                inside = normalised(raw[mask].astype(np.float32)) if mask.any() else np.zeros(1, np.float32)
                bounds = min(float(inside.min()), 0.0), max(float(inside.max()), 0.0)
            self._known_bounds[channel, number] = bounds
        return self._known_bounds[channel, number]


# ---------------------------------------------------------------------- geometry


@lru_cache(maxsize=64)
def spline_matrix(old: int, new: int, order: int, coarse: bool) -> NDArray[np.float64]:
    """(new, old): nnU-Net's resampling along one axis.

    Args:
        coarse: across the slices of an anisotropic image, for which nnU-Net uses another function.
    """
    if old == new:
        return np.eye(old)
    if coarse:
        places = (np.arange(new) + 0.5) * (old / new) - 0.5
        rows = [ndimage.map_coordinates(one, places[None], order=order, mode="nearest") for one in np.eye(old)]
        return np.stack(rows, axis=1)
    columns = [ndimage.zoom(one, new / old, order=order, mode="nearest", grid_mode=True) for one in np.eye(old)]
    return np.stack(columns, axis=1)


def _padded_box(
    shape: Triple, start: Sequence[int], size: Sequence[int], inside: Callable[[Slices], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The part of a box inside the image, padded with zeros."""
    low = [max(0, first) for first in start]
    high = [min(length, first + n) for first, n, length in zip(start, size, shape, strict=True)]
    sides = [slice(a, b) for a, b in zip(low, high, strict=True)]
    part = inside((sides[0], sides[1], sides[2]))
    before = [a - first for a, first in zip(low, start, strict=True)]
    after = [first + n - b for b, first, n in zip(high, start, size, strict=True)]
    if not any(before) and not any(after):
        return part
    return np.pad(part, [(0, 0), *zip(before, after, strict=True)])
