"""The prompts of a batch as tensors: the input of the network's components.

Shape suffixes: B batch, N click slots, P prompt channels, D H W voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PromptTensors(NamedTuple):
    """The prompts for the prompt encoder and the mask decoder.

    Attributes:
        points_BN3: click positions in (D, H, W) voxels of the crop, floating point.
        labels_BN: their labels, int64; -1 = padding.
        dense_BMDHW: maps of prompts with an extent (:class:`nnsam3d.prompts.PromptCodec`), or None: there are none.
    """

    points_BN3: Tensor
    labels_BN: Tensor
    dense_BMDHW: Tensor | None = None

    @classmethod
    def of(cls, prompts: PromptTensors | Tensor, labels_BN: Tensor | None = None) -> PromptTensors:
        """The given object, or one made of positions (B, N, 3) and labels (B, N)."""
        if isinstance(prompts, PromptTensors):
            return prompts
        if labels_BN is None:
            raise TypeError("click positions need labels: give both, or one PromptTensors")
        return cls(prompts, labels_BN)

    @classmethod
    def read(cls, channels_BPDHW: Tensor, slots: int | None) -> PromptTensors:
        """From the prompt channels of a batch; see :func:`read_prompt_channel` for ``slots``."""
        dense_BMDHW = channels_BPDHW[:, 1:] if channels_BPDHW.shape[1] > 1 else None
        return cls(*read_prompt_channel(channels_BPDHW[:, 0], slots), dense_BMDHW)

    @property
    def slots(self) -> int:
        """N, clicks and padding."""
        return self.labels_BN.shape[1]

    def empty(self) -> PromptTensors:
        """The same number of slots, all empty, and empty maps."""
        dense_BMDHW = None if self.dense_BMDHW is None else torch.zeros_like(self.dense_BMDHW)
        return PromptTensors(self.points_BN3, torch.full_like(self.labels_BN, -1), dense_BMDHW)

    def with_room(self, slots: int) -> PromptTensors:
        """The same prompts with ``slots`` additional empty slots."""
        labels_BN = F.pad(self.labels_BN, (0, slots), value=-1)
        return self._replace(points_BN3=F.pad(self.points_BN3, (0, 0, 0, slots)), labels_BN=labels_BN)

    def started(self, chosen_B: Tensor, mask_BLDHW: Tensor) -> PromptTensors:
        """A copy in which the chosen items have no prompts except a mask to start from.

        Args:
            mask_BLDHW: for every foreground label 1 inside and -1 outside; the last maps.
        """
        assert self.dense_BMDHW is not None
        other = self.dense_BMDHW.shape[1] - mask_BLDHW.shape[1]
        only_mask_BMDHW = F.pad(mask_BLDHW, (0, 0, 0, 0, 0, 0, other, 0)).to(self.dense_BMDHW.dtype)
        dense_BMDHW = torch.where(chosen_B[:, None, None, None, None], only_mask_BMDHW, self.dense_BMDHW)
        labels_BN = torch.where(chosen_B[:, None], -1, self.labels_BN)
        return self._replace(labels_BN=labels_BN, dense_BMDHW=dense_BMDHW)

    def with_click(self, slot: int, position_B3: Tensor, label_B: Tensor) -> PromptTensors:
        """A copy with a click in a slot of every item.

        Args:
            slot: index of the slot, below N.
            position_B3: (D, H, W) voxels of the crop.
            label_B: labels of the clicks; -1 leaves the slot of that item empty.
        """
        points_BN3, labels_BN = self.points_BN3.clone(), self.labels_BN.clone()
        points_BN3[:, slot] = position_B3
        labels_BN[:, slot] = label_B
        return self._replace(points_BN3=points_BN3, labels_BN=labels_BN)


def read_prompt_channel(prompt_BDHW: Tensor, max_clicks: int | None) -> tuple[Tensor, Tensor]:
    """Clicks from the click channel (0 = no click, 1 + label at a click's voxel), in raster order.

    Returns positions (B, N, 3), (D, H, W) voxels, floating point, and labels (B, N), -1 where there are fewer
    clicks than N. N is `max_clicks`, a static shape (further clicks are ignored), or for None the largest number of
    clicks in an item of the batch.
    """
    batch = prompt_BDHW.shape[0]
    _, height, width = prompt_BDHW.shape[1:]
    values = prompt_BDHW.reshape(batch, -1)
    clicked = values > 0.5
    total = values.shape[1]
    slots = int(clicked.sum(1).max()) if max_clicks is None else max_clicks
    # Voxels rank by how early they are; those without a click rank last, at zero.
    early_first = torch.arange(total, 0, -1, device=values.device, dtype=torch.int32)
    rank, index = (clicked * early_first).topk(min(slots, total), dim=1)
    if slots > total:
        rank, index = F.pad(rank, (0, slots - total)), F.pad(index, (0, slots - total))
    real = rank > 0
    index = torch.where(real, index, 0)
    labels = torch.where(real, values.gather(1, index).round().long() - 1, -1)
    position = torch.stack([index // (height * width), index // width % height, index % width], -1)
    precise = torch.float64 if prompt_BDHW.dtype == torch.float64 else torch.float32
    return position.to(precise), labels


def with_prompts(data_BCDHW: Tensor, prompts: PromptTensors) -> Tensor:
    """The data (image and prompt channels) with these prompts instead of those in its prompt channels."""
    maps = 0 if prompts.dense_BMDHW is None else prompts.dense_BMDHW.shape[1]
    image_BCDHW, channels_BPDHW = data_BCDHW[:, : -1 - maps], data_BCDHW[:, -1 - maps :]
    _, height, width = data_BCDHW.shape[2:]
    d, h, w = prompts.points_BN3.round().long().unbind(-1)
    index_BN = torch.where(prompts.labels_BN >= 0, (d * height + h) * width + w, 0)
    # padding writes nothing: zero, and the largest value of a voxel holds
    value_BN = (prompts.labels_BN + 1).clamp(min=0).to(data_BCDHW.dtype)
    clicks_BV = torch.zeros_like(channels_BPDHW[:, 0]).flatten(1).scatter_reduce(1, index_BN, value_BN, "amax")
    dense = [] if prompts.dense_BMDHW is None else [prompts.dense_BMDHW.to(data_BCDHW.dtype)]
    return torch.cat([image_BCDHW, clicks_BV.view_as(channels_BPDHW[:, :1]), *dense], 1)
