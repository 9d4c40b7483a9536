"""The default of a model follows its training data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nnsam3d.training.components import suggested_components


@pytest.mark.parametrize(("lesions", "specks", "suggested"), [(1, 0, "prompted"), (2, 5, "prompted"), (4, 0, "all")])
def test_many_large_components_are_all_meant(lesions: int, specks: int, suggested: str) -> None:
    segmentation = np.zeros((1, 10, 10, 90), np.int16)
    for number in range(lesions):
        segmentation[0, 2:8, 2:8, 10 * number : 10 * number + 6] = 1
    for number in range(specks):
        segmentation[0, 0, 0, 50 + 4 * number] = 1
    cases = {"a": segmentation, "b": segmentation, "c": np.zeros_like(segmentation)}
    dataset = SimpleNamespace(identifiers=list(cases), load_case=lambda name: (None, cases[name], None, {}))
    assert suggested_components(dataset, (1, 2)) == suggested


def test_what_lies_inside_a_region_joins_its_parts() -> None:
    segmentation = np.zeros((1, 10, 10, 90), np.int16)
    segmentation[0, 2:8, 2:8, 2:80] = 2
    for number in range(4):
        segmentation[0, 2:8, 2:8, 20 * number + 2 : 20 * number + 8] = 1
    dataset = SimpleNamespace(identifiers=["a"], load_case=lambda name: (None, segmentation, None, {}))
    assert suggested_components(dataset, (1,)) == "all"
    assert suggested_components(dataset, (1,), {1: frozenset({1, 2})}) == "prompted"
