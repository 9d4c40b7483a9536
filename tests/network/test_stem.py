from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.network.stem import Stem

from .conftest import SMALL, same


def naive_stem(stem: Stem, image: torch.Tensor) -> torch.Tensor:
    """The official way (docs/network.md#stem): blow up, copy channels, embed every slice, convolve along depth."""
    grid = [n // s for n, s in zip(image.shape[2:], stem.token_stride, strict=True)]
    fine = F.interpolate(image, size=[16 * g for g in grid], mode="trilinear", align_corners=False)
    rgb = torch.einsum("rc,bcdhw->bdrhw", stem.channel_map, fine)
    planes = stem.patch_embed.proj(rgb.flatten(0, 1)).unflatten(0, rgb.shape[:2])  # B, D, E, h, w
    return stem.slice_embed(planes.permute(0, 2, 3, 4, 1)).permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("stride", [(4, 4, 4), (1, 2, 4), (3, 5, 8), (16, 4, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_folded_equals_naive(stride: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(1)
    size = tuple(s * n for s, n in zip(stride, (2, 4, 3), strict=True))
    config = SAM3DConfig(
        **{**SMALL, "patch_size": size, "window": 2, "token_stride": stride, "num_image_channels": channels}
    )
    stem = Stem(config).double()
    image = torch.randn(2, channels, *size, dtype=torch.float64)
    weights = torch.randn(2, 4, 3, 2, config.embed_dim, dtype=torch.float64)
    wanted = [stem.slice_embed.weight, stem.slice_embed.bias, stem.patch_embed.proj.weight]
    if channels > 1:
        assert isinstance(stem.channel_map, torch.nn.Parameter)
        wanted.append(stem.channel_map)
    ours = stem.stem(image) - stem.positions((4, 3, 2))
    theirs = naive_stem(stem, image)
    same(ours, theirs, 1e-12)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        same(a, b, 1e-12)


def test_positions(small: Callable[..., SAM3D]) -> None:
    stem = small(pos_embed_size=(64, 64)).image_encoder
    with torch.no_grad():
        stem.depth_embed.normal_()
    got = stem.positions((32, 32, 4))
    pooled = F.avg_pool2d(stem.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    same(got, pooled[:, :, :, None] + stem.depth_embed[:, None, None], 1e-14)
    assert stem.positions((64, 64, 4)).shape == (1, 64, 64, 4, 24)
    larger = stem.positions((65, 20, 8))  # table too small in H, too large in W; depth interpolated
    assert larger.shape == (1, 65, 20, 8, 24)
    depth = F.interpolate(stem.depth_embed.mT, size=8, mode="linear").mT
    same(larger - larger[:, :, :, :1], (depth - depth[:, :1])[:, None, None].expand_as(larger), 1e-12)
