"""Which labels a click may carry."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.prompts import PromptError, click_labels, resolve_label

REGIONS = {
    "labels": {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
}


def test_plain_labels_without_ignore() -> None:
    assert click_labels({"labels": {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}}) == {
        "background": 0,
        "organ": 1,
        "lesion": 2,
    }


def test_regions_give_their_class_order() -> None:
    assert click_labels(REGIONS) == {"background": 0, "whole tumour": 1, "core": 2, "enhancing": 3}
    other = REGIONS | {"regions_class_order": [7, 5, 3]}
    assert click_labels(other) == {"background": 0, "whole tumour": 7, "core": 5, "enhancing": 3}


def test_agrees_with_nnunets_label_manager() -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    manager = LabelManager(REGIONS["labels"], REGIONS["regions_class_order"])
    names = [name for name in click_labels(REGIONS) if name != "background"]
    assert len(manager.foreground_regions) == len(names)
    for channel, name in enumerate(names):
        # The region's own voxels: in this region and in none that is written over it later.
        logits = np.zeros((3, 1, 1, 1), np.float32)
        logits[channel] = 1
        written = manager.convert_probabilities_to_segmentation(logits)
        assert int(np.asarray(written).item()) == click_labels(REGIONS)[name]


def test_lists_of_one_are_plain_labels() -> None:
    assert click_labels({"labels": {"background": 0, "organ": [2]}}) == {"background": 0, "organ": 2}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({}, '"labels"'),
        ({"labels": {"0": "background"}}, '"background": 0'),
        ({"labels": {"background": 0, "a": "1"}}, 'label "a"'),
        ({"labels": {"background": 0, "a": []}}, 'label "a"'),
        ({"labels": {"background": 0, "a": [1, 2]}}, "regions_class_order"),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]},
            "regions_class_order",
        ),
    ],
)
def test_unusable_dataset_json(dataset: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        click_labels(dataset)


def test_names_and_numbers_resolve() -> None:
    names = {"background": 0, "organ": 2}
    assert resolve_label("organ", names, "here") == 2
    assert resolve_label(0, names, "here") == 0
    assert resolve_label(np.int64(2), names, "here") == 2


@pytest.mark.parametrize("label", ["Organ", "2", 1, -1, True, False, 1.5, 2.0, None, [2], ""])
def test_everything_else_is_refused_with_the_allowed_ones(label) -> None:
    with pytest.raises(PromptError, match=r'^c\.json: click 3: unknown .*"background" \(0\), "organ" \(2\)'):
        resolve_label(label, {"background": 0, "organ": 2}, "c.json: click 3")
