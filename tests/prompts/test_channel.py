"""Clicks into the prompt channel and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsam3d.prompts import PromptError, place_clicks, read_channel, write_channel

SHAPE = (5, 6, 7)


def as_dict(channel: np.ndarray) -> dict[tuple, int]:
    clicks, labels = read_channel(channel)
    return {tuple(c): int(k) for c, k in zip(clicks.tolist(), labels, strict=True)}


def test_the_middle_between_two_voxels_is_stable_against_noise() -> None:
    """2 mm resampled to 1 mm: an integer position becomes k + 0.5, mm or voxels, whatever the last digit says."""
    for noise in (-1e-4, -1e-9, 0.0, 1e-9, 1e-4):
        assert list(place_clicks((9, 9, 9), [[2.5 + noise, 3.5 - noise, 4.0]], [1])) == [(3, 4, 4)]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
def test_round_trip_in_raster_order(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(np.prod(SHAPE), n, replace=False))
    clicks = np.stack(np.unravel_index(flat, SHAPE), 1)
    labels = rng.integers(0, 4, n)
    channel = write_channel(SHAPE, clicks + rng.uniform(-0.49, 0.49, clicks.shape), labels)
    assert channel.shape == SHAPE
    assert channel.dtype == np.float32
    back_clicks, back_labels = read_channel(channel)
    assert np.array_equal(back_clicks, clicks)
    assert np.array_equal(back_labels, labels)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30))
def test_colliding_clicks_are_never_dropped(seed: int, n: int) -> None:
    """Clicks of n different labels crowded into a few voxels: each is still there, and near."""
    rng = np.random.default_rng(seed)
    clicks = rng.uniform([-0.5, 2, 2], [0.5, 3, 4], (n, 3))
    found = as_dict(write_channel((2, 9, 9), clicks, np.arange(n)))
    assert sorted(found.values()) == list(range(n))
    for voxel, label in found.items():
        assert np.linalg.norm(np.asarray(voxel) - clicks[label]) < 1.5 + np.sqrt(n)


def test_the_loser_moves_to_the_nearest_free_voxel() -> None:
    assert as_dict(write_channel(SHAPE, [[2, 2, 2], [2, 2, 2.4]], [0, 1])) == {(2, 2, 2): 0, (2, 2, 3): 1}
    # The voxel beside it belongs to a third click, which came later but needs no moving.
    found = as_dict(write_channel(SHAPE, [[2, 2, 2], [2, 2.3, 2.4], [2, 2, 3]], [0, 1, 2]))
    assert found == {(2, 2, 2): 0, (2, 3, 2): 1, (2, 2, 3): 2}


def test_equal_positions_the_later_wins() -> None:
    assert as_dict(write_channel(SHAPE, [[1, 1, 1], [1, 1, 1]], [2, 0])) == {(1, 1, 1): 0}


def test_equal_labels_merge() -> None:
    assert as_dict(write_channel(SHAPE, [[1, 1, 1], [1.2, 1, 1], [1, 1, 0.9]], [2, 2, 2])) == {(1, 1, 1): 2}


def test_outer_half_voxel_is_clipped_and_halves_round_up() -> None:
    found = as_dict(write_channel(SHAPE, [[-0.5, 0, 0], [4.5, 5.5, 6.5], [0.5, 3, 3]], [1, 2, 3]))
    assert found == {(0, 0, 0): 1, (4, 5, 6): 2, (1, 3, 3): 3}


@pytest.mark.parametrize("bad", [[0, 0, 6.6], [-0.6, 0, 0], [0, np.nan, 0], [0, 0, np.inf]])
def test_outside_is_an_error_that_names_the_click(bad: list[float]) -> None:
    with pytest.raises(PromptError, match=r"click 2 .*\(5, 6, 7\)"):
        write_channel(SHAPE, [[0, 0, 0], bad], [1, 1])


@pytest.mark.parametrize("label", [-1, 1.5, np.nan, True])
def test_impossible_labels(label) -> None:
    with pytest.raises(PromptError, match="click 1: label"):
        write_channel(SHAPE, [[0, 0, 0]], [label])


def test_label_too_large_for_float32() -> None:
    largest = 2**24 - 1
    assert as_dict(write_channel(SHAPE, [[0, 0, 0]], [largest])) == {(0, 0, 0): largest}
    with pytest.raises(PromptError, match="too large"):
        write_channel(SHAPE, [[0, 0, 0]], [largest + 1])


def test_one_label_for_every_click() -> None:
    with pytest.raises(PromptError, match="1 clicks but 2 labels"):
        write_channel(SHAPE, [[0, 0, 0]], [1, 2])


def test_full_grid_is_an_error() -> None:
    with pytest.raises(PromptError, match="no free voxel"):
        write_channel((1, 1, 2), [[0, 0, 0], [0, 0, 0.1], [0, 0, 0.2]], [0, 1, 2])


def test_no_clicks() -> None:
    channel = write_channel(SHAPE, np.zeros((0, 3)), [])
    assert not channel.any()
    assert read_channel(channel)[0].shape == (0, 3)


def test_interpolated_channel_is_noticed() -> None:
    channel = write_channel(SHAPE, [[1, 1, 1]], [1])
    with pytest.raises(PromptError, match="interpolated"):
        read_channel(channel * 0.7)
