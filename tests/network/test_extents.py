"""Prompts with an extent in the network: dense maps beside the clicks and straight to the logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nnsam3d.network import SAM3D, PromptTensors, SAM3DConfig
from nnsam3d.network.click_channels import ClickChannels
from nnsam3d.network.prompts import with_prompts

from .conftest import SMALL

MAPS = 3
SIZE = SAM3DConfig(**SMALL).patch_size


def batch(maps: int = MAPS, size: tuple[int, ...] = SIZE) -> torch.Tensor:
    x_BCDHW = torch.randn(2, 2 + maps, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_BCDHW[:, 1] = 0
    x_BCDHW[0, 1, 3, 4, 5] = 2
    return x_BCDHW


def test_a_new_network_does_not_hear_them(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(extent_maps=MAPS).eval()
    for part in (net.mask_decoder.extent_map, net.mask_decoder.extent_logits):
        torch.nn.init.zeros_(part.weight)
    x = batch()
    assert torch.equal(net(x), net(x[:, :2]))


def test_maps_that_are_left_out_are_zero(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(extent_maps=MAPS).eval()
    x = batch()
    heard = net(x)
    x[:, 2:] = 0
    assert torch.equal(net(x), net(x[:, :2]))
    assert not torch.equal(net(x), heard)
    with pytest.raises(ValueError, match="prompt channel"):
        net(x[:, :3])
    with pytest.raises(ValueError, match="prompt channel"):
        net.train()(x[:, :2])


def test_any_size_of_image_hears_them(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(extent_maps=MAPS).eval()
    odd = tuple(n + 3 for n in SIZE)
    x = batch(size=odd)
    assert net(x).shape[2:] == odd


@pytest.mark.parametrize("at_voxels", [False, True])
def test_both_ways_learn(stirred: Callable[..., SAM3D], at_voxels: bool) -> None:
    net = stirred(extent_maps=MAPS, extents_at_voxels=at_voxels).train()
    net(batch()).square().sum().backward()
    for part in (net.mask_decoder.extent_map, net.mask_decoder.extent_logits):
        assert part.weight.grad.abs().sum() > 0
    assert {"mask_decoder.extent_map.", "mask_decoder.extent_logits."} <= set(net.starts_at_zero)


def test_the_way_to_the_logits_is_as_fine_as_the_voxels(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(extent_maps=MAPS, extents_at_voxels=True).eval()
    torch.nn.init.zeros_(net.mask_decoder.extent_map.weight)
    x = batch()
    moved = x.clone()
    moved[:, 2, 8, 9, 10] += 1
    changed = torch.nonzero((net(moved) - net(x)).abs().sum((0, 1)) > 1e-12)
    assert changed.min(0).values.tolist() == [7, 8, 9]
    assert changed.max(0).values.tolist() == [9, 10, 11]


def test_a_wrong_number_of_maps_is_an_error(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(extent_maps=MAPS).eval()
    prompts = PromptTensors.read(batch()[:, 1:-1], 4)
    with pytest.raises(ValueError, match="expected 3 maps"):
        net.segment(batch()[:, :1], prompts)
    with pytest.raises(ValueError, match="extent_maps"):
        SAM3DConfig(**SMALL, extent_maps=-1)


def test_an_item_that_starts_from_a_mask_has_nothing_else() -> None:
    prompts = PromptTensors.read(batch()[:, 1:], 4)
    mask = torch.ones(2, 1, *SIZE, dtype=torch.float64)
    started = prompts.started(torch.tensor([True, False]), mask)
    assert (started.labels_BN[0] == -1).all()
    assert started.dense_BMDHW is not None
    assert prompts.dense_BMDHW is not None
    assert not started.dense_BMDHW[0, :2].any()
    assert (started.dense_BMDHW[0, 2] == 1).all()
    assert torch.equal(started.labels_BN[1], prompts.labels_BN[1])
    assert torch.equal(started.dense_BMDHW[1], prompts.dense_BMDHW[1])
    empty = prompts.empty()
    assert (empty.labels_BN == -1).all()
    assert not empty.dense_BMDHW.any()


def test_channels_and_tensors_say_the_same() -> None:
    x = batch()
    assert torch.equal(with_prompts(x, PromptTensors.read(x[:, 1:], 4)), x)


def test_other_networks_get_the_maps_as_channels() -> None:
    x = batch()
    channels = ClickChannels(2, (1, 1, 1), MAPS)
    out = channels(x)
    assert out.shape[1] == 1 + 2 + MAPS
    assert torch.equal(out[:, 3:], x[:, 2:])
    x[:, 2:] = 0
    assert torch.equal(channels(x), channels(x[:, :2]))
