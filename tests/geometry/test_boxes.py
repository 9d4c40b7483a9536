"""Boxes of an array: what is computed with them, compared with masks."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import box_between, hull, moved, overlap, touch
from nnsam3d.prompts.components import Components, bounding_box

SHAPE = (9, 8, 7)


def boxes(seed: int) -> tuple[Slices, Slices]:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [n - 1 for n in SHAPE], (2, 3))
    high = rng.integers(low + 1, SHAPE, endpoint=True)
    return box_between(low[0], high[0]), box_between(low[1], high[1])


def mask(*boxes: Slices) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    for box in boxes:
        found[box] = True
    return found


@pytest.mark.parametrize("seed", range(40))
def test_boxes_are_those_of_their_masks(seed: int) -> None:
    one, other = boxes(seed)
    assert hull([one, other]) == bounding_box(mask(one, other))
    assert touch(one, other) == touch(other, one) == (len(Components(mask(one, other))) == 1)
    shared = mask(one) & mask(other)
    found = overlap(one, other)
    assert found == (bounding_box(shared[other]) if shared.any() else None)
    if found is not None:
        assert moved(found, [side.start for side in other]) == bounding_box(shared)


def test_a_box_is_made_of_plain_numbers() -> None:
    box = moved(box_between(np.zeros(3, np.int32), np.full(3, 2)), np.ones(3, np.int64))
    assert {type(end) for side in box for end in (side.start, side.stop)} == {int}
