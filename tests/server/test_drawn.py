"""Prompts from masks and ranges that viewers send."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage

from nnsam3d.prompts import Box, Click, Lasso, Scribble
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.kinds.checks import MAX_POINTS
from nnsam3d.prompts.kinds.lasso import CORNERS
from nnsam3d.server.drawn import (
    APART,
    AREAS,
    CLICKS,
    MOST,
    SLICES,
    box_prompts,
    lasso_prompts,
    outlines,
    scribble_prompts,
)
from nnsam3d.server.refusal import Refusal

ALL = tuple(KINDS)
pixels = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=30)


def inside(prompts: list, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels of which the prompts speak, with a label that is not background."""
    found = np.zeros(shape, bool)
    for prompt in prompts:
        shown = prompt.shape(np.asarray(prompt.points("lps")), 1)  # positions are those of the array
        found[tuple(KINDS[shown.kind].inside(shown.points_N3, shape).T)] = True
    return found


@given(pixels, st.integers(0, 2), st.tuples(*[st.integers(0, 5)] * 3))
def test_lassos_contain_what_was_drawn_and_its_holes(drawn: set, axis: int, first: tuple[int, int, int]) -> None:
    area = np.zeros((8, 8), bool)
    area[tuple(zip(*drawn, strict=True))] = True
    lassos = lasso_prompts(np.expand_dims(area, axis), first, 1, ALL)
    assume(all(len(lasso.corners) <= CORNERS for lasso in lassos))  # the network gets no more
    numbered, count = ndimage.label(area, np.ones((3, 3)))
    filled = np.any([ndimage.binary_fill_holes(numbered == number) for number in range(1, count + 1)], axis=0)
    whole = np.pad(np.expand_dims(filled, axis), [(low, 0) for low in first])
    np.testing.assert_array_equal(inside(lassos, whole.shape), whole)


def test_a_large_lasso_keeps_its_area() -> None:
    y, x = np.ogrid[:200, :200]
    disk = (y - 90) ** 2 + (x - 110) ** 2 < 80**2
    mask = np.zeros((5, 200, 200), bool)
    mask[3] = disk
    found = inside(lasso_prompts(mask, (0, 0, 0), 1, ALL), mask.shape)
    assert (found != mask).sum() < 0.02 * disk.sum()


def test_areas_apart_and_slices_have_lassos_of_their_own() -> None:
    mask = np.zeros((4, 40, 10), bool)
    mask[1, 2:6, 2:6] = mask[1, 20:26, 2:6] = mask[2, 2:6, 2:6] = True
    lassos = lasso_prompts(mask, (0, 0, 0), 1, ALL)
    assert [round(lasso.corners[0][0]) for lasso in lassos] == [1, 1, 2]
    np.testing.assert_array_equal(inside(lassos, mask.shape), mask)
    thick = np.zeros((50, 60, 60), bool)
    thick[2:48, 5:55, 5:55] = True
    numbers = [lasso.corners[0][0] for lasso in lasso_prompts(thick, (100, 0, 0), 1, ALL)]
    assert len(numbers) == SLICES
    assert (numbers[0], numbers[-1]) == (102, 147)
    assert np.ptp(np.diff(numbers)) <= 1


def test_of_many_areas_the_largest_are_taken() -> None:
    mask = np.zeros((1, 200, 200), bool)
    mask[0, ::3, ::3] = True
    for n in range(AREAS):
        mask[0, 12 * n : 12 * n + 2, 100] = True
    lassos = lasso_prompts(mask, (0, 0, 0), 1, ALL)
    assert len(lassos) == AREAS
    assert all(100.5 in np.array(lasso.corners)[:, 2] for lasso in lassos)


@given(pixels)
def test_every_area_has_one_outline(drawn: set) -> None:
    area = np.zeros((8, 8), bool)
    area[tuple(zip(*drawn, strict=True))] = True
    for curve in outlines(area):
        assert len(curve) >= 4
        assert (curve >= -0.5).all()
        assert (curve <= 7.5).all()


def test_a_scribble_of_any_size() -> None:
    mask = np.zeros((3, 200, 200), bool)
    mask[1, :150, 3:] = True
    (scribble,) = scribble_prompts(mask, (10, 0, 0), 2, ALL)
    assert isinstance(scribble, Scribble)
    voxels = np.array(scribble.path)
    assert len(voxels) == MAX_POINTS
    assert (voxels.min(axis=0) == (11, 0, 3)).all()
    assert (voxels.max(axis=0) == (11, 149, 199)).all()
    assert not scribble.joined
    clicks = scribble_prompts(mask, (10, 0, 0), 2, ("click",))
    assert 1 < len(clicks) <= 4
    assert all(isinstance(click, Click) and click.position[0] == 11 for click in clicks)


@pytest.mark.parametrize(
    ("ends", "low", "high"),
    [
        ([[2, 5], [0, 20], [7, 8]], (2, 0, 7), (4, 19, 7)),
        ([[5, 2], [3, 3], [-4, 99]], (2, 3, 0), (4, 3, 29)),
        ([[19, 20], [39, 40], [29, 30]], (19, 39, 29), (19, 39, 29)),
    ],
)
def test_ranges_are_half_open_and_cut_at_the_image(ends: list, low: tuple, high: tuple) -> None:
    assert box_prompts(ends, (20, 40, 30), 1, ALL) == [Box(low, high, 1)]


def test_what_cannot_be_a_prompt() -> None:
    nothing, something = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    area = np.ones((1, 1, MOST + 1), bool)
    for call, words in (
        (lambda: scribble_prompts(nothing, (0, 0, 0), 1, ALL), "the scribble is empty"),
        (lambda: scribble_prompts(area, (0, 0, 0), 1, ALL), "covers too much of the image: draw a thinner one"),
        (lambda: lasso_prompts(nothing, (0, 0, 0), 1, ALL), "the lasso is empty"),
        (lambda: lasso_prompts(something, (0, 0, 0), 1, ("click",)), "not trained with prompts of type lasso"),
        (lambda: box_prompts([[0, 1]] * 3, (2, 3, 4), 1, ("click", "lasso")), "not trained with prompts of type box"),
        (lambda: box_prompts([[0, 1], [0, 1], [4, 9]], (2, 3, 4), 1, ALL), "outside the image"),
    ):
        with pytest.raises(Refusal, match=words):
            call()
    assert isinstance(lasso_prompts(something, (0, 0, 0), 1, ALL)[0], Lasso)


@given(st.sets(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=40))
def test_without_scribbles_in_the_training_they_are_a_few_clicks_far_from_each_other(drawn: set) -> None:
    mask = np.zeros((31, 31, 31), bool)
    mask[tuple(zip(*drawn, strict=True))] = True
    chosen = [click.position for click in scribble_prompts(mask, (0, 0, 0), 1, ("click",)) if isinstance(click, Click)]
    assert set(chosen) <= {tuple(map(float, voxel)) for voxel in drawn}
    assert 1 <= len(chosen) <= CLICKS
    for one, other in itertools.combinations(chosen, 2):
        assert np.linalg.norm(np.subtract(one, other)) >= APART
