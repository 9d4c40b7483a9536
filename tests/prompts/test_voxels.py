"""Prompts on voxels: crops, mirrors and channels agree with what happens to the array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.prompts import PromptCodec, VoxelClick, VoxelPrompts, read_channel
from nnsam3d.prompts.kinds import KINDS

SHAPE = (6, 7, 8)
CODEC = PromptCodec()
voxels = st.tuples(*[st.integers(0, size - 1) for size in SHAPE])
placed = st.dictionaries(voxels, st.integers(0, 5), max_size=8).map(lambda found: VoxelPrompts.of(found.items()))


def as_set(prompts: VoxelPrompts) -> set[VoxelClick]:
    return set(prompts.clicks())


def clicks_in(channels: np.ndarray) -> set[VoxelClick]:
    return as_set(VoxelPrompts(*read_channel(channels[0])))


@given(prompts=placed, axes=st.sets(st.integers(0, 2)), start=voxels)
def test_what_happens_to_the_array_happens_to_its_prompts(prompts: VoxelPrompts, axes: set, start: tuple) -> None:
    channels = CODEC.write(SHAPE, prompts)
    assert channels.shape == (CODEC.num_channels, *SHAPE)
    mirrored = np.flip(channels, [axis + 1 for axis in axes])
    assert clicks_in(mirrored) == as_set(prompts.mirrored(axes, SHAPE))
    size = tuple(length - low for length, low in zip(SHAPE, start, strict=True))
    window = channels[(slice(None), *(slice(low, None) for low in start))]
    assert clicks_in(window) == as_set(prompts.cropped(start, size))
    padded = np.pad(channels, [(0, 0), *((low, 0) for low in start)])
    assert clicks_in(padded) == as_set(prompts.shifted(start))


def test_keys_tell_prompts_apart() -> None:
    one = VoxelPrompts.of([((1, 2, 3), 1)])
    assert one.key() == VoxelPrompts.of([((1, 2, 3), 1)]).key()
    others = ([((1, 2, 3), 0)], [((1, 2, 4), 1)], [], [((1, 2, 3), 1)] * 2)
    assert len({one.key(), *(VoxelPrompts.of(other).key() for other in others)}) == 5
    assert len(one + one) == 2
    assert one.positive.tolist() == one.of_label(1).tolist() == [[1, 2, 3]]


def test_the_maps_of_a_mask_to_start_from_stay_last_when_a_kind_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(KINDS["line"]):  # type: ignore[misc, name-defined]
        kind = "later"
        maps = ("later",)

    monkeypatch.setitem(KINDS, "later", Later)
    maps = PromptCodec(("click", "line", "mask", "later"), labels=3).maps
    assert maps[-2:] == (("mask", 1), ("mask", 2))
    assert ("later", 1) in maps
