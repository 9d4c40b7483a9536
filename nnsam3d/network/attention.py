"""Window attention with decomposed relative positions (docs/network.md#window-attention).

Shape suffixes: B batch, H W D token grid, V = H * W * D, W windows per volume (only in the layout's constants),
M = B * W windows, N tokens per window, A heads, C channels, c channels per head, J relative rows (window
h + w + d).

Relative positions and masks are folded into the dot product: the queries get extra columns (their relative
terms, the mask), the keys the matching constants (one-hot coordinates, the mask), so that attention is a single
scaled_dot_product_attention (docs/network.md#attention-as-one-product), which never stores the N x N scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Triple
from .recompute import recompute

OTHER_REGION = -100.0  # between tokens that only the cyclic shift brought together (docs/network.md#shift-mask)
CONSTANT = ".lr"  # end of the names of parameters that are never trained
PADDING = -10000.0  # underflows to weight zero in every precision, and fits float16


@dataclass(frozen=True)
class WindowLayout:
    """The division of a token grid into windows; built once per forward pass and shared by blocks."""

    grid: Triple  # (H, W, D)
    padded: Triple  # the grid rounded up to whole windows
    window: Triple
    order_V: Tensor  # the (padded, flat) tokens in the order of the windows, rolling included
    place_V: Tensor  # the inverse: the position of each real token
    key_WNX: Tensor  # constants appended to the keys: one-hot coordinates (J), then the masks
    query_WNY: Tensor  # constants appended to the queries, facing the masks

    @property
    def num_windows(self) -> int:
        (h, w, d), (wh, ww, wd) = self.padded, self.window
        return (h // wh) * (w // ww) * (d // wd)


def window_layout(
    grid: Sequence[int], window: Sequence[int], shifted: bool, device: torch.device, dtype: torch.dtype
) -> WindowLayout:
    """The layout of a (H, W, D) token grid for windows of (H, W, D) tokens.

    Grids that are not a multiple of the window are zero-padded at the high end; no token attends to padding.
    Shifted layouts roll by half a window; tokens that wrapped around an axis form a separate region.

    Args:
        grid: (H, W, D) tokens, any size.
        window: (H, W, D) tokens.
        shifted: roll the grid by half a window along each axis.
        device: of the layout's tensors.
        dtype: of the constants for keys and queries.
    """
    h, w, d = (-(-g // s) * s for g, s in zip(grid, window, strict=True))
    padded = (h, w, d)
    shift = tuple(s // 2 if shifted else 0 for s in window)
    one_hot, region_key, region_query, padding = [], [], [], []
    for axis in range(3):
        index = torch.arange(padded[axis], device=device)
        eye = torch.eye(window[axis], device=device, dtype=dtype).repeat(padded[axis] // window[axis], 1)
        one_hot.append(_along(eye, axis, padded))
        # Of the three regions per axis (docs/network.md#shift-mask) the first ends at a window's edge, so that
        # inside a window only "wrapped" and "not wrapped" can meet.
        wrapped = (index >= padded[axis] - shift[axis]).to(dtype)
        wrapped = torch.stack([wrapped, 1 - wrapped], 1)
        region_key.append(_along(wrapped, axis, padded))
        region_query.append(_along(OTHER_REGION * (1 - wrapped), axis, padded))
        beyond = torch.roll(index >= grid[axis], -shift[axis]).to(dtype)[:, None]
        padding.append(_along(beyond, axis, padded))
    keys, queries = one_hot, []
    if shifted:
        keys, queries = keys + region_key, region_query
    if padded != tuple(grid):
        is_padding = torch.stack(padding).amax(0)
        keys, queries = [*keys, PADDING * is_padding], [*queries, torch.ones_like(is_padding)]
    key = torch.cat(keys, -1)
    query = torch.cat(queries, -1) if queries else key[..., :0]
    # Zero columns up to a multiple of eight: fused GPU kernels need aligned widths.
    unused = -key.shape[-1] % 8
    key, query = F.pad(key, (0, unused)), F.pad(query, (0, unused))
    sh, sw, sd = window
    if not queries:  # all windows are alike: one is broadcast
        key, query = key[:sh, :sw, :sd].flatten(0, 2)[None], query[:sh, :sw, :sd].flatten(0, 2)[None]
    else:
        key, query = _cut(key, window), _cut(query, window)
    index = torch.arange(h * w * d, device=device)
    rolled = torch.roll(index.view(padded), tuple(-s for s in shift), (0, 1, 2))
    order = _cut(rolled[..., None], window).flatten()
    gh, gw, gd = grid
    place = torch.empty_like(order).scatter_(0, order, index).view(padded)[:gh, :gw, :gd].reshape(-1)
    return WindowLayout((gh, gw, gd), padded, (sh, sw, sd), order, place, key, query)


def _along(table: Tensor, axis: int, grid: Triple) -> Tensor:
    """(length of one axis, n) repeated over the other two axes: (H, W, D, n)."""
    shape = [1, 1, 1, table.shape[1]]
    shape[axis] = table.shape[0]
    return table.view(shape).expand(*grid, table.shape[1])


def _cut(x_HWDC: Tensor, window: Sequence[int]) -> Tensor:
    """A grid of whole windows to windows (W, N, C)."""
    (h, w, d, c), (wh, ww, wd) = x_HWDC.shape, window
    x = x_HWDC.reshape(h // wh, wh, w // ww, ww, d // wd, wd, c)
    return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, wh * ww * wd, c)


def partition(x_BHWDC: Tensor, layout: WindowLayout) -> Tensor:
    """Tokens to windows (M, N, C), padded and rolled according to the layout; D runs fastest in both orders."""
    x = x_BHWDC
    if layout.padded != layout.grid:
        ph, pw, pd = (p - g for p, g in zip(layout.padded, layout.grid, strict=True))
        x = F.pad(x, (0, 0, 0, pd, 0, pw, 0, ph))
    x = x.flatten(1, 3).index_select(1, layout.order_V)  # one gather: a third of the time of roll and permute
    return x.view(-1, math.prod(layout.window), x.shape[-1])


def merge(x_MNC: Tensor, layout: WindowLayout) -> Tensor:
    """The inverse of `partition`: windows back to tokens (B, H, W, D, C), padding dropped."""
    x_BVC = x_MNC.reshape(-1, math.prod(layout.padded), x_MNC.shape[-1])
    return x_BVC.index_select(1, layout.place_V).unflatten(1, layout.grid)


def relative_rows(table_Lc: Tensor, size: int) -> Tensor:
    """R (size, size, c) with R[q, k] = table[q - k + size - 1], the table resampled to 2 * size - 1 rows.

    SAM's tables were trained for larger windows; the paper resamples them by linear interpolation.
    """
    rows = 2 * size - 1
    if table_Lc.shape[0] != rows:
        table_Lc = F.interpolate(table_Lc.T[None], size=rows, mode="linear")[0].T
    index = torch.arange(size, device=table_Lc.device)
    return table_Lc[index[:, None] - index[None, :] + size - 1]


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, (M, N, C) to (M, N, C)."""

    def __init__(self, dim: int, num_heads: int, window: Triple, table_lengths: Triple) -> None:
        """
        Args:
            dim: token channels C, a multiple of ``num_heads``.
            num_heads: heads A.
            window: (H, W, D) tokens.
            table_lengths: rows of the tables of relative positions along H, W, D; resampled to 2 * window - 1.
        """
        super().__init__()
        self.num_heads = num_heads
        self.window = window  # (H, W, D)
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for axis, length in zip("hwd", table_lengths, strict=True):
            table = nn.Parameter(torch.empty(length, head_dim))
            nn.init.trunc_normal_(table, std=0.02)
            self.register_parameter(f"rel_pos_{axis}", table)
        # Scale of the relative terms. The official code never trains it, so it stays constant here.
        self.lr = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def relative_table(self) -> Tensor:
        """(N, J, c): row j of token n faces the keys whose coordinate is j; first h, then w, then d."""
        h, w, d = self.window
        r_h, r_w, r_d = (
            relative_rows(getattr(self, f"rel_pos_{axis}"), size) for axis, size in zip("hwd", self.window, strict=True)
        )
        rows = [
            r_h[:, None, None].expand(h, w, d, h, -1),
            r_w[None, :, None].expand(h, w, d, w, -1),
            r_d[None, None, :].expand(h, w, d, d, -1),
        ]
        return self.lr * torch.cat(rows, -2).flatten(0, 2)

    def forward(self, x_MNC: Tensor, layout: WindowLayout) -> Tensor:
        m, n, c = x_MNC.shape
        qkv = self.qkv(x_MNC).view(m, n, 3, self.num_heads, c // self.num_heads)
        return self.proj(recompute(attend, qkv, self.relative_table(), layout))


def attend(qkv_MN3Ac: Tensor, table_NJc: Tensor, layout: WindowLayout) -> Tensor:
    """The attention between the two projections, (M, N, C).

    Args:
        qkv_MN3Ac: queries, keys and values of the tokens of each window.
        table_NJc: from :meth:`WindowAttention.relative_table`.
        layout: by which the tokens were cut into windows.
    """
    q, k, v = qkv_MN3Ac.unbind(2)  # (M, N, A, c) each
    m, n, heads, head_dim = q.shape
    relative = torch.einsum("mnac,njc->mnaj", q, table_NJc)  # of the unscaled queries
    per_volume = (m // layout.num_windows, layout.num_windows, n, heads)

    def constant(table_WNX: Tensor) -> Tensor:  # the same in every volume and head
        return table_WNX[None, :, :, None].to(q.dtype).expand(*per_volume, -1)

    scaled = (q * head_dim**-0.5).view(*per_volume, head_dim)
    relative = relative.to(q.dtype).reshape(*per_volume, -1)
    q_long = torch.cat([scaled, relative, constant(layout.query_WNY)], -1)
    k_long = torch.cat([k.reshape(*per_volume, head_dim), constant(layout.key_WNX)], -1)
    width = k_long.shape[-1]
    # The fused kernels need equal widths: zero columns in the values, dropped from the result.
    out = F.scaled_dot_product_attention(
        q_long.view(m, n, heads, width).transpose(1, 2),
        k_long.view(m, n, heads, width).transpose(1, 2),
        F.pad(v, (0, width - head_dim)).transpose(1, 2),
        scale=1.0,
    )
    return out.transpose(1, 2)[..., :head_dim].reshape(m, n, heads * head_dim)
