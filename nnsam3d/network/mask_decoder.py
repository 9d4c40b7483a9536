"""Mask decoder: four feature levels and the image to logits (docs/network.md#mask-decoder).

The fusion convolution acts on upsampled maps. Convolution and upsampling commute once the channels are mixed,
so the channels are mixed on the coarse grid, eight times smaller, and each tap's result is then upsampled and
shifted by a small fixed matrix: the same function at a sixth of the arithmetic. Because the sum falls into
levels, everything that does not depend on the clicks can be kept between clicks.

Outside paper mode, clicks are also marked here, at high resolution, one convolution before the logits, so that the
information about a clicked voxel does not have to pass through the coarse grid.

Prompts with an extent are maps beside the clicks, and also act directly on the logits: on the fine grid or, so that
the faces of a box lie where they were drawn, at the voxels.

Shape suffixes: B batch, C level channels, O decoder channels, I image channels, K logit maps, M maps, H W D token
grid, X Y Z fine grid (between tokens and voxels) of the same axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FINE_SIGMAS, VOXEL_SIGMAS, SAM3DConfig, Triple, hwd
from .prompts import PromptTensors


def shifted_upsampling(n_in: int, n_out: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(3, n_out, n_in): upsampling with align_corners=True, read one sample before, at and after each place.

    Rows that would read outside are zero: the zero padding of the convolution that follows.

    Args:
        n_in, n_out: number of samples along the axis, before and after.
        device, dtype: of the result.
    """
    exact = torch.float32 if device.type == "mps" else torch.float64  # which has nothing more exact
    place = torch.arange(n_out, device=device, dtype=exact) * ((n_in - 1) / max(n_out - 1, 1))
    corner = torch.arange(n_in, device=device, dtype=exact)
    up = (1 - (place[:, None] - corner).abs()).clamp(min=0)
    up = F.pad(up, (0, 0, 1, 1)).to(dtype)
    return torch.stack([up[tap : tap + n_out] for tap in range(3)])


def conv3d_of_upsampled(x_BCHWD: Tensor, weight_OC333: Tensor, size_XYZ: Sequence[int]) -> Tensor:
    """conv3d(upsample(x, size, align_corners=True), weight, padding=1), never building the upsampled x.

    Args:
        x_BCHWD: a map on the token grid.
        weight_OC333: of the convolution.
        size_XYZ: of the fine grid, and of the result (B, O, X, Y, Z).
    """
    batch, _, h, w, d = x_BCHWD.shape
    out = weight_OC333.shape[0]
    up_h, up_w, up_d = (
        shifted_upsampling(n_in, n_out, x_BCHWD.device, x_BCHWD.dtype)
        for n_in, n_out in zip((h, w, d), size_XYZ, strict=True)
    )
    # Channels before the batch (V = B * H * W * D), so that the taps' shares come out contiguous.
    flat_CV = x_BCHWD.transpose(0, 1).flatten(1)
    along_h = []
    for tap_h in range(3):
        mix = weight_OC333[:, :, tap_h].permute(3, 2, 0, 1).flatten(0, 2)  # (tap d, tap w, O) x C
        mixed = (mix @ flat_CV).view(3, 3, out * batch, h, w, d)
        # unbind, not indices: the gradients of three slices are put together once instead of summed as wholes
        along_d = _add3([part @ up.T for part, up in zip(mixed.unbind(), up_d, strict=True)])  # (tap w, O * B, H, W, Z)
        along_w = _add3([up @ part for part, up in zip(along_d.unbind(), up_w, strict=True)])  # (O * B, H, Y, Z)
        along_h.append(up_h[tap_h] @ along_w.flatten(2))  # (O * B, X, Y * Z)
    return _add3(along_h).view(out, batch, *size_XYZ).transpose(0, 1)


def _add3(parts: list[Tensor]) -> Tensor:
    first, second, third = parts
    return first + second + third


def make_head(in_channels: int, channels: int, affine: bool = False) -> nn.Sequential:
    """Two convolutions, each with instance norm and ReLU.

    Args:
        in_channels, channels: of the input, and of both results.
        affine: whether the norms have trained scales and shifts.
    """
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 3, padding=1, bias=False),
        nn.InstanceNorm3d(channels, affine=affine),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels, channels, 3, padding=1, bias=False),
        nn.InstanceNorm3d(channels, affine=affine),
        nn.ReLU(inplace=True),
    )


@torch.no_grad()
def fine_click_maps(
    clicks_BN3: Tensor,
    labels_BN: Tensor,
    size_HWD: Sequence[int],
    fine_XYZ: Sequence[int],
    token_HWD: Sequence[float],
    num_labels: int,
    sigmas: Sequence[float],
) -> Tensor:
    """Where clicks are on the fine grid: (B, L * sigmas, X, Y, Z), per label the highest of exp(-d²/2s²).

    Args:
        clicks_BN3: voxel positions, the axes in the order (H, W, D) as everything here.
        labels_BN: labels of the clicks, 0 to L - 1; -1 = padding.
        size_HWD: voxels of the crop, padded to whole tokens; logits are upsampled to it with aligned corners.
        fine_XYZ: size of the fine grid, which spans the crop from its first to its last voxel.
        token_HWD: voxels that count as the length of a token, per axis; the distance d is in tokens.
        num_labels: number L of click labels.
        sigmas: widths in tokens.
    """
    batch, clicks = labels_BN.shape
    if clicks == 0:
        return clicks_BN3.new_zeros(batch, num_labels * len(sigmas), *fine_XYZ)
    squares = []  # a bump is the product of three, one along each axis
    for axis in range(3):
        cell = (size_HWD[axis] - 1) / max(fine_XYZ[axis] - 1, 1)  # voxels between two places of the fine grid
        place = torch.arange(fine_XYZ[axis], device=clicks_BN3.device, dtype=clicks_BN3.dtype) * cell
        shape = [batch, clicks, 1, 1, 1]
        shape[2 + axis] = fine_XYZ[axis]
        distance = (place - clicks_BN3[:, :, axis, None]) / token_HWD[axis]
        squares.append(distance.square().view(shape))
    slot_BN = torch.where(labels_BN < 0, num_labels, labels_BN).long()  # padding goes to a slot that is dropped
    items = torch.arange(batch, device=slot_BN.device)
    maps = []
    for sigma in sigmas:
        x, y, z = (torch.exp(square / (-2 * sigma**2)) for square in squares)
        of_labels = clicks_BN3.new_zeros(batch, num_labels + 1, *fine_XYZ)
        for click, slot_B in enumerate(slot_BN.unbind(1)):  # one by one: all bumps at once would be many volumes
            bump_BXYZ = x[:, click] * (y[:, click] * z[:, click])
            of_labels[items, slot_B] = torch.maximum(of_labels[items, slot_B], bump_BXYZ)
        maps.append(of_labels[:, :num_labels])
    return torch.cat(maps, 1)


def resized(x_BCHWD: Tensor, size_HWD: Sequence[int]) -> Tensor:
    """Trilinear interpolation with align_corners=True; three matrix products are several times as fast on a CPU."""
    h, w, d = (
        shifted_upsampling(n_in, n_out, x_BCHWD.device, x_BCHWD.dtype)[1]
        for n_in, n_out in zip(x_BCHWD.shape[2:], size_HWD, strict=True)
    )
    along_w = w @ (x_BCHWD @ d.T)
    return (h @ along_w.flatten(3)).unflatten(3, along_w.shape[3:])


class MaskDecoder(nn.Module):
    """Levels (B, C, H, W, D), the last one prompted, and image (B, I, D, H, W) to logits (B, K, D, H, W).

    In two parts: :meth:`fuse_unprompted` once per image, :meth:`finish` for every set of prompts.
    """

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        self.channels = channels
        self.token_stride = hwd(config.token_stride)
        # one head per level; the official names count from 2
        self.mlahead = nn.ModuleDict({f"head{level}": make_head(config.neck_dim, channels) for level in range(2, 6)})
        self.cls = nn.Sequential(
            nn.Conv3d(4 * channels + config.num_image_channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, config.num_classes, 3, padding=1, bias=False),
        )
        self.sigmas = () if config.paper else FINE_SIGMAS[: config.fine_click_maps]
        self.click_map: nn.Conv3d | None = None
        if self.sigmas:  # zero: a new network computes the same function with and without
            self.num_click_labels = config.num_click_labels
            aspect = hwd(config.token_aspect)
            mean = (aspect[0] * aspect[1] * aspect[2]) ** (1 / 3)
            self.token_voxels = tuple(s * mean / a for s, a in zip(self.token_stride, aspect, strict=True))
            maps = config.num_click_labels * len(self.sigmas)
            self.click_map = nn.Conv3d(maps, channels, 3, padding=1, bias=False)
            nn.init.zeros_(self.click_map.weight)
        self.extent_map: nn.Conv3d | None = None
        self.extents_at_voxels = config.extents_at_voxels
        if config.extent_maps:  # zero, too; the way straight to the logits carries most of what extents say
            self.extent_map = nn.Conv3d(config.extent_maps, channels, 3, padding=1, bias=False)
            self.extent_logits = nn.Conv3d(config.extent_maps, config.num_classes, 3, padding=1, bias=False)
            nn.init.zeros_(self.extent_map.weight)
            nn.init.zeros_(self.extent_logits.weight)
        self.detail_map: nn.Conv3d | None = None
        if config.has_detail:  # zero, too
            self.detail_map = nn.Conv3d(2 * config.detail_dim, channels, 3, padding=1, bias=False)
            self.voxel_mix = nn.Conv3d(channels, config.detail_dim, 1)
            self.voxel_logits = nn.Conv3d(config.detail_dim, config.num_classes, 3, padding=1, bias=False)
            nn.init.zeros_(self.detail_map.weight)
            nn.init.zeros_(self.voxel_logits.weight)
            maps = config.num_click_labels * len(self.sigmas[:1]) + config.extent_maps
            self.voxel_map = nn.Conv3d(maps, config.detail_dim, 1, bias=False) if maps else None
            if self.voxel_map is not None:
                nn.init.zeros_(self.voxel_map.weight)

    def fusion_weight(self) -> Tensor:
        """Of `cls.0`, (O, 4 * O + I, 3, 3, 3): levels 0, 1, 2, the prompted level, the image."""
        fusion = self.cls[0]
        assert isinstance(fusion, nn.Conv3d)
        return fusion.weight

    def fine_grid(self, grid_HWD: Sequence[int]) -> Triple:
        """Twice the token grid, but never finer than the voxels."""
        h, w, d = (g * min(2, stride) for g, stride in zip(grid_HWD, self.token_stride, strict=True))
        return h, w, d

    def fuse_unprompted(
        self, image_BIDHW: Tensor, level2: Tensor, level3: Tensor, level4: Tensor, detail_BFXYZ: Tensor | None = None
    ) -> Tensor:
        """Share of three unprompted levels, the image and its details in the fusion convolution, (B, O, X, Y, Z).

        Args:
            image_BIDHW: the crop, padded to whole tokens.
            level2, level3, level4: (B, C, H, W, D) maps of the image encoder, shallow to deep.
            detail_BFXYZ: features of the detail branch on the fine grid; None: the network has no such branch.
        """
        levels = (level2, level3, level4)
        heads = (self.mlahead.head2, self.mlahead.head3, self.mlahead.head4)
        weight = self.fusion_weight()
        split = 3 * self.channels
        fine = self.fine_grid(levels[0].shape[2:])
        coarse = torch.cat([head(level) for head, level in zip(heads, levels, strict=True)], 1)
        image_BIHWD = image_BIDHW.permute(0, 1, 3, 4, 2)
        image_BIXYZ = F.interpolate(image_BIHWD, size=fine, mode="trilinear", align_corners=False)
        image_part = F.conv3d(image_BIXYZ, weight[:, split + self.channels :], padding=1)
        fused_BOXYZ = conv3d_of_upsampled(coarse, weight[:, :split], fine) + image_part
        return fused_BOXYZ if self.detail_map is None else fused_BOXYZ + self.detail_map(detail_BFXYZ)

    def click_maps(
        self, prompts: PromptTensors, size_DHW: Sequence[int], grid_XYZ: Sequence[int], sigmas: Sequence[float]
    ) -> Tensor:
        """Where the clicks are, on a grid over the crop, (B, L * sigmas, X, Y, Z).

        Args:
            prompts: with click positions in (D, H, W) voxels of the crop.
            size_DHW: voxels of the crop, padded to whole tokens.
            grid_XYZ: size of the grid in the order (H, W, D), the fine grid or the voxels.
            sigmas: widths in tokens.
        """
        return fine_click_maps(
            prompts.points_BN3[..., [1, 2, 0]],
            prompts.labels_BN,
            hwd(size_DHW),
            grid_XYZ,
            self.token_voxels,
            self.num_click_labels,
            sigmas,
        ).to(self.cls[3].weight.dtype)  # type: ignore[union-attr]

    def refine(
        self, mixed_BOXYZ: Tensor, detail_BVDHW: Tensor, prompts: PromptTensors, size_DHW: Sequence[int]
    ) -> Tensor:
        """Correction of the logits at the voxels, (B, K, D, H, W), by the detail branch, prompts and what was fused.

        Args:
            mixed_BOXYZ: the fused maps after norm and ReLU, the input of the last convolution.
            detail_BVDHW: features of the detail branch at the voxels of the padded crop.
            prompts: see :meth:`finish`.
            size_DHW: voxels of the crop, padded to whole tokens.
        """
        hidden_BVDHW = detail_BVDHW + resized(self.voxel_mix(mixed_BOXYZ).permute(0, 1, 4, 2, 3), size_DHW)
        if self.voxel_map is not None:
            maps = []
            if self.sigmas:
                clicks_BLHWD = self.click_maps(prompts, size_DHW, hwd(size_DHW), VOXEL_SIGMAS)
                maps.append(clicks_BLHWD.permute(0, 1, 4, 2, 3))
            dense = prompts.dense_BMDHW
            weight = self.voxel_map.weight
            if dense is None and self.extent_map is not None:  # none of these prompts: their maps are zero
                weight = weight[:, : weight.shape[1] - self.extent_map.in_channels]
            elif dense is not None:
                maps.append(dense.to(weight.dtype))
            if maps:
                hidden_BVDHW = hidden_BVDHW + F.conv3d(torch.cat(maps, 1), weight)
        correction_BKDHW: Tensor = self.voxel_logits(F.relu(hidden_BVDHW))
        return correction_BKDHW

    def finish(
        self,
        fused_BOXYZ: Tensor,
        prompted_BCHWD: Tensor,
        size_DHW: Sequence[int],
        prompts: PromptTensors,
        detail_BVDHW: Tensor | None = None,
    ) -> Tensor:
        """Adds the prompted level and the clicks to what `fuse_unprompted` gave; logits at the crop's size.

        With a detail branch, the logits are corrected at the voxels, by its features there and what was fused.

        Args:
            fused_BOXYZ: from :meth:`fuse_unprompted`.
            prompted_BCHWD: the deepest level, from the prompt encoder.
            size_DHW: voxels of the crop, padded to whole tokens; the size of the logits.
            prompts: click positions in (D, H, W) voxels of the crop, dense maps of ``size_DHW``.
            detail_BVDHW: features of the detail branch at the voxels; None: the network has no such branch.
        """
        split = 3 * self.channels
        weight = self.fusion_weight()[:, split : split + self.channels]
        level = self.mlahead.head5(prompted_BCHWD)
        fused = fused_BOXYZ + conv3d_of_upsampled(level, weight, fused_BOXYZ.shape[2:])
        if self.click_map is not None:
            maps_BMXYZ = self.click_maps(prompts, size_DHW, fused_BOXYZ.shape[2:], self.sigmas)
            fused = fused + self.click_map(maps_BMXYZ)
        dense_BMDHW = extents_BMXYZ = None
        if self.extent_map is not None and prompts.dense_BMDHW is not None:
            dense_BMDHW = prompts.dense_BMDHW.to(self.extent_map.weight.dtype)
            extents_BMXYZ = resized(dense_BMDHW.permute(0, 1, 3, 4, 2), fused.shape[2:])
            fused = fused + self.extent_map(extents_BMXYZ)
        mixed_BOXYZ = self.cls[1:3](fused)
        logits_BKXYZ = self.cls[3](mixed_BOXYZ)
        if extents_BMXYZ is not None and not self.extents_at_voxels:
            logits_BKXYZ = logits_BKXYZ + self.extent_logits(extents_BMXYZ)
        logits_BKDHW = logits_BKXYZ.permute(0, 1, 4, 2, 3)
        if detail_BVDHW is None:
            logits_BKDHW = F.interpolate(logits_BKDHW, size=tuple(size_DHW), mode="trilinear", align_corners=True)
        else:
            correction_BKDHW = self.refine(mixed_BOXYZ, detail_BVDHW, prompts, size_DHW)
            logits_BKDHW = resized(logits_BKDHW, size_DHW) + correction_BKDHW
        if dense_BMDHW is not None and self.extents_at_voxels:
            logits_BKDHW = logits_BKDHW + self.extent_logits(dense_BMDHW)
        return logits_BKDHW
