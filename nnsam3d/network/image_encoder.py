"""Image encoder: stem, transformer blocks, necks (docs/network.md#transformer-blocks).

Shape suffixes: B batch, C image or token channels, D H W voxels outside and token grid inside, K neck channels.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from .adapter import Adapter
from .attention import WindowAttention, WindowLayout, merge, partition, window_layout
from .config import SAM3DConfig, Triple, hwd
from .detail import DetailBranch
from .recompute import recompute
from .stem import Stem


class Block(nn.Module):
    """Adapter, window attention, MLP on (B, H, W, D, C) tokens."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Triple,
        table_lengths: Triple,
        adapter_dim: int,
        checkpointing: str = "none",
    ) -> None:
        """
        Args:
            dim, num_heads, window, table_lengths: see :class:`WindowAttention`.
            adapter_dim: channels inside the adapter.
            checkpointing: what is computed twice in training, see :class:`Execution`.
        """
        super().__init__()
        self.checkpointing = checkpointing
        self.adapter = Adapter(dim, adapter_dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention(dim, num_heads, window, table_lengths)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(  # four times wider inside, as in SAM
            OrderedDict(lin1=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), lin2=nn.Linear(4 * dim, dim))
        )

    def forward(self, x_BHWDC: Tensor, layout: WindowLayout) -> Tensor:
        if self.checkpointing == "cheap":
            x = recompute(self.adapter, x_BHWDC)
            return recompute(self.transform, self.attend(x, layout))
        if self.checkpointing == "blocks":
            return recompute(self.whole, x_BHWDC, layout)
        return self.whole(x_BHWDC, layout)

    def whole(self, x_BHWDC: Tensor, layout: WindowLayout) -> Tensor:
        x = self.adapter(x_BHWDC)  # changes the residual stream itself, before the shortcut is taken
        return self.transform(self.attend(x, layout))

    def attend(self, x: Tensor, layout: WindowLayout) -> Tensor:
        return x + merge(self.attn(partition(self.norm1(x), layout), layout), layout)

    def transform(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a (B, C, H, W, D) map, voxel by voxel."""

    def forward(self, x_BCHWD: Tensor) -> Tensor:
        return super().forward(x_BCHWD.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def make_neck(dim: int, neck_dim: int) -> nn.Sequential:
    """1x1x1 and 3x3x3 convolution, each normalised; the indices are the official names (docs/network.md#necks)."""
    return nn.Sequential(
        nn.Conv3d(dim, neck_dim, 1, bias=False),
        ChannelNorm(neck_dim, eps=1e-6),
        nn.Conv3d(neck_dim, neck_dim, 3, padding=1, bias=False),
        ChannelNorm(neck_dim, eps=1e-6),
    )


class ImageEncoder(Stem):
    """(B, C, D, H, W) image to four (B, K, h, w, d) feature maps, shallow to deep.

    With a detail branch, its features on the fine grid and at the voxels follow (see `detail`).

    Inherits from the stem, rather than owning one, because the official state dict has no prefix for it.
    """

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__(config)
        self.window = hwd(config.window)
        self.feature_blocks = config.feature_blocks
        self.checkpointing = config.checkpointing
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, self.window, lengths, config.adapter_dim, config.checkpointing)
            for lengths in config.rel_pos_lengths
        )
        self.neck_3d = nn.ModuleList(make_neck(config.embed_dim, config.neck_dim) for _ in range(4))
        self.detail = DetailBranch(config) if config.has_detail else None

    def layouts(self, tokens_BHWDC: Tensor) -> tuple[WindowLayout, WindowLayout]:
        """The layouts of the even and of the odd blocks: the even ones are shifted (unlike Swin)."""
        h, w, d = tokens_BHWDC.shape[1:4]
        even, odd = (
            window_layout((h, w, d), self.window, shifted, tokens_BHWDC.device, tokens_BHWDC.dtype)
            for shifted in (True, False)
        )
        return even, odd

    def forward(self, image_BCDHW: Tensor) -> list[Tensor]:
        x_BHWDC = self.stem(image_BCDHW)
        details: list[Tensor] = []
        if self.detail is not None:
            blocks = self.checkpointing == "blocks"
            tokens_BHWDC, *details = recompute(self.detail, image_BCDHW) if blocks else self.detail(image_BCDHW)
            x_BHWDC = x_BHWDC + tokens_BHWDC
        layouts = self.layouts(x_BHWDC)
        levels: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x_BHWDC = block(x_BHWDC, layouts[i % 2])
            if i in self.feature_blocks:
                neck, x_BCHWD = self.neck_3d[len(levels)], x_BHWDC.permute(0, 4, 1, 2, 3)
                levels.append(recompute(neck, x_BCHWD) if self.checkpointing == "blocks" else neck(x_BCHWD))
        return levels + details
