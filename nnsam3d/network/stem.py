"""Stem: image crop to tokens (docs/network.md#stem; the paper's patch embedding plus depth convolution).

Officially, the crop is enlarged until SAM's 16 x 16 patch embedding gives the desired token grid, the channel is
copied to three, every fine slice is embedded, and a depth-wise convolution joins 16 fine slices. All of this is linear,
so it is computed here, exactly, as ONE small 3-D convolution on the original voxels. The parameters keep the official
shapes.

Shape suffixes: B batch, C image channels, R SAM's three colour channels, E embedding, D H W voxels,
h w d token grid, M N T fine samples (16) along H, W, D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SAM_PATCH, SAM3DConfig, hwd


def resampling_matrix(stride: int) -> tuple[Tensor, int]:
    """Linear resampling of one token's voxels to SAM's 16 fine samples, along one axis.

    Returns U (16, taps), whose entries are multiples of 1/32 and so exact in every precision, and by how many
    voxels the taps start before the token's first voxel.
    The weights are those of interpolation with align_corners=False by 16 / stride; its clamping at the faces
    equals replicate padding of the voxels.
    """
    positions = [(i + 0.5) * stride / SAM_PATCH - 0.5 for i in range(SAM_PATCH)]
    before = -min(math.floor(p) for p in positions)
    taps = max(math.ceil(p) for p in positions) + before + 1
    matrix = torch.zeros(SAM_PATCH, taps)
    for row, position in enumerate(positions):
        low = math.floor(position)
        fraction = position - low
        matrix[row, low + before] += 1 - fraction
        if fraction:
            matrix[row, low + before + 1] += fraction
    return matrix, before


def resampled_positions(pos_1hwE: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """A table of positions (1, h, w, E) with another number of rows and columns."""
    pos_1Ehw = pos_1hwE.permute(0, 3, 1, 2)
    pooled = (min(size_HW[0], pos_1Ehw.shape[2]), min(size_HW[1], pos_1Ehw.shape[3]))
    if pooled != tuple(pos_1Ehw.shape[2:]):  # SAM's 64 x 64 to 32 x 32: 2 x 2 averages, as officially
        pos_1Ehw = F.adaptive_avg_pool2d(pos_1Ehw, pooled)
    if pooled != size_HW:
        pos_1Ehw = F.interpolate(pos_1Ehw, size=size_HW, mode="bilinear")
    return pos_1Ehw.permute(0, 2, 3, 1)


class Stem(nn.Module):
    """Image (B, C, D, H, W), sizes multiples of the stride, to tokens (B, h, w, d, E) with positions."""

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__()
        width, channels = config.embed_dim, config.num_image_channels
        self.token_stride = config.token_stride
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, SAM_PATCH, stride=SAM_PATCH)})  # SAM's
        self.slice_embed = nn.Conv3d(width, width, (1, 1, SAM_PATCH), stride=(1, 1, SAM_PATCH), groups=width)
        self.pos_embed = nn.Parameter(torch.empty(1, *config.pos_embed_size, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.depth_embed = nn.Parameter(torch.ones(1, config.token_grid[0], width))
        if channels == 1:  # the paper: the one channel is copied to red, green and blue
            self.register_buffer("channel_map", torch.ones(3, 1), persistent=False)
        else:
            self.channel_map = nn.Parameter(torch.full((3, channels), 1 / channels))
        folds = [resampling_matrix(stride) for stride in config.token_stride]
        self.taps_before = tuple(before for _, before in folds)
        for axis, (matrix, _) in zip("dhw", folds, strict=True):
            self.register_buffer(f"resample_{axis}", matrix, persistent=False)

    def folded_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel (E, C, taps_D, taps_H, taps_W) and bias (E); differentiable."""
        patch_ERMN, slice_ET = self.patch_embed.proj.weight, self.slice_embed.weight[:, 0, 0, 0]
        # Composed at parameter precision even under autocast: rounding here would be an error of the weights.
        with torch.autocast(patch_ERMN.device.type, enabled=False):
            u_Td, u_Mh, u_Nw = (getattr(self, f"resample_{axis}").to(patch_ERMN.dtype) for axis in "dhw")
            plane_ECMN = torch.einsum("ermn,rc->ecmn", patch_ERMN, self.channel_map)
            plane_EChw = u_Mh.T @ plane_ECMN @ u_Nw
            depth_Ed = slice_ET @ u_Td
            kernel = depth_Ed[:, None, :, None, None] * plane_EChw[:, :, None]
            bias = self.patch_embed.proj.bias * slice_ET.sum(1) + self.slice_embed.bias  # type: ignore[operator]
        return kernel, bias

    def positions(self, grid_HWD: Sequence[int]) -> Tensor:
        """Position plus depth embedding on a token grid, (1, h, w, d, E)."""
        h, w, d = grid_HWD
        pos_1hwE = resampled_positions(self.pos_embed, (h, w))
        depth_1dE: Tensor = self.depth_embed
        if depth_1dE.shape[1] != d:
            depth_1dE = F.interpolate(depth_1dE.mT, size=d, mode="linear").mT
        return pos_1hwE[:, :, :, None] + depth_1dE[:, None, None]

    def stem(self, image_BCDHW: Tensor) -> Tensor:
        """Tokens (B, h, w, d, E) of the image (B, C, D, H, W)."""
        kernel, bias = self.folded_kernel()
        padding: list[int] = []
        for size, stride, taps, before in zip(
            image_BCDHW.shape[2:], self.token_stride, kernel.shape[2:], self.taps_before, strict=True
        ):
            after = (size // stride - 1) * stride + taps - before - size
            padding = [before, after, *padding]  # F.pad counts from the last axis
        padded = F.pad(image_BCDHW, padding, mode="replicate") if any(padding) else image_BCDHW
        tokens_BEdhw = F.conv3d(padded, kernel, bias, stride=self.token_stride)
        grid = hwd(tokens_BEdhw.shape[2:])
        return tokens_BEdhw.permute(0, 3, 4, 2, 1) + self.positions(grid)
