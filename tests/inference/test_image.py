"""One image with any clicks: scopes, binding, what no click and only negative clicks mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.prompts import CasePrompts, Click, PromptError

from .conftest import PATCH, volume, write_model

SHAPE = (20, 40, 44)  # z, y, x


def prompts(*clicks: tuple[tuple[float, float, float], int | str]) -> CasePrompts:
    return CasePrompts("case", "voxel", tuple(Click(position, label) for position, label in clicks))


def prepare(model: Model, shape: tuple[int, int, int] = SHAPE, **more: Any) -> PreparedImage:
    return PreparedImage(model, volume(shape)[None], {"spacing": [1.0, 1.0, 1.0]}, **more)


def test_clicked_looks_around_the_clicks_only(model: Model) -> None:
    image = prepare(model)
    windows = image.segment(prompts(((12, 12, 8), 1))).windows
    assert 1 <= windows <= image.stock_windows


def test_far_away_is_background_and_certain(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.inference.region._Canvas.grow", lambda canvas: False)  # a noisy network would
    image = prepare(model, (30, 90, 90))
    result = image.segment(prompts(((12, 12, 8), 1), ((80, 80, 20), 2)), probabilities=True)
    assert result.windows == 2
    assert result.probabilities is not None
    assert result.probabilities.shape == (3, 30, 90, 90)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    middle = (slice(None), slice(40, 60), slice(40, 60))
    assert not result.label_map[middle].any()
    assert (result.probabilities[(0, *middle)] > 0.999).all()


def test_one_window_is_the_sliding_window(model: Model) -> None:
    """An image of one patch: both scopes look at the same thing, so they must say the same."""
    image = prepare(model, PATCH)
    clicks = prompts(((12, 12, 8), 1), ((3, 4, 5), 0))
    assert image.stock_windows == 1
    ours, stock = (image.segment(clicks, scope, probabilities=True) for scope in ("clicked", "everything"))
    assert ours.probabilities is not None
    assert stock.probabilities is not None
    # nnU-Net adds up in half precision, which is coarse in a window's corners, where weights are small
    middle = (slice(None), slice(4, -4), slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(ours.probabilities[middle], stock.probabilities[middle], atol=0.02)
    assert (ours.label_map != stock.label_map)[middle[1:]].mean() < 0.01


def test_clicks_bind_in_both_scopes_and_on_demand_only(model: Model) -> None:
    image = prepare(model)
    clicks = prompts(((12, 12, 8), 1), ((13, 12, 8), 2), ((30, 12, 8), 2), ((31, 12, 8), 0))
    for scope in ("clicked", "everything"):
        bound = image.segment(clicks, scope).label_map
        assert [int(bound[8, 12, i]) for i in (12, 13, 30, 31)] == [1, 2, 2, 0]
    free = image.segment(clicks, "everything", bind=False).label_map
    assert [int(free[8, 12, i]) for i in (12, 13, 30, 31)] != [1, 2, 2, 0]


def test_no_clicks_and_only_negative_clicks_mean_the_sliding_window(model: Model) -> None:
    image = prepare(model)
    for clicks in (None, CasePrompts("case", "voxel"), prompts(((12, 12, 8), 0))):
        clicked = image.segment(clicks)
        everything = image.segment(clicks, "everything")
        np.testing.assert_array_equal(clicked.label_map, everything.label_map)
        assert clicked.windows == image.stock_windows
        assert not image.segment(clicks, automatic=False).label_map.any()


def test_a_negative_click_in_the_window_reaches_the_network(model: Model) -> None:
    image = prepare(model, PATCH)
    one = image.segment(prompts(((12, 12, 8), 1)), probabilities=True, bind=False)
    two = image.segment(prompts(((12, 12, 8), 1), ((3, 4, 5), 0)), probabilities=True, bind=False)
    assert one.probabilities is not None
    assert two.probabilities is not None
    assert np.abs(one.probabilities - two.probabilities).max() > 1e-3


def test_a_click_on_an_enclosing_region_does_not_erase_what_lies_in_it(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    image = prepare(Model(write_model(tmp_path / "model", labels=regions), mirroring=False), PATCH)
    result = image.segment(prompts(((12, 12, 8), "core"), ((14, 12, 8), "core"), ((13, 12, 8), "whole")))
    assert result.label_map[8, 12, 12] == result.label_map[8, 12, 14] == 2
    assert result.label_map[8, 12, 13] in (1, 2)


def test_errors_name_the_click(model: Model) -> None:
    image = prepare(model)
    with pytest.raises(PromptError, match="click 2 at"):
        image.segment(prompts(((12, 12, 8), 1), ((12, 12, 80), 1)))
    with pytest.raises(PromptError, match="unknown label 'kidney'"):
        image.segment(prompts(((12, 12, 8), "kidney")))


@pytest.mark.parametrize("scope", ["clicked", "everything"])
def test_one_rule_for_clicks_in_one_voxel(model: Model, scope: str) -> None:
    """On the raw grid: the last one counts, and exact or rounded the same clicks give the same mask."""
    image = PreparedImage(model, volume(SHAPE)[None], {"spacing": [1.7, 0.8, 0.8]})

    def segment(*clicks: tuple[tuple[float, float, float], int]) -> np.ndarray:
        return image.segment(prompts(*clicks), scope).label_map

    negative_last = segment(((24.0, 20.0, 9.0), 1), ((24.0, 20.0, 9.0), 0), ((10.0, 12.0, 5.0), 2))
    np.testing.assert_array_equal(
        segment(((24.2, 20.3, 9.0), 1), ((23.8, 19.9, 8.6), 0), ((10.4, 11.6, 5.0), 2)), negative_last
    )
    np.testing.assert_array_equal(segment(((24.0, 20.0, 9.0), 0), ((10.0, 12.0, 5.0), 2)), negative_last)
    positive_last = segment(((23.8, 19.9, 8.6), 0), ((24.2, 20.3, 9.0), 1))
    np.testing.assert_array_equal(positive_last, segment(((24.0, 20.0, 9.0), 1)))
    assert positive_last[9, 20, 24] == 1


def test_a_click_that_finds_nothing_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        model.networks[0],
        "decode",
        lambda features, prompts: torch.tensor([5.0, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *PATCH),
    )
    result = prepare(model).segment(prompts(((12, 12, 8), 1), ((30, 30, 9), 0), ((20, 30, 9), 2)))
    assert result.ignored_clicks == (1, 3)
    assert [text.split(";")[0] for text in result.remarks] == [
        f"the network found nothing at click {n}" for n in (1, 3)
    ]
    assert (result.label_map > 0).sum() == 2, "they bind all the same"


@pytest.mark.parametrize("scope", ["clicked", "everything"])
def test_an_answer_that_is_no_number_is_no_mask(model: Model, scope: str) -> None:
    with torch.no_grad():
        next(model.networks[0].mask_decoder.parameters()).fill_(np.nan)
    with pytest.raises(UserError, match="NaN"):
        prepare(model).segment(prompts(((12, 12, 8), 1)), scope)


def test_it_depends_on_image_and_clicks_only(model: Model) -> None:
    """Not on what was asked before, nor on what is still kept."""
    first = prompts(((12, 12, 8), 1))
    second = prompts(((12, 12, 8), 1), ((40, 35, 15), 2), ((20, 12, 8), 0))
    used = prepare(model, cache_bytes=2**30)
    for clicks in (second, first, None, second, first):
        used.segment(clicks, automatic=False)
    for clicks in (first, second):
        np.testing.assert_array_equal(used.segment(clicks).label_map, prepare(model).segment(clicks).label_map)
