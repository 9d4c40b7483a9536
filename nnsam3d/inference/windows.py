"""Logits of single windows, averaged over folds and mirrorings; results that do not depend on clicks are cached.

Letters: C image channels, K logit maps, D H W voxels of the preprocessed image, N clicks.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnsam3d.geometry import Triple
from nnsam3d.inference.device import half_precision_of
from nnsam3d.network import SAM3D, Features
from nnsam3d.network.prompts import PromptTensors, with_prompts
from nnsam3d.network.sam3d import LOGIT_LIMIT
from nnsam3d.nnunet.lazy import Volume
from nnsam3d.nnunet.model import TrainedModel, capability, check_logits
from nnsam3d.prompts.voxels import VoxelPrompts

LOGIT_BYTES = 2**30


class Cache:
    """A cache that drops the least recently used values beyond ``limit`` bytes.

    >>> cache = Cache(limit=10)
    >>> cache.get("a", lambda: "12345678", len), cache.get("b", lambda: "1234", len)
    ('12345678', '1234')
    >>> cache.used  # "a" was dropped
    4
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The value of ``key``, created if missing.

        Args:
            key: of the value.
            make: computes it.
            size: of a value in bytes.
        """
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key][0]
        value = make()
        # a single value above the limit is not kept
        if size(value) <= self.limit:
            self._values[key] = (value, size(value))
            self.used += size(value)
        while self.used > self.limit:
            _, (_, freed) = self._values.popitem(last=False)
            self.used -= freed
        return value

    def clear(self) -> None:
        self._values.clear()
        self.used = 0


class Windows:
    """The windows of one preprocessed image.

    Attributes:
        shape: (D, H, W) of the image, padded to at least one window.
        padding, offset: voxels added per axis, and how many of them before the image.
        computed: number of computed windows.
        encoded, decoded: number of runs of the two halves of the network (per fold and mirroring); of a network without
            halves, all runs are counted as decoded.
    """

    def __init__(
        self,
        model: TrainedModel,
        volume: Volume,
        cache_bytes: int = 0,
        on_window: Callable[[int], None] = lambda number: None,
    ) -> None:
        """
        Args:
            model: whose networks are used.
            volume: the preprocessed image, of which each window requests its part.
            cache_bytes: memory for features, on the model's device; logits have 1 GiB in addition.
            on_window: called before each fold and mirroring of a window with the number of windows computed before; may
                raise an error to stop.
        """
        self.model = model
        self.size = model.patch_size
        missing = [max(0, size - length) for size, length in zip(self.size, volume.shape, strict=True)]
        self.padding: Triple = (missing[0], missing[1], missing[2])
        # half before and half behind, like nnU-Net's pad_nd_image, so that windows are identical
        self.offset: Triple = (missing[0] // 2, missing[1] // 2, missing[2] // 2)
        d, h, w = (length + more for length, more in zip(volume.shape, missing, strict=True))
        self.shape: Triple = (d, h, w)
        self._volume = volume
        axes = model.mirror_axes
        self._flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
        self._keeps_features = bool(capability(model.trainer, "keeps_features"))
        self._features = Cache(cache_bytes)
        self._logits = Cache(LOGIT_BYTES)
        # all folds and mirrorings use the same voxels: those of the last window are kept
        self._images = Cache(4 * model.num_channels * int(np.prod(self.size)))
        self.encoded = self.decoded = 0
        self._on_window = on_window
        self.computed = 0

    @property
    def kept_bytes(self) -> int:
        """What features and logits take."""
        return sum(cache.used for cache in (self._features, self._logits, self._images))

    def forget(self) -> None:
        """Drops features and logits."""
        for cache in (self._features, self._logits, self._images):
            cache.clear()

    @torch.inference_mode()
    def logits(self, start: Triple, prompts: VoxelPrompts) -> NDArray[np.float32]:
        """Logits (K, d, h, w) of the window at ``start``.

        Args:
            start: (D, H, W) first voxel in the padded image.
            prompts: all prompts, on the padded image; those inside the window are used.
        """
        local = prompts.cropped(start, self.size)
        result: NDArray[np.float32] = self._logits.get(
            (start, local.key()), lambda: self._mean_logits(start, local), lambda array: array.nbytes
        )
        return result

    def _mean_logits(self, start: Triple, local: VoxelPrompts) -> NDArray[np.float32]:
        total = None
        for fold, flip in itertools.product(range(len(self.model.networks)), self._flips):
            self._on_window(self.computed)
            logits = self._decode(fold, start, flip, local.mirrored(flip, self.size))
            logits = torch.flip(logits, [axis + 1 for axis in flip]) if flip else logits
            total = logits if total is None else total + logits
        assert total is not None
        self.computed += 1
        check_logits(total, self.model.folder)
        return (total / (len(self.model.networks) * len(self._flips))).cpu().numpy()

    def _decode(self, fold: int, start: Triple, flip: tuple[int, ...], local: VoxelPrompts) -> Tensor:
        points_BN3 = torch.from_numpy(local.voxels_N3.astype(np.float32))[None].to(self.model.device)
        labels_BN = torch.from_numpy(local.labels_N)[None].to(self.model.device)
        prompts = PromptTensors(points_BN3, labels_BN, self._dense(start, flip, local))
        if not self._keeps_features:
            return self._answer(fold, start, flip, prompts)
        features = self._features.get((fold, start, flip), lambda: self._encode(fold, start, flip), _bytes_of_features)
        self.decoded += 1
        with half_precision_of(self.model.device):
            logits = self._sam(fold).decode(features, prompts)[0].float()
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)  # like `SAM3D.forward`

    def _dense(self, start: Triple, flip: tuple[int, ...], local: VoxelPrompts) -> Tensor | None:
        """The maps of prompts with an extent, zero in the padding, as nnU-Net pads all channels; None without any."""
        codec = self.model.codec
        if not codec.maps or (not local.shapes and local.mask is None):
            return None
        maps_MDHW = codec.dense(self.size, local)
        for axis, low in enumerate(start):
            before = self.offset[axis] - low
            behind = before + self.shape[axis] - self.padding[axis]  # of the image's last voxel
            sides = [(0, max(0, before)), (behind, self.size[axis])]
            if axis in flip:
                sides = [(self.size[axis] - high, self.size[axis] - low) for low, high in sides]
            for first, last in sides:
                maps_MDHW[(slice(None),) * (axis + 1) + (slice(max(first, 0), max(last, 0)),)] = 0
        return torch.from_numpy(maps_MDHW)[None].to(self.model.device)

    def image(self, start: Triple) -> NDArray[np.float32]:
        """The window's part (C, d, h, w) of the padded image."""
        first = [low - before for low, before in zip(start, self.offset, strict=True)]
        voxels: NDArray[np.float32] = self._images.get(
            start, lambda: np.ascontiguousarray(self._volume.box(first, self.size)), lambda array: array.nbytes
        )
        return voxels

    def _encode(self, fold: int, start: Triple, flip: tuple[int, ...]) -> Features:
        self.encoded += 1
        with half_precision_of(self.model.device):
            return self._sam(fold).encode(self._flipped(start, flip))

    def _answer(self, fold: int, start: Triple, flip: tuple[int, ...], prompts: PromptTensors) -> Tensor:
        """Logits (K, d, h, w) of a network that takes prompts as channels behind the image's."""
        image_BCDHW = self._flipped(start, flip)
        maps = 0 if prompts.dense_BMDHW is None else prompts.dense_BMDHW.shape[1]
        empty_BPDHW = image_BCDHW.new_zeros(1, 1 + maps, *self.size)
        data_BCDHW = with_prompts(torch.cat([image_BCDHW, empty_BPDHW], 1), prompts)
        self.decoded += 1
        with half_precision_of(self.model.device):
            logits: Tensor = self.model.networks[fold](data_BCDHW)[0].float()
        return logits

    def _flipped(self, start: Triple, flip: tuple[int, ...]) -> Tensor:
        image_BCDHW = torch.from_numpy(self.image(start))[None].to(self.model.device)
        return torch.flip(image_BCDHW, [axis + 2 for axis in flip]) if flip else image_BCDHW

    def _sam(self, fold: int) -> SAM3D:
        return self.model.networks[fold]  # type: ignore[return-value]  # the contract of "keeps_features"


def _bytes_of_features(features: Features) -> int:
    return sum(part.numel() * part.element_size() for part in features.tensors())
