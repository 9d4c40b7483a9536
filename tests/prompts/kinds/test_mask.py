"""A mask to start from, in the properties of all kinds: it has no points, but a label map that is seen on an array."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.prompts import CasePrompts, MaskPrompt, VoxelPrompts
from nnsam3d.prompts.voxels import VoxelMask

from .drawn import EXTENT, GRIDS, SHAPE_ZYX, drawn
from .test_contract import CODEC, SPACES, one_on_array

seeds = st.integers(0, 2**31)
starts = st.tuples(*[st.one_of(st.integers(-6, 12), st.sampled_from([-200, 300]))] * 3)
sizes = st.tuples(*[st.integers(1, 9)] * 3)
MASKS = [number for number, (name, _) in enumerate(CODEC.maps) if name == "mask"]


def mask(seed: int) -> VoxelMask:
    """Of a label map with axes in another order, of other lengths, beyond which the array reaches."""
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, 3, rng.integers(2, 9, 3))
    d, h, w = (int(axis) for axis in rng.permutation(3))
    places = [rng.integers(-1, label_map.shape[a], n) for a, n in zip((d, h, w), SHAPE_ZYX, strict=True)]
    return VoxelMask(label_map, (d, h, w), (places[0], places[1], places[2]))


def prompts_with_mask(seed: int) -> VoxelPrompts:
    """Beside a prompt of another kind."""
    return replace(one_on_array(EXTENT[seed % len(EXTENT)], seed), mask=mask(seed))


def masks_of(prompts: VoxelPrompts, size: tuple[int, ...] = SHAPE_ZYX) -> np.ndarray:
    return CODEC.dense(size, prompts)[MASKS]


@given(seed=seeds)
def test_the_array_holds_the_label_of_every_place(seed: int) -> None:
    one = mask(seed)
    array = one.array()
    for voxel in itertools.product(*(range(0, n, 3) for n in SHAPE_ZYX)):
        place = dict(zip(one.axes, (along[at] for along, at in zip(one.places, voxel, strict=True)), strict=True))
        known = min(place.values()) >= 0
        assert array[voxel] == (one.label_map_ZYX[place[0], place[1], place[2]] if known else 0)
    found = masks_of(prompts_with_mask(seed))
    np.testing.assert_array_equal(found == 1, [array == label for label in (1, 2)])
    np.testing.assert_array_equal(np.abs(found), 1)


@given(seed=seeds, start=starts, size=sizes)
def test_maps_of_a_window_are_the_window_of_the_maps(seed: int, start: tuple, size: tuple) -> None:
    prompts = prompts_with_mask(seed)
    local, whole = masks_of(prompts.cropped(start, size), size), masks_of(prompts)
    for voxel in itertools.product(*map(range, size)):
        at = tuple(low + n for low, n in zip(start, voxel, strict=True))
        inside = all(0 <= n < length for n, length in zip(at, SHAPE_ZYX, strict=True))
        expected = whole[(slice(None), *at)] if inside else [-1, -1]
        np.testing.assert_array_equal(local[(slice(None), *voxel)], expected)


@given(seed=seeds, offset=st.tuples(*[st.integers(0, 4)] * 3))
def test_a_padded_array_holds_it_at_its_place(seed: int, offset: tuple) -> None:
    prompts = prompts_with_mask(seed)
    size = tuple(n + more for n, more in zip(SHAPE_ZYX, offset, strict=True))
    padded = np.pad(masks_of(prompts), [(0, 0), *((more, 0) for more in offset)], constant_values=-1)
    np.testing.assert_array_equal(masks_of(prompts.shifted(offset), size), padded)


@given(seed=seeds, axes=st.sets(st.integers(0, 2)))
def test_mirrored_maps_are_maps_of_the_mirrored(seed: int, axes: set) -> None:
    prompts = prompts_with_mask(seed)
    flipped = masks_of(prompts.mirrored(axes, SHAPE_ZYX))
    np.testing.assert_array_equal(flipped, np.flip(masks_of(prompts), [axis + 1 for axis in axes]))


@given(seed=seeds, order=st.permutations(range(3)))
def test_transposed_maps_are_maps_of_the_transposed(seed: int, order: list) -> None:
    one = mask(seed)
    d, h, w = order
    turned = replace(one, axes=(one.axes[d], one.axes[h], one.axes[w]), places=tuple(one.places[a] for a in order))
    np.testing.assert_array_equal(turned.array(), one.array().transpose(order))


@given(seed=seeds, start=starts, size=sizes, axes=st.sets(st.integers(0, 2)))
def test_a_key_is_of_what_is_seen(seed: int, start: tuple, size: tuple, axes: set) -> None:
    """One window, got in two ways, is cached once."""
    prompts = prompts_with_mask(seed)
    own = prompts.cropped(start, size).mirrored(axes, size)
    low = [n - a - b if axis in axes else a for axis, (n, a, b) in enumerate(zip(SHAPE_ZYX, start, size, strict=True))]
    other = prompts.mirrored(axes, SHAPE_ZYX).cropped(low, size)
    assert own.mask is not None
    assert other.mask is not None
    assert own.key()[-1] == other.key()[-1] == replace(own, mask=VoxelMask.of(own.mask.array())).key()[-1]
    label_map = np.where(own.mask.array() == 0, 1, 0).astype(np.int16)
    assert replace(own, mask=VoxelMask.of(label_map)).key() != own.key()


@given(seed=seeds)
def test_it_stays_when_prompts_are_added(seed: int) -> None:
    prompts, more = prompts_with_mask(seed), one_on_array("click", seed)
    assert (prompts + more).mask is prompts.mask
    assert (more + prompts).mask is prompts.mask


@pytest.mark.parametrize("grid_name", GRIDS)
@given(seed=seeds)
def test_its_file_is_the_same_in_every_space(grid_name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = CasePrompts("c", "voxel", [drawn(kind, rng) for kind in (*EXTENT, "mask", "mask")])
    for space in SPACES:
        moved = prompts.to(space, GRIDS[grid_name])
        assert moved.masks == prompts.masks
        assert moved.kinds == prompts.kinds
        assert all(isinstance(prompt, MaskPrompt) for prompt in moved.prompts[-2:]), "in their order"
