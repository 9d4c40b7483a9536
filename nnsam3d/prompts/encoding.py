"""The codec between prompts and the additional image channels in nnU-Net.

nnU-Net augments, crops, tiles and mirrors channels. Prompts are channels behind those of the image, so they take part
in all of it. :data:`ENCODING` knows their number and separates them from the image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnsam3d.prompts.channel import read_channel, write_channel
from nnsam3d.prompts.types import CasePrompts, PromptError, PromptWarning
from nnsam3d.prompts.voxels import VoxelPrompts


@dataclass(frozen=True)
class PromptEncoding:
    """Which types of prompts are encoded, and how.

    Clicks share one channel: 0 = no click, ``1 + label`` at a click's voxel. Another type would add its own channels
    behind it and its name to ``kinds``.

    >>> channels = ENCODING.write((2, 3, 4), VoxelPrompts.of([((1, 2, 3), 1)]))
    >>> channels.shape
    (1, 2, 3, 4)
    >>> ENCODING.read(channels).clicks()
    [VoxelClick(voxel=(1, 2, 3), label=1)]
    >>> image, prompts = ENCODING.split(np.concatenate([np.zeros((3, 2, 3, 4)), channels]))
    >>> image.shape, prompts.shape
    ((3, 2, 3, 4), (1, 2, 3, 4))
    """

    kinds: tuple[str, ...] = ("click",)

    @property
    def num_channels(self) -> int:
        """The number P of channels behind those of the image."""
        return len(self.kinds)

    def write(self, shape_DHW: Sequence[int], prompts: VoxelPrompts, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Prompts on the voxels of a grid -> (P, D, H, W).

        Raises:
            PromptError: a click outside the grid, or a label too large for ``dtype``.
        """
        return write_channel(shape_DHW, prompts.voxels_N3, prompts.labels_N, dtype)[None]

    def read(self, channels_PDHW: NDArray[Any]) -> VoxelPrompts:
        """The inverse of :meth:`write`, in raster order.

        Raises:
            PromptError: wrong number of channels, or values that are not prompts, as in an interpolated channel.
        """
        if len(channels_PDHW) != self.num_channels:
            raise PromptError(f"{len(channels_PDHW)} prompt channels; expected {self.num_channels}")
        return VoxelPrompts(*read_channel(channels_PDHW[0]))

    def split(self, data: Any, axis: int = 0) -> tuple[Any, Any]:
        """Image channels and prompt channels of an array or a tensor.

        Args:
            axis: of the channels: 0 in (C + P, D, H, W), 1 in a batch of them.
        """
        before = (slice(None),) * axis
        return data[(*before, slice(None, -self.num_channels))], data[(*before, slice(-self.num_channels, None))]

    def usable(self, prompts: CasePrompts, where: str, kinds: Sequence[str] | None = None) -> CasePrompts:
        """The prompts without those of types that the model does not support.

        Args:
            where: file or case of the prompts, for messages.
            kinds: the types that the model supports, as in its plans; by default all that are encoded.

        Raises:
            PromptError: there are no others.

        Warns:
            PromptWarning: prompts were skipped.
        """
        supported = [kind for kind in self.kinds if kinds is None or kind in kinds]
        kept = [prompt for prompt in prompts.prompts if prompt.kind in supported]
        others = [kind for kind in prompts.kinds if kind not in supported]
        if not others:
            return prompts
        types = ", ".join(supported) or "none"
        message = f"{where}: this model supports prompts of type {types}, not {', '.join(others)}"
        if not kept:
            raise PromptError(f"{message}; use clicks instead" if "click" in supported else message)
        warnings.warn(f"{message}: {len(prompts.prompts) - len(kept)} skipped", PromptWarning, stacklevel=1)
        return replace(prompts, prompts=tuple(kept))


ENCODING = PromptEncoding()
"""The encoding of all current models."""
