"""Balls around clicks: where they are, how high, and that no click means no channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnsam3d.network.click_channels import ClickChannels, WithClickChannels, ball_radius


def channels_of(clicks: dict[tuple[int, int, int], int], radius=(2, 3, 3), labels=3, shape=(9, 14, 14)) -> torch.Tensor:
    x = torch.zeros(1, 2, *shape)
    x[0, 0] = torch.rand(shape)
    for voxel, label in clicks.items():
        x[(0, 1, *voxel)] = 1 + label
    return ClickChannels(labels, radius)(x), x


def test_a_ball_is_a_distance_transform_in_its_labels_channel():
    out, x = channels_of({(4, 6, 7): 2})
    assert out.shape == (1, 4, 9, 14, 14)
    assert torch.equal(out[:, 0], x[:, 0])
    assert not out[:, 1:3].any()
    mask = np.ones((9, 14, 14), bool)
    mask[4, 6, 7] = False
    expected = 1 - ndimage.distance_transform_edt(mask, sampling=(1 / 3, 1 / 4, 1 / 4))
    np.testing.assert_allclose(out[0, 3].numpy(), np.clip(expected, 0, None), atol=1e-6)


def test_background_clicks_have_a_channel_and_no_click_means_zero():
    out, _ = channels_of({(0, 0, 0): 0, (8, 13, 13): 1})
    assert out[0, 1, 0, 0, 0] == 1
    assert out[0, 2, 8, 13, 13] == 1
    assert not out[0, 3].any()
    nothing, _ = channels_of({})
    assert not nothing[:, 1:].any()


def test_close_clicks_add_up_to_one_at_most():
    out, _ = channels_of({(4, 6, 6): 1, (4, 6, 7): 1, (4, 7, 6): 1})
    assert out.max() == 1


def test_on_a_cpu_balls_are_those_of_the_convolution() -> None:
    """A convolution with a ball of 9³ voxels took longer on a CPU than the U-Net behind it, most of all in bfloat16."""
    rng = np.random.default_rng(0)
    x = torch.zeros(2, 2, 9, 14, 14)
    for _ in range(12):
        x[(rng.integers(2), 1, *rng.integers(0, (9, 14, 14)))] = rng.integers(1, 4)
    channels = ClickChannels(3, (2, 3, 3))
    clicked = torch.stack([x[:, 1] == value for value in (1, 2, 3)], 1).float()
    expected = torch.nn.functional.conv3d(clicked.flatten(0, 1)[:, None], channels.ball, padding=(2, 3, 3)).clamp(max=1)
    torch.testing.assert_close(channels(x)[:, 1:], expected.reshape(clicked.shape), atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert channels(x).dtype == torch.float32


def test_mirroring_commutes_as_test_time_augmentation_needs_it():
    out, x = channels_of({(1, 6, 3): 1, (5, 2, 9): 0})
    module = ClickChannels(3, (2, 3, 3))
    for axis in (2, 3, 4):
        torch.testing.assert_close(module(x.flip(axis)).flip(axis), out)


@pytest.mark.parametrize(
    ("spacing", "radius"), [((1, 1, 1), (4, 4, 4)), ((3, 1, 1), (1, 4, 4)), ((30, 1, 1), (1, 4, 4))]
)
def test_the_ball_is_round_in_mm(spacing, radius):
    assert ball_radius(spacing) == radius


def test_it_has_no_weights_and_shows_nnunet_the_decoder():
    inner = torch.nn.Module()
    inner.decoder = torch.nn.Identity()
    network = WithClickChannels(ClickChannels(2, (1, 1, 1)), inner)
    assert not network.state_dict()
    network.decoder.deep_supervision = True
    assert inner.decoder.deep_supervision
