"""Clicks and cases."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.prompts import CasePrompts, Click, PromptError


def test_numpy_values_become_plain_ones() -> None:
    click = Click(np.array([1, 2, 3], np.float32), np.int16(4))
    assert click == Click((1.0, 2.0, 3.0), 4)
    assert [type(v) for v in (*click.position, click.label)] == [float, float, float, int]


@pytest.mark.parametrize(
    "position",
    [(1, 2), (1, 2, 3, 4), "123", None, 5, (1, 2, np.nan), (1, 2, "3"), (1, 2, True), (1, 2, 10**400)],
)
def test_bad_positions(position) -> None:
    with pytest.raises(PromptError, match="three finite numbers"):
        Click(position, 1)


@pytest.mark.parametrize("label", [None, "", -1, 1.0, True, [1]])
def test_bad_labels(label) -> None:
    with pytest.raises(PromptError, match="label must be"):
        Click((0, 0, 0), label)


def test_unknown_space() -> None:
    with pytest.raises(PromptError, match='"voxel", "lps", "ras"'):
        CasePrompts("a", "mni")  # type: ignore[arg-type]


def test_clicks_is_another_name_of_prompts() -> None:
    clicks = (Click((1, 2, 3), "tumour"), Click((4, 5, 6), 0))
    assert CasePrompts("case", "voxel", clicks=clicks) == CasePrompts("case", "voxel", clicks)
