from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nnsam3d.network import SAM3DConfig
from nnsam3d.network.mask_decoder import MaskDecoder, conv3d_of_upsampled

from . import oracle
from .conftest import SMALL, same


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
@pytest.mark.parametrize("name", ["decoder_small", "decoder_default_dims"])
def test_official(name: str, dtype: torch.dtype, relative: float) -> None:
    data = oracle.load(name)
    cfg = oracle.json_of(data["cfg"])
    decoder = MaskDecoder(SAM3DConfig(neck_dim=cfg["mla_channels"], decoder_dim=cfg["mlahead_channels"]))
    oracle.fill(decoder, data, f"{name}.")
    decoder.to(dtype)
    levels = [oracle.seeded(seed, data["feat_shape"], dtype) for seed in data["seeds"][:4]]
    half_HWD = oracle.seeded(data["seeds"][4], data["img_shape"], dtype)
    # Ours takes the crop and halves it: repeating every voxel twice is undone by the averaging.
    crop_HWD = half_HWD.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    with torch.no_grad():
        logits = decoder(levels, crop_HWD.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        head2 = F.interpolate(
            decoder.mlahead.head2(levels[0]), scale_factor=2, mode="trilinear", align_corners=True
        )
    if "logits_HWD" in data:
        oracle.check(logits, data["logits_HWD"], relative)
    else:
        oracle.check(logits.reshape(-1)[torch.from_numpy(data["logit_idx"])], data["logits_at_idx"], relative)
    if dtype == torch.float64:
        oracle.check_stats(logits, data["out_stats"])
        oracle.check_stats(head2, data["head2_up_stats"])


@pytest.mark.parametrize("fine", [(8, 6, 10), (4, 6, 10), (7, 3, 5)])
def test_convolution_of_upsampled(fine: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = conv3d_of_upsampled(x, weight, fine)
    up = F.interpolate(x, size=fine, mode="trilinear", align_corners=True)
    naive = F.conv3d(up, weight, padding=1)
    same(ours, naive, 1e-12)
    factor = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * factor).sum(), (x, weight)),
        torch.autograd.grad((naive * factor).sum(), (x, weight)),
        strict=True,
    ):
        same(a, b, 1e-12)


def test_single_token_axis() -> None:
    x, weight = torch.randn(1, 2, 1, 3, 2), torch.randn(3, 2, 3, 3, 3)
    up = F.interpolate(x, size=(2, 6, 2), mode="trilinear", align_corners=True)
    same(conv3d_of_upsampled(x, weight, (2, 6, 2)), F.conv3d(up, weight, padding=1), 1e-5)


def test_fine_grid_is_never_finer_than_voxels() -> None:
    decoder = MaskDecoder(SAM3DConfig(**{**SMALL, "token_stride": (1, 2, 4), "num_image_channels": 2}))
    assert decoder.fine_grid((12, 8, 16)) == (24, 16, 16)  # H, W, D
    levels = [torch.randn(1, 16, 12, 8, 16) for _ in range(4)]
    assert decoder(levels, torch.randn(1, 2, 16, 24, 32)).shape == (1, 3, 16, 24, 32)
