"""Prompt encoder: clicks change the deepest feature map (docs/network.md#prompt-encoder).

A click acts through the features at its place: it is sampled from the map, joins ten learned queries, and
every voxel of the map then attends to the queries. Outside paper mode there are three additions, without effect in
an untrained network: the label of a click, a token for the absence of clicks, and maps of the clicks' positions.

Shape suffixes: B batch, C channels, H W D token grid, V = H * W * D voxels of the grid, N clicks, Q learned
queries, T = Q + N (+ 1) tokens, L click labels, A heads.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SAM3DConfig, Triple
from .prompts import PromptTensors

CLICK_MAP_SIGMAS = (1.5, 4.0)  # widths of the bumps that mark clicks, in tokens


class Attention(nn.Module):
    """Multi-head attention with its own projections."""

    def __init__(self, dim: int, num_heads: int, inner_dim: int) -> None:
        """
        Args:
            dim: channels C of queries, keys and result.
            num_heads: heads A.
            inner_dim: channels between the projections, a multiple of ``num_heads``.
        """
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, query_BTC: Tensor, key_BTC: Tensor, allowed_BT: Tensor | None = None) -> Tensor:
        """The attended queries, of the shape of ``query_BTC``.

        Args:
            query_BTC: tokens that attend; their number may differ from that of the keys.
            key_BTC: tokens that are attended to; they are also the values.
            allowed_BT: bool, the keys that may be attended to; None: all.
        """
        q, k, v = self.q_proj(query_BTC), self.k_proj(key_BTC), self.v_proj(key_BTC)
        q_BATc, k_BATc, v_BATc = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        mask = None if allowed_BT is None else allowed_BT[:, None, None]
        out_BATc = F.scaled_dot_product_attention(q_BATc, k_BATc, v_BATc, attn_mask=mask)
        return self.out_proj(out_BATc.transpose(1, 2).flatten(2))


class PromptLayer(nn.Module):
    """One round: queries and clicks attend to each other, then every voxel to the refined queries."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, num_queries: int) -> None:
        """
        Args:
            dim: channels C of voxels, clicks and queries.
            num_heads: heads of each attention; a divisor of ``dim // 2``.
            mlp_dim: width inside the MLP of the queries.
            num_queries: number Q of learned queries.
        """
        super().__init__()
        self.global_query = nn.Parameter(0.1 * torch.randn(1, num_queries, dim))
        self.self_attn = Attention(dim, num_heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        # Never called, officially neither: kept because official state dicts and the paper's parameter
        # count contain it (docs/network.md#unused-parameters).
        self.cross_attn_token_to_image = Attention(dim, num_heads, dim // 2)
        self.cross_attn_image_to_token = Attention(dim, num_heads, dim // 2)
        self.mlp = nn.Sequential(
            OrderedDict(lin1=nn.Linear(dim, mlp_dim), relu=nn.ReLU(), lin2=nn.Linear(mlp_dim, dim))
        )

    def forward(self, voxels_BVC: Tensor, points_BNC: Tensor, real_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Voxels and clicks after the round, in the shapes given.

        Args:
            voxels_BVC: the deepest map, its token grid flattened (D runs fastest).
            points_BNC: features at the clicks; outside paper mode also the token for no clicks.
            real_BN: bool, False for what nothing attends to: padding, and the token for no clicks beside clicks.
        """
        batch, num_queries = voxels_BVC.shape[0], self.global_query.shape[1]
        queries_BQC = self.global_query.expand(batch, -1, -1).to(points_BNC.dtype)
        tokens_BTC = torch.cat([queries_BQC, points_BNC], 1)
        allowed_BT = F.pad(real_BN, (num_queries, 0), value=True)
        attended = self.norm1(self.self_attn(tokens_BTC, tokens_BTC, allowed_BT))
        tokens_BTC = self.norm2(tokens_BTC + attended)
        queries_BQC, points_BNC = tokens_BTC.split([num_queries, points_BNC.shape[1]], 1)
        queries_BQC = self.norm3(queries_BQC + self.mlp(queries_BQC))
        voxels_BVC = self.norm4(voxels_BVC + self.cross_attn_image_to_token(voxels_BVC, queries_BQC))
        return voxels_BVC, points_BNC


def sample_points(features_BCHWD: Tensor, tokens_BN3: Tensor) -> Tensor:
    """Features (B, N, C) at click positions given in token coordinates (H, W, D): trilinear, zero outside."""
    if tokens_BN3.shape[1] == 0:
        return features_BCHWD.new_zeros(*tokens_BN3.shape[:2], features_BCHWD.shape[1])
    if features_BCHWD.dtype in (torch.bfloat16, torch.float16):
        features_BCHWD = features_BCHWD.float()  # half-precision coordinates would be off by whole voxels
    size = torch.tensor(features_BCHWD.shape[2:], device=tokens_BN3.device, dtype=tokens_BN3.dtype)
    # grid_sample's x, y, z address the last, middle and first axis, hence the flip.
    grid = ((2 * tokens_BN3 + 1) / size - 1).flip(-1).to(features_BCHWD.dtype)
    sampled_BCN = F.grid_sample(features_BCHWD, grid[:, :, None, None], align_corners=False)[..., 0, 0]
    return sampled_BCN.mT


@torch.no_grad()
def click_maps(tokens_BN3: Tensor, labels_BN: Tensor, grid: Triple, num_labels: int) -> Tensor:
    """Where clicks are: (B, L * sigmas, H, W, D), per label the highest of its clicks' bumps exp(-d²/2s²).

    Args:
        tokens_BN3: click positions (H, W, D) in tokens; 0 is the centre of the first token.
        labels_BN: labels of the clicks, int64, 0 to L - 1; -1 = padding.
        grid: (H, W, D) tokens.
        num_labels: number L of click labels.
    """
    batch, clicks = labels_BN.shape
    square_BNHWD = torch.zeros((), device=tokens_BN3.device, dtype=tokens_BN3.dtype)
    for axis in range(3):
        index = torch.arange(grid[axis], device=tokens_BN3.device, dtype=tokens_BN3.dtype)
        shape = [batch, clicks, 1, 1, 1]
        shape[2 + axis] = grid[axis]
        square_BNHWD = square_BNHWD + (index - tokens_BN3[:, :, axis, None]).square().view(shape)
    slot_BN = torch.where(labels_BN < 0, num_labels, labels_BN)  # padding goes to a slot that is dropped
    slot_BNHWD = slot_BN[:, :, None, None, None].expand(-1, -1, *grid)
    maps = []
    for sigma in CLICK_MAP_SIGMAS:
        bumps_BNHWD = torch.exp(square_BNHWD / (-2 * sigma**2))
        empty = bumps_BNHWD.new_zeros(batch, num_labels + 1, *grid)
        maps.append(empty.scatter_reduce(1, slot_BNHWD, bumps_BNHWD, "amax")[:, :num_labels])
    return torch.cat(maps, 1)


class PromptEncoder(nn.Module):
    """Deepest features (B, C, H, W, D) and clicks to prompted features of the same shape."""

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__()
        dim = config.neck_dim
        self.token_stride = config.token_stride
        self.num_click_labels = config.num_click_labels
        sizes = dim, config.prompt_heads, config.prompt_mlp_dim, config.num_queries
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(PromptLayer(*sizes) for _ in range(2))})
        self.paper = config.paper
        if not config.paper:  # all zero: with clicks, a new network computes exactly the paper's function
            self.label_embed = nn.Embedding(config.num_click_labels, dim)
            nn.init.zeros_(self.label_embed.weight)
            self.no_click = nn.Parameter(torch.zeros(1, 1, dim))  # seen only where there is no click
            maps = config.num_click_labels * len(CLICK_MAP_SIGMAS)
            self.click_map = nn.Conv3d(maps, dim, 1, bias=False)
            nn.init.zeros_(self.click_map.weight)

    def forward(self, features_BCHWD: Tensor, prompts: PromptTensors) -> Tensor:
        clicks_BN3, labels_BN = prompts.points_BN3, prompts.labels_BN
        grid = features_BCHWD.shape[2:]
        stride = clicks_BN3.new_tensor(self.token_stride)
        tokens_BN3 = ((clicks_BN3 + 0.5) / stride - 0.5)[..., [1, 2, 0]]  # (D, H, W) to (H, W, D)
        real_BN = labels_BN >= 0
        if not self.paper:
            maps = click_maps(tokens_BN3, labels_BN, (grid[0], grid[1], grid[2]), self.num_click_labels)
            features_BCHWD = features_BCHWD + self.click_map(maps.to(features_BCHWD.dtype))
        points_BNC = sample_points(features_BCHWD, tokens_BN3)
        if not self.paper:
            points_BNC = points_BNC + self.label_embed(labels_BN.clamp(min=0)).to(points_BNC.dtype)
            no_click = self.no_click.expand(points_BNC.shape[0], -1, -1).to(points_BNC.dtype)
            points_BNC = torch.cat([points_BNC, no_click], 1)
            real_BN = torch.cat([real_BN, ~real_BN.any(1, keepdim=True)], 1)
        voxels_BVC = features_BCHWD.flatten(2).mT
        for layer in self.transformer.layers:  # type: ignore[union-attr]
            voxels_BVC, points_BNC = layer(voxels_BVC, points_BNC, real_BN)
        return voxels_BVC.mT.unflatten(2, grid)
