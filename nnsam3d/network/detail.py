"""Detail branch: convolutions at the voxels, beside the transformer (docs/network.md#what-nnsam3d-adds).

Tokens are as large as several voxels and enter through one linear map. The branch sees the image voxel by voxel and
gives its features to the tokens, to the decoder's fusion and to the logits, through convolutions that start at zero.

Shape suffixes: B batch, C image channels, V channels at the voxels, F channels on the fine grid, E token channels,
D H W voxels, X Y Z fine grid, h w d token grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import SAM3DConfig, hwd
from .mask_decoder import make_head


class DetailBranch(nn.Module):
    """Image (B, C, D, H, W), sizes multiples of the token stride, to features at the voxels and on the fine grid."""

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__()
        channels = config.detail_dim
        stride = hwd(config.token_stride)
        self.pool = tuple(s // min(2, s) for s in stride)  # voxels per place of the fine grid
        self.at_voxels = make_head(config.num_image_channels, channels, affine=True)
        self.on_fine_grid = make_head(channels, 2 * channels, affine=True)
        step = tuple(min(2, s) for s in stride)  # places of the fine grid per token
        self.to_tokens = nn.Conv3d(2 * channels, config.embed_dim, step, stride=step, bias=False)
        nn.init.zeros_(self.to_tokens.weight)

    def forward(self, image_BCDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What tokens get (B, h, w, d, E); features on the fine grid (B, F, X, Y, Z), at the voxels (B, V, D, H, W)."""
        voxels_BVDHW = self.at_voxels(image_BCDHW)
        voxels_BVHWD = voxels_BVDHW.permute(0, 1, 3, 4, 2)
        fine_BFXYZ = self.on_fine_grid(F.avg_pool3d(voxels_BVHWD, self.pool) if max(self.pool) > 1 else voxels_BVHWD)
        return self.to_tokens(fine_BFXYZ).permute(0, 2, 3, 4, 1), fine_BFXYZ, voxels_BVDHW
