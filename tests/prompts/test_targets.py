"""Targets of class-agnostic training: any object of a patch may be meant, and nothing else belongs to it."""

from __future__ import annotations

import numpy as np
import pytest

from nnsam3d.prompts import targets as module
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.targets import SMALLEST, Targets, class_agnostic

PLAIN = {"labels": {"background": 0, "liver": 1, "lesion": 2, "spleen": 3}}
NESTED = {"labels": {"background": 0, "rim": 1, "core": 2}, "nnsam3d": {"inside": {"2": 1}}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
}


def scene() -> np.ndarray:
    """Two lesions (2), one of them at a liver (1), and a spleen (3) apart."""
    labels = np.zeros((16, 20, 20), np.int16)
    labels[2:8, 2:10, 2:10] = 1
    labels[3:6, 10:13, 4:8] = 2
    labels[10:13, 2:6, 12:17] = 2
    labels[9:14, 12:18, 2:8] = 3
    return labels


def only(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(module, "KINDS", {kind: 1.0})


def drawn(dataset_json: dict, labels: np.ndarray, times: int = 60) -> list[np.ndarray]:
    targets, rng = Targets.of(dataset_json), np.random.default_rng(0)
    return [targets.draw(labels, rng) for _ in range(times)]


def test_a_target_is_part_of_what_is_there() -> None:
    for truth in drawn(PLAIN, scene()):
        assert truth.dtype == np.int16
        assert set(np.unique(truth)) == {0, 1}
        assert (scene()[truth == 1] > 0).all()


def test_the_truth_of_a_patch_varies() -> None:
    different = {truth.tobytes() for truth in drawn(PLAIN, scene())}
    assert len(different) > 10


def test_the_same_generator_draws_the_same() -> None:
    first, second = drawn(PLAIN, scene(), 10), drawn(PLAIN, scene(), 10)
    np.testing.assert_array_equal(first, second)


def test_a_component_is_one_instance_of_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "component")
    seen = set()
    for truth in drawn(PLAIN, scene()):
        assert len(Components(truth == 1)) == 1
        values = np.unique(scene()[truth == 1])
        assert len(values) == 1
        seen.add((int(values[0]), int(truth.sum())))
    assert len(seen) == 4, "liver, both lesions, spleen"


def test_large_labels_are_drawn_more_often_and_small_ones_not_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "label")
    labels = np.zeros((20, 20, 20), np.int16)
    labels[:16, :16, :16], labels[16:, 16:, 16:] = 1, 2  # 64 times the volume: four times as often
    counts = np.bincount([int(labels[truth == 1].max()) for truth in drawn(PLAIN, labels, 500)], minlength=3)
    assert abs(counts[1] / 500 - 0.8) < 0.06
    assert counts[2] > 60


def test_a_union_is_two_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "union")
    pairs = set()
    for truth in drawn(PLAIN, scene()):
        assert len(Components(truth == 1)) == 1
        pairs.add(tuple(np.unique(scene()[truth == 1]).tolist()))
    assert pairs == {(1, 2), (2,), (3,)}, "what touches nothing stays alone"


def test_a_part_is_less_than_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "part")
    for truth in drawn(PLAIN, scene()):
        values = np.unique(scene()[truth == 1])
        assert len(values) == 1
        assert SMALLEST <= truth.sum() < (scene() == values[0]).sum()


def test_an_enclosed_core_comes_with_and_without_its_rim(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "component")
    labels = np.zeros((12, 12, 12), np.int16)
    labels[2:10, 2:10, 2:10] = 1
    labels[4:8, 4:8, 4:8] = 2
    seen = {tuple(np.unique(labels[truth == 1]).tolist()) for truth in drawn(NESTED, labels)}
    assert seen == {(1,), (2,), (1, 2)}


def test_regions_are_targets_and_ignored_voxels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "label")
    labels = np.zeros((8, 8, 8), np.int16)
    labels[:4], labels[4:6], labels[7] = 1, 2, 3
    truths = drawn(REGIONS, labels)
    assert {tuple(np.unique(labels[truth == 1]).tolist()) for truth in truths} == {(1,), (2,), (1, 2)}
    assert all((truth[7] == 2).all() and (truth[:7] < 2).all() for truth in truths)
    assert Targets.of(REGIONS).ignored_value == 2
    assert Targets.of(PLAIN).ignored_value is None


@pytest.mark.parametrize("values", [(0,), (0, -1)])
def test_without_labels_there_is_no_target(values: tuple[int, ...]) -> None:
    labels = np.resize(np.array(values, np.int16), (6, 6, 6))
    assert not Targets.of(PLAIN).draw(labels, np.random.default_rng(0)).any()


def test_specks_are_targets_only_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "component")
    labels = np.zeros((10, 10, 10), np.int16)
    labels[0, 0, 0] = 1
    assert drawn(PLAIN, labels, 1)[0].sum() == 1
    labels[4:8, 4:8, 4:8] = 1
    assert {int(truth.sum()) for truth in drawn(PLAIN, labels)} == {64}


def test_a_class_agnostic_dataset_has_one_label_and_remembers_the_others() -> None:
    agnostic = class_agnostic(REGIONS)
    assert agnostic["labels"] == {"background": 0, "object": 1, "ignore": 2}
    assert "regions_class_order" not in agnostic
    assert class_agnostic(agnostic) == agnostic
    assert Targets.of(agnostic) == Targets.of(REGIONS)
    assert Targets.of(class_agnostic(NESTED)) == Targets.of(NESTED)
    assert "ignore" not in class_agnostic(PLAIN)["labels"]
