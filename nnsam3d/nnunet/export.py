"""From logits on the preprocessed grid to a label map and probabilities on the image's own grid.

Letters: K logit maps, D H W voxels of the preprocessed image; raw = the image's axes as returned by nnU-Net's
reader (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices, Triple
from nnsam3d.geometry.boxes import box_between
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.resampling import resampling_of

Part = tuple[Slices, NDArray[Any], NDArray[np.float32] | None]
BACKGROUND_LOGIT = 10.0  # outside of computed windows


@dataclass(frozen=True)
class Region:
    """A computed part of an image.

    Attributes:
        start: (D, H, W) first voxel of the logits in the preprocessed image (without padding).
        logits_KDHW: of the smallest box around all windows; background outside of windows.
        windows: (D, H, W) starts of the windows in the padded image, in order of computation, repetitions
            included.
    """

    start: Triple
    logits_KDHW: NDArray[np.float32]
    windows: tuple[Triple, ...]


def background_logits(model: TrainedModel) -> NDArray[np.float32]:
    """(K,) logits of certain background."""
    logits = np.full(model.label_manager.num_segmentation_heads, -BACKGROUND_LOGIT, np.float32)
    if not model.label_manager.has_regions:
        logits[0] = BACKGROUND_LOGIT
    return logits


def to_labels(model: TrainedModel, logits_KDHW: NDArray[np.float32]) -> NDArray[Any]:
    """Logits (K, ...) -> label map, like nnU-Net, including regions."""
    return np.asarray(model.label_manager.convert_logits_to_segmentation(logits_KDHW))


def is_label(model: TrainedModel, logits_KDHW: NDArray[np.float32], label: int) -> NDArray[np.bool_]:
    """Where logits predict a label; for datasets with regions, where they predict this region."""
    if model.label_manager.has_regions:
        return np.asarray(logits_KDHW[model.label_manager.regions_class_order.index(label)] > 0)
    return to_labels(model, logits_KDHW) == label


class Exporter:
    """Maps results back to the grid of one image: resampling, crop, transposition."""

    def __init__(self, model: TrainedModel, properties: dict[str, Any], shape_DHW: Sequence[int]) -> None:
        """
        Args:
            properties: after nnU-Net's preprocessing.
            shape_DHW: of the preprocessed image.
        """
        self.model = model
        self.properties = properties
        self.shape_DHW = tuple(int(n) for n in shape_DHW)
        forward = model.plans_manager.transpose_forward
        self.backward: list[int] = list(model.plans_manager.transpose_backward)
        spacing = [float(properties["spacing"][axis]) for axis in forward]
        self.resampling = resampling_of(model.configuration_manager, spacing)

    def empty(self) -> NDArray[Any]:
        """An empty label map (raw)."""
        kind = np.uint8 if len(self.model.label_manager.foreground_labels) < 255 else np.uint16
        shape = [int(self.properties["shape_before_cropping"][axis]) for axis in self.backward]
        return np.zeros(shape, kind)

    def parts(self, regions: Sequence[Region], probabilities: bool = False) -> list[Part]:
        """The computed parts: boxes in the raw image, their label maps and, optionally, probabilities (K, ...).

        Only these parts are resampled, like nnU-Net's default: logits linearly, nearest-neighbour across coarse slices.
        Other resampling functions are left to nnU-Net, on the whole image.
        """
        if self.resampling.is_linear or not regions:
            return [self._part(region, probabilities) for region in regions]
        label_map, maps = self.model.export(self._whole(regions), self.properties, probabilities)
        return [(box_between((0, 0, 0), label_map.shape), label_map, maps)]

    def _part(self, region: Region, probabilities: bool) -> Part:
        logits = region.logits_KDHW
        sides = []
        new_shape = self.properties["shape_after_cropping_and_before_resampling"]
        for axis, (old, new) in enumerate(zip(self.shape_DHW, new_shape, strict=True)):
            start, stop = region.start[axis], region.start[axis] + logits.shape[axis + 1]
            # target voxels whose source position is in the computed part, or at the border of the image
            low = 0 if start == 0 else int(np.ceil((start + 0.5) * new / old - 0.5))
            high = new if stop == old else int(np.floor((stop - 0.5) * new / old - 0.5)) + 1
            source = (np.arange(low, high) + 0.5) * old / new - 0.5 - start
            logits = _interpolate(logits, source, axis + 1, nearest=axis == self.resampling.nearest)
            crop = int(self.properties["bbox_used_for_cropping"][axis][0])
            sides.append(slice(crop + low, crop + high))
        logits = logits.transpose([0, *(axis + 1 for axis in self.backward)])
        d, h, w = (sides[axis] for axis in self.backward)
        maps = np.asarray(self.model.label_manager.apply_inference_nonlin(logits)) if probabilities else None
        return (d, h, w), to_labels(self.model, logits), maps

    def probabilities(self, regions: Sequence[Region]) -> NDArray[np.float32]:
        """(K, raw) of the whole image; certain background outside of computed parts."""
        full = np.zeros((self.model.label_manager.num_segmentation_heads, *self.empty().shape), np.float32)
        if not self.model.label_manager.has_regions:
            full[0] = 1
        for box, _, maps in self.parts(regions, probabilities=True):
            full[(slice(None), *box)] = maps
        return full

    def _whole(self, regions: Sequence[Region]) -> NDArray[np.float32]:
        logits = np.empty((len(regions[0].logits_KDHW), *self.shape_DHW), np.float32)
        logits[:] = background_logits(self.model)[:, None, None, None]
        for region in regions:
            place = box_between(region.start, np.add(region.start, region.logits_KDHW.shape[1:]))
            logits[(slice(None), *place)] = region.logits_KDHW
        return logits


def _interpolate(
    array: NDArray[np.float32], source: NDArray[np.float64], axis: int, nearest: bool
) -> NDArray[np.float32]:
    """``array`` at the fractional positions ``source`` along one axis, clamped at the ends."""
    source = np.clip(source, 0, array.shape[axis] - 1)
    if nearest:
        return np.take(array, np.floor(source + 0.5).astype(np.int64), axis)
    if np.array_equal(source, np.arange(array.shape[axis])):
        return array
    low = np.floor(source).astype(np.int64)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [1] * array.ndim
    shape[axis] = -1
    share = (source - low).astype(np.float32).reshape(shape)
    return np.take(array, low, axis) * (1 - share) + np.take(array, high, axis) * share
