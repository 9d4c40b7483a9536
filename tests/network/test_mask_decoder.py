from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.network.mask_decoder import MaskDecoder, conv3d_of_upsampled, fine_click_maps
from nnsam3d.network.prompts import PromptTensors

from . import oracle
from .conftest import SMALL, same


def logits_of(decoder: MaskDecoder, levels: Sequence[Tensor], image_BIDHW: Tensor) -> Tensor:
    """Of both parts of the decoder, without clicks."""
    fused = decoder.fuse_unprompted(image_BIDHW, *levels[:3])
    none = PromptTensors(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))
    return decoder.finish(fused, levels[3], image_BIDHW.shape[2:], none)


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
        logits = logits_of(decoder, levels, crop_HWD.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
        head2 = F.interpolate(decoder.mlahead.head2(levels[0]), scale_factor=2, mode="trilinear", align_corners=True)
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
    assert logits_of(decoder, levels, torch.randn(1, 2, 16, 24, 32)).shape == (1, 3, 16, 24, 32)


def test_fine_click_maps_are_bumps_of_one_width_in_tokens() -> None:
    """Their place is that of the voxel after the upsampling with aligned corners; padding leaves nothing."""
    size, fine, token = (12, 16, 20), (6, 8, 10), (4.0, 2.0, 5.0)
    clicks = torch.tensor([[[3.0, 4.0, 5.0], [11.0, 15.0, 19.0], [0.0, 0.0, 0.0]]])
    labels = torch.tensor([[1, 0, -1]])
    maps = fine_click_maps(clicks, labels, size, fine, token, 3, (0.35, 1.0))
    assert maps.shape == (1, 6, *fine)
    axes = [torch.linspace(0, s - 1, f) / t for s, f, t in zip(size, fine, token, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    for row, sigma in ((0, 0.35), (3, 1.0)):
        for label, click in ((1, clicks[0, 0]), (0, clicks[0, 1])):
            square = (place - click / torch.tensor(token)).square().sum(-1)
            same(maps[0, row + label], torch.exp(-square / (2 * sigma**2)), 1e-5)
        assert maps[0, row + 2].abs().max() == 0
    assert fine_click_maps(clicks[:, :0], labels[:, :0], size, fine, token, 3, (1.0,)).abs().max() == 0


def test_the_highest_bump_of_a_label_counts() -> None:
    clicks = torch.tensor([[[1.0, 1.0, 1.0], [6.0, 6.0, 6.0]]])
    grids = ((8, 8, 8), (8, 8, 8), (4.0, 4.0, 4.0), 2, (1.0,))
    both = fine_click_maps(clicks, torch.ones(1, 2), *grids)
    first, second = (fine_click_maps(click[None, None], torch.ones(1, 1), *grids) for click in clicks[0])
    same(both, torch.maximum(first, second))


def test_a_token_is_as_long_on_every_axis_in_mm() -> None:
    """Tokens of 4 x 2 x 2 mm made of 1 x 4 x 4 voxels: a mean token is as many mm along each axis."""
    flat = {**SMALL, "token_stride": (1, 4, 4), "token_aspect": (4, 2, 2)}
    decoder = MaskDecoder(SAM3DConfig(**flat, fine_click_maps=1))
    h, w, d = (voxels * mm for voxels, mm in zip(decoder.token_voxels, (0.5, 0.5, 4.0), strict=True))
    assert h == pytest.approx(w) == pytest.approx(d) == pytest.approx(16 ** (1 / 3))


def test_fine_maps_change_nothing_until_they_are_trained(small: Callable[..., SAM3D]) -> None:
    x = torch.randn(2, 2, 16, 24, 32, dtype=torch.float64)
    x[:, 1] = 0
    x[0, 1, 8, 9, 10] = 2
    without, with_maps = small(), small(fine_click_maps=2)
    with_maps.load_state_dict({**with_maps.state_dict(), **without.state_dict()})
    assert torch.equal(with_maps(x), without(x))
    with torch.no_grad():
        with_maps.mask_decoder.click_map.weight.normal_()  # type: ignore[union-attr]
        difference = (with_maps(x) - without(x)).abs().amax(1)
    assert difference[0, 8, 9, 10] > 1e-6
    assert not hasattr(small(paper=True, fine_click_maps=2).mask_decoder.click_map, "weight")
