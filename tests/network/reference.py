"""The paper's network written plainly from docs/network.md: slow and memory-hungry on purpose, easy to check.

Nothing is folded: the image is upsampled, attention's bias and mask are materialised, the decoder concatenates
upsampled maps. Parameters are those of a `SAM3D` in paper mode; of its code, only torch's own layers are called.
It is what `benchmarks.bench` compares with.

Shape suffixes: B batch, C channels, D H W axes, M windows, N tokens per window, A heads, T prompt tokens.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainSAM3D(nn.Module):
    """`segment` and `decode` of the network it is given; token stride 4, one image channel, whole windows."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def segment(self, image_BCDHW: Tensor, clicks_BN3: Tensor) -> Tensor:
        return self.decode(self.encode(image_BCDHW), image_BCDHW, clicks_BN3)

    def encode(self, image_BCDHW: Tensor) -> list[Tensor]:
        encoder, levels = self.net.image_encoder, []
        x = self.stem(image_BCDHW)
        for i, block in enumerate(encoder.blocks):
            x = self.block(block, x, shifted=i % 2 == 0)
            if (i + 1) % (len(encoder.blocks) // 4) == 0:
                levels.append(self.neck(encoder.neck_3d[len(levels)], x.permute(0, 4, 1, 2, 3)))
        return levels

    def stem(self, image_BCDHW: Tensor) -> Tensor:
        """docs/network.md#stem"""
        encoder = self.net.image_encoder
        with torch.no_grad():
            fine = F.interpolate(image_BCDHW.repeat(1, 3, 1, 1, 1), scale_factor=4, mode="trilinear")
            patches = [encoder.patch_embed.proj(volume.transpose(0, 1)) for volume in fine]
            patches_BCHWD = torch.stack(patches).permute(0, 2, 3, 4, 1)
        x = encoder.slice_embed(patches_BCHWD).permute(0, 2, 3, 4, 1)
        pos = F.adaptive_avg_pool2d(encoder.pos_embed.permute(0, 3, 1, 2), x.shape[1:3]).permute(0, 2, 3, 1)
        return x + pos[:, :, :, None] + encoder.depth_embed[:, None, None]

    def block(self, block: Any, x: Tensor, shifted: bool) -> Tensor:
        """docs/network.md#transformer-blocks"""
        adapter = block.adapter
        u = F.relu(adapter.linear1(x)).permute(0, 4, 1, 2, 3)
        u = F.relu(adapter.conv(u)).permute(0, 2, 3, 4, 1)
        x = x + F.relu(adapter.linear2(u))
        window, grid = block.attn.window, x.shape[1:4]
        assert not any(g % w for g, w in zip(grid, window, strict=True))
        shift = [w // 2 for w in window]
        y, mask = block.norm1(x), None
        if shifted:
            y = torch.roll(y, [-s for s in shift], (1, 2, 3))
            mask = self.shift_mask(grid, window, shift, x)
        y = self.windows(self.attention(block.attn, self.windows(y, window), mask), window, grid)
        if shifted:
            y = torch.roll(y, shift, (1, 2, 3))
        x = x + y
        return x + block.mlp.lin2(F.gelu(block.mlp.lin1(block.norm2(x))))

    def windows(self, x: Tensor, window: Any, grid: Any = None) -> Tensor:
        """(B, H, W, D, C) to (M, N, C), and back where a grid is given."""
        a, b, c = window
        if grid is None:
            _, h, w, d, channels = x.shape
            x = x.view(-1, h // a, a, w // b, b, d // c, c, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
            return x.reshape(-1, a * b * c, channels)
        h, w, d = grid
        x = x.view(-1, h // a, w // b, d // c, a, b, c, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return x.reshape(-1, h, w, d, x.shape[-1])

    def shift_mask(self, grid: Any, window: Any, shift: Any, like: Tensor) -> Tensor:
        """(windows of one volume, N, N): -100 between the regions (docs/network.md#shift-mask)."""
        axes = []
        for g, w, s in zip(grid, window, shift, strict=True):
            index = torch.arange(g, device=like.device)
            axes.append((index >= g - w).long() + (index >= g - s).long())
        region = axes[0][:, None, None] * 9 + axes[1][:, None] * 3 + axes[2]
        region_MN = self.windows(region[None, ..., None], window)[..., 0]
        return (region_MN[:, :, None] != region_MN[:, None]).to(like.dtype) * -100

    def attention(self, attn: Any, x_MNC: Tensor, mask: Tensor | None) -> Tensor:
        """docs/network.md#window-attention"""
        m, n, channels = x_MNC.shape
        heads = attn.num_heads
        q, k, v = attn.qkv(x_MNC).view(m, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        places = torch.tensor(list(itertools.product(*map(range, attn.window))), device=q.device)
        for axis, size in enumerate(attn.window):
            table = getattr(attn, f"rel_pos_{'hwd'[axis]}")
            table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
            place = torch.arange(size, device=q.device)
            rows_qkc = table[place[:, None] - place + size - 1][places[:, axis]]  # (N, keys of the axis, c)
            along = torch.einsum("manc,nkc->mank", q, rows_qkc)
            scores = scores + attn.lr * along[..., places[:, axis]]
        if mask is not None:
            scores = scores + mask.repeat(m // mask.shape[0], 1, 1)[:, None]
        out = scores.softmax(-1) @ v
        return attn.proj(out.transpose(1, 2).reshape(m, n, channels))

    def neck(self, neck: Any, x: Tensor) -> Tensor:
        """docs/network.md#necks"""
        for conv, norm in ((neck[0], neck[1]), (neck[2], neck[3])):
            x = conv(x)
            mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
            x = (x - mean) / (variance + norm.eps).sqrt()
            x = x * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)
        return x

    def decode(self, levels: list[Tensor], image_BCDHW: Tensor, clicks_BN3: Tensor) -> Tensor:
        """docs/network.md#mask-decoder"""
        prompted = self.prompt(levels[3], clicks_BN3)
        heads = self.net.mask_decoder.mlahead
        parts = []
        for head, level in zip(
            (heads.head2, heads.head3, heads.head4, heads.head5), [*levels[:3], prompted], strict=True
        ):
            parts.append(F.interpolate(head(level), scale_factor=2, mode="trilinear", align_corners=True))
        image_BCHWD = image_BCDHW.permute(0, 1, 3, 4, 2)
        parts.append(F.interpolate(image_BCHWD, scale_factor=0.5, mode="trilinear"))
        logits = self.net.mask_decoder.cls(torch.cat(parts, 1))
        logits = F.interpolate(logits, scale_factor=2, mode="trilinear", align_corners=True)
        return logits.permute(0, 1, 4, 2, 3)

    def prompt(self, features_BCHWD: Tensor, clicks_BN3: Tensor) -> Tensor:
        """docs/network.md#prompt-encoder"""
        size_DHW = torch.tensor([4 * features_BCHWD.shape[axis] for axis in (4, 2, 3)], dtype=clicks_BN3.dtype)
        place = (clicks_BN3 + 0.5) * 2 / size_DHW.to(clicks_BN3.device) - 1
        grid = place[..., [0, 2, 1]][:, :, None, None]  # x, y, z address D, W, H
        points = F.grid_sample(features_BCHWD, grid, align_corners=False)[..., 0, 0].mT
        voxels = features_BCHWD.flatten(2).mT
        for layer in self.net.prompt_encoder.transformer.layers:
            number = layer.global_query.shape[1]
            tokens = torch.cat([layer.global_query.repeat(len(points), 1, 1), points], 1)
            tokens = layer.norm2(tokens + layer.norm1(self.cross(layer.self_attn, tokens, tokens)))
            queries, points = tokens[:, :number], tokens[:, number:]
            queries = layer.norm3(queries + layer.mlp.lin2(F.relu(layer.mlp.lin1(queries))))
            voxels = layer.norm4(voxels + self.cross(layer.cross_attn_image_to_token, voxels, queries))
        return voxels.mT.reshape(features_BCHWD.shape)

    def cross(self, attn: Any, query: Tensor, key: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            for projection, x in ((attn.q_proj, query), (attn.k_proj, key), (attn.v_proj, key))
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
