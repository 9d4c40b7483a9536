"""Logits of windows: the stock window's, averaged, and kept where clicks change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nnsam3d.inference.model import Model
from nnsam3d.inference.windows import Cache, Windows
from nnsam3d.prompts import VoxelPrompts

from .conftest import PATCH, ArrayVolume, volume

CLICKS = VoxelPrompts.of([((8, 12, 12), 1), ((2, 3, 4), 0)])
NO_CLICKS = VoxelPrompts.of()


def first(number: int) -> VoxelPrompts:
    return VoxelPrompts(CLICKS.voxels_N3[:number], CLICKS.labels_N[:number])


def windows(model: Model, shape: tuple[int, int, int] = (20, 40, 30), cache_bytes: int = 0) -> Windows:
    return Windows(model, ArrayVolume(volume(shape)[None]), cache_bytes)


def stock_logits(model: Model, image_CDHW: np.ndarray, clicks: VoxelPrompts) -> np.ndarray:
    """One window through the forward pass that nnU-Net calls."""
    channel = np.zeros((1, *image_CDHW.shape[1:]), np.float32)
    channel[(0, *clicks.voxels_N3.T)] = 1 + clicks.labels_N
    with torch.inference_mode():
        x = torch.from_numpy(np.concatenate([image_CDHW, channel]))[None]
        return np.mean([network(x)[0].numpy() for network in model.networks], axis=0)


def test_a_window_is_the_stock_one(model: Model) -> None:
    made = windows(model)
    start = (2, 10, 4)
    clicks = CLICKS.shifted(start)
    expected = stock_logits(model, made.image(start), CLICKS)
    np.testing.assert_allclose(made.logits(start, clicks), expected, rtol=1e-4, atol=1e-4)
    without = made.logits(start, NO_CLICKS)
    assert np.abs(without - expected).max() > 0.01, "this network does not listen to its clicks"


def test_clicks_outside_the_window_are_not_its_business(model: Model) -> None:
    made = windows(model)
    outside = VoxelPrompts.of([((19, 5, 5), 1), ((5, 39, 5), 2)])
    np.testing.assert_array_equal(made.logits((0, 0, 0), outside), made.logits((0, 0, 0), NO_CLICKS))
    assert made.decoded == 1, "the same clicks inside, so nothing to compute again"


def test_folds_are_averaged_under_the_same_clicks(model_folder: Path) -> None:
    both = Model(model_folder, [0, 1], mirroring=False)
    single = [windows(Model(model_folder, [fold], mirroring=False)).logits((0, 0, 0), CLICKS) for fold in (0, 1)]
    assert np.abs(single[0] - single[1]).max() > 0.01
    np.testing.assert_allclose(windows(both).logits((0, 0, 0), CLICKS), np.mean(single, axis=0), atol=1e-5)


def test_mirroring_is_nnunets(model_folder: Path) -> None:
    mirrored = Model(model_folder, [0])
    assert mirrored.mirror_axes == (0, 1, 2)
    made = windows(mirrored, PATCH)
    channel = np.zeros((1, *PATCH), np.float32)
    channel[(0, *CLICKS.voxels_N3.T)] = 1 + CLICKS.labels_N
    mirrored.predictor.network = mirrored.networks[0]
    with torch.inference_mode():
        x = torch.from_numpy(np.concatenate([made.image((0, 0, 0)), channel]))[None]
        expected = mirrored.predictor._internal_maybe_mirror_and_predict(x)[0].numpy()
    np.testing.assert_allclose(made.logits((0, 0, 0), CLICKS), expected, atol=1e-4)
    assert made.encoded == made.decoded == 8


def test_small_images_are_padded_as_nnunet_does_it(model: Model) -> None:
    made = windows(model, (9, 40, 21))
    assert made.shape == (16, 40, 24)
    assert made.offset == (3, 0, 1)
    for first in (0, 16):
        window = made.image((0, first, 0))
        assert window.shape == (1, 16, 24, 24)
        assert not window[:, :3].any()
        assert not window[:, 12:].any()
        assert window[:, 3:12, :, 1:22].all()


def test_a_further_click_only_decodes(model: Model) -> None:
    made = windows(model, cache_bytes=2**30)
    for n in range(3):
        made.logits((0, 0, 0), first(n))
    assert (made.encoded, made.decoded) == (1, 3)
    made.logits((0, 0, 0), first(1))
    assert (made.encoded, made.decoded) == (1, 3), "an undone click costs nothing"


def test_kept_and_fresh_features_give_the_identical_logits(model: Model) -> None:
    kept = windows(model, cache_bytes=2**30)
    kept.logits((0, 0, 0), NO_CLICKS)
    np.testing.assert_array_equal(kept.logits((0, 0, 0), CLICKS), windows(model).logits((0, 0, 0), CLICKS))


@pytest.mark.parametrize("limit", [0, 10, 25, 1000])
def test_the_cache_keeps_its_bound_and_the_latest(limit: int) -> None:
    cache = Cache(limit)
    made: list[int] = []

    def value(key: int) -> int:
        return cache.get(key, lambda: made.append(key) or key, lambda _: 10)

    for key in (1, 2, 1, 3, 1):
        assert value(key) == key
        assert cache.used <= limit
    # 2 is the one that was not used for the longest time
    assert made == {0: [1, 2, 1, 3, 1], 10: [1, 2, 1, 3, 1], 25: [1, 2, 3], 1000: [1, 2, 3]}[limit]
    cache.clear()
    assert cache.used == 0


def test_a_value_above_the_bound_is_not_kept() -> None:
    cache = Cache(15)
    cache.get("small", lambda: 1, lambda _: 10)
    assert cache.get("large", lambda: 2, lambda _: 16) == 2
    assert cache.used == 10
    assert cache.get("small", lambda: 3, lambda _: 10) == 1
