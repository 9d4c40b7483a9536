"""The prompt channel as balls around the clicks, for networks that take clicks as image channels.

Shape suffixes: B batch, C image channels, L click labels (0 = background), M dense maps, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Triple

BALL_VOXELS = 4  # radius along the finest axis, as common in interactive U-Nets


def ball_radius(spacing_DHW: Sequence[float]) -> Triple:
    """Radius in voxels per axis of a ball that is round in mm: 4 voxels of the finest axis, at least 1."""
    d, h, w = (max(1, int(BALL_VOXELS * min(spacing_DHW) / step + 0.5)) for step in spacing_DHW)
    return d, h, w


class ClickChannels(nn.Module):
    """(B, C + 1 + M, D, H, W) -> (B, C + L + M, D, H, W): the click channel becomes one channel of balls per label.

    A ball is a distance transform: 1 at the click, falling linearly to 0 at one voxel beyond its radius. Balls of one
    label add up to 1 at most. Without clicks the channels are zero. The dense maps stay as they are. No parameters.
    """

    def __init__(self, labels: int, radius: Sequence[int], maps: int = 0, image_channels: int = 1) -> None:
        """
        Args:
            labels: number of labels, background included.
            radius: (D, H, W) voxels.
            maps: number M of dense maps behind the click channel; where they are left out, they are zero.
            image_channels: number C.
        """
        super().__init__()
        self.labels = labels
        self.maps = maps
        self.image_channels = image_channels
        self.radius = tuple(int(r) for r in radius)
        axes = [torch.arange(-r, r + 1) / (r + 1) for r in self.radius]
        distance_DHW = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        self.register_buffer("ball", (1 - distance_DHW).clamp(min=0)[None, None], persistent=False)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        image_BCDHW, prompt_B1DHW = x_BCDHW[:, : self.image_channels], x_BCDHW[:, self.image_channels][:, None]
        maps_BMDHW = x_BCDHW[:, self.image_channels + 1 :]
        if maps_BMDHW.shape[1] == 0:
            maps_BMDHW = x_BCDHW.new_zeros(len(x_BCDHW), self.maps, *x_BCDHW.shape[2:])
        values = torch.arange(1, self.labels + 1, device=x_BCDHW.device).reshape(1, -1, 1, 1, 1)
        clicked_BLDHW = ((prompt_B1DHW - values).abs() < 0.5).to(x_BCDHW.dtype)
        return torch.cat([image_BCDHW, self._balls(clicked_BLDHW), maps_BMDHW], 1)

    def _balls(self, clicked_BLDHW: Tensor) -> Tensor:
        """The sum of balls around the voxels with 1, at most 1."""
        if clicked_BLDHW.device.type == "cpu":  # few clicks: a convolution takes longer than the U-Net behind it
            balls_BLDHW = torch.zeros_like(clicked_BLDHW)
            for b, label, *place in clicked_BLDHW.nonzero().tolist():
                sizes = zip(place, self.radius, clicked_BLDHW.shape[2:], strict=True)
                ends = [(max(0, n - r), min(size, n + r + 1), r - n) for n, r, size in sizes]
                d, h, w = (slice(low, high) for low, high, _ in ends)
                own = tuple(slice(low + shift, high + shift) for low, high, shift in ends)
                balls_BLDHW[b, label, d, h, w] += self.ball[0, 0][own]
            return balls_BLDHW.clamp_(max=1)
        one_by_one = clicked_BLDHW.flatten(0, 1)[:, None]
        balls = F.conv3d(one_by_one, self.ball.to(clicked_BLDHW.dtype), padding=self.radius).clamp(max=1)
        return balls.reshape(clicked_BLDHW.shape).to(clicked_BLDHW.dtype)


class WithClickChannels(nn.Module):
    """Any network on image and ball channels; takes image channels and the prompt channel."""

    def __init__(self, click_channels: ClickChannels, network: nn.Module) -> None:
        super().__init__()
        self.click_channels = click_channels
        self.network = network

    def forward(self, x_BCDHW: Tensor) -> Tensor | list[Tensor]:
        """The output of the network: logits (B, K, D, H, W), or a list of them with deep supervision."""
        return self.network(self.click_channels(x_BCDHW))

    @property
    def decoder(self) -> nn.Module:
        """The part on which nnU-Net switches deep supervision."""
        return self.network.decoder
