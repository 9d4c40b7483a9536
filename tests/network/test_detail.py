"""The detail branch: convolutions at the voxels beside the transformer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nnsam3d.network import SAM3D, PromptTensors, SAM3DConfig, preset_config
from nnsam3d.network.mask_decoder import resized

from .conftest import SMALL, same

MAPS = 3
STARTS_AT_ZERO = (
    "image_encoder.detail.to_tokens.weight",
    "mask_decoder.detail_map.weight",
    "mask_decoder.voxel_logits.weight",
    "mask_decoder.voxel_map.weight",
)


def batch(size: tuple[int, ...] = (16, 24, 32)) -> torch.Tensor:
    x_BCDHW = torch.randn(2, 2 + MAPS, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_BCDHW[:, 1] = 0
    x_BCDHW[0, 1, 3, 4, 5] = 2
    return x_BCDHW


@pytest.mark.parametrize("stride", [(4, 4, 4), (1, 4, 4), (2, 4, 2), (4, 8, 8)])
@pytest.mark.parametrize("size", [(16, 24, 32), (13, 17, 21)])
def test_a_new_branch_changes_nothing(
    small: Callable[..., SAM3D], stride: tuple[int, int, int], size: tuple[int, ...]
) -> None:
    how = {"token_stride": stride, "fine_click_maps": 2, "extent_maps": MAPS}
    without, with_branch = small(**how), small(**how, detail_dim=4)
    with_branch.load_state_dict({**with_branch.state_dict(), **without.state_dict()})
    same(with_branch(batch(size)), without(batch(size)), 1e-12)


def test_the_paper_has_none(small: Callable[..., SAM3D]) -> None:
    names = small(paper=True, detail_dim=4).state_dict()
    assert not [name for name in names if "detail" in name or "voxel" in name]


@pytest.mark.parametrize("name", STARTS_AT_ZERO)
def test_each_way_out_of_the_branch_matters_and_learns(stirred: Callable[..., SAM3D], name: str) -> None:
    net = stirred(fine_click_maps=1, extent_maps=MAPS, detail_dim=4)
    x = batch()
    with torch.no_grad():
        with_it = net(x)
        weight = dict(net.named_parameters())[name]
        assert weight.count_nonzero() == weight.numel()
        kept = weight.clone()
        weight.zero_()
        assert (net(x) - with_it).abs().max() > 1e-3
        weight.copy_(kept)
    net.train()(x).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_a_voxel_of_the_image_moves_the_logits_there(stirred: Callable[..., SAM3D]) -> None:
    """Without the branch, the decoder sees the image on the fine grid only: a single voxel is half lost."""
    x = batch()
    other = x.clone()
    other[:, 0, 7, 13, 9] += 3
    net = stirred(detail_dim=4)
    with torch.no_grad():
        change = (net(other[:, :2]) - net(x[:, :2])).abs().amax((0, 1))
    d, h, w = (int(n) for n in torch.unravel_index(change.argmax(), change.shape))
    assert max(abs(d - 7), abs(h - 13), abs(w - 9)) <= 3


def test_prompts_are_heard_at_the_voxels_and_none_costs_nothing(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(fine_click_maps=1, extent_maps=MAPS, detail_dim=4)
    x = batch()
    x[:, 2:] = 0
    with torch.no_grad():
        same(net(x[:, :2]), net(x), 1e-12)
        features = net.encode(x[:, :1])
        nobody = torch.zeros(2, 0, 3, dtype=torch.float64)
        alone = net.decode(features, PromptTensors(nobody, nobody[..., 0].long(), None))
        padded = PromptTensors(torch.zeros(2, 2, 3, dtype=torch.float64), torch.full((2, 2), -1), None)
        same(net.decode(features, padded), alone, 1e-12)


def test_features_can_be_kept_between_prompts(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(detail_dim=4)
    features = net.encode(batch()[:, :1])
    assert len(features.tensors()) == 3
    copied = features.with_tensors([one.clone() for one in features.tensors()])
    prompts = PromptTensors(torch.full((2, 1, 3), 5.0, dtype=torch.float64), torch.ones(2, 1, dtype=torch.long), None)
    same(net.decode(copied, prompts), net.decode(features, prompts), 1e-12)


def test_tiny_has_one_and_the_others_take_one() -> None:
    assert preset_config("tiny").has_detail
    assert not preset_config("vit_b").has_detail
    with torch.device("meta"):
        net = SAM3D(preset_config("vit_b", detail_dim=8))
    assert net.mask_decoder.detail_map.weight.shape[:2] == (128, 16)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [-1, 1.5, True, "16"])
def test_other_widths_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="detail_dim"):
        SAM3DConfig(**{**SMALL, "detail_dim": value})


@pytest.mark.parametrize(("there", "here"), [((3, 4, 5), (7, 4, 9)), ((6, 8, 2), (3, 1, 2)), ((1, 2, 3), (4, 2, 5))])
def test_resized_is_trilinear_interpolation(there: tuple[int, ...], here: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *there, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, size=here, mode="trilinear", align_corners=True)
    same(resized(x, here), expected, 1e-12)
