"""The one codec between prompts and what travels through nnU-Net as further image channels.

nnU-Net augments, crops, tiles and mirrors image channels; prompts take part in all of that by being channels, which
come after those of the image. Who needs to know how many they are, or to take them apart, asks :data:`ENCODING`.
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
    """Which kinds of prompts are encoded, and how.

    Clicks share one channel: 0 = no click, ``1 + label`` at a click's voxel. A further kind would add channels of its
    own behind it, and its name to ``kinds``.

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
        """P, how many channels come after those of the image."""
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
            PromptError: another number of channels, or values that are no prompts, the sign of an interpolated channel.
        """
        if len(channels_PDHW) != self.num_channels:
            raise PromptError(f"{len(channels_PDHW)} prompt channels; there are {self.num_channels}")
        return VoxelPrompts(*read_channel(channels_PDHW[0]))

    def split(self, data: Any, axis: int = 0) -> tuple[Any, Any]:
        """Image channels and prompt channels of an array or a tensor.

        Args:
            axis: of the channels: 0 in (C + P, D, H, W), 1 in a batch of them.
        """
        before = (slice(None),) * axis
        return data[(*before, slice(None, -self.num_channels))], data[(*before, slice(-self.num_channels, None))]

    def usable(self, prompts: CasePrompts, where: str) -> CasePrompts:
        """Without prompts of kinds that are not encoded.

        Args:
            where: the prompts' file or case, for messages.

        Raises:
            PromptError: nothing else is there.

        Warns:
            PromptWarning: something is left out.
        """
        kept = [prompt for prompt in prompts.prompts if prompt.kind in self.kinds]
        others = [kind for kind in prompts.kinds if kind not in self.kinds]
        if not others:
            return prompts
        told = f"{where}: this model takes prompts of the kind {', '.join(self.kinds)}, not {', '.join(others)}"
        if not kept:
            raise PromptError(f"{told}; click on what you mean instead")
        warnings.warn(f"{told}: {len(prompts.prompts) - len(kept)} left out", PromptWarning, stacklevel=1)
        return replace(prompts, prompts=tuple(kept))


ENCODING = PromptEncoding()
"""That of all trained models so far."""
