"""Plan rewriting: our network in, everything that concerns preprocessed data untouched."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.errors import UserError
from nnsam3d.network import SAM3DConfig
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.plans import preset_stride, refuse_unsupported, rewrite_plans, token_stride, window_edge

TINY = TrainingOptions(preset="tiny")


def test_only_architecture_and_own_entry_change(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    before = deepcopy(plans)
    rewritten = rewrite_plans(plans, "3d_fullres", dataset_json, TINY)
    assert plans == before, "the given plans are left alone"
    entry = rewritten["configurations"]["3d_fullres"]
    kwargs = entry.pop("architecture")["arch_kwargs"]
    assert entry.pop("nnsam3d") == TINY.as_dict()
    assert entry.pop("nnsam3d_prompt_types") == list(TINY.kinds)
    del before["configurations"]["3d_fullres"]["architecture"]
    assert rewritten == before

    config = SAM3DConfig(**json.loads(json.dumps(kwargs)), num_image_channels=1, num_classes=3)
    assert config.patch_size == (16, 32, 32)
    assert config.token_stride == (4, 8, 8)
    assert config.num_click_labels == 3, "background and two labels; the ignore label cannot be clicked"


def test_rewriting_twice_changes_nothing(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    once = rewrite_plans(plans, "3d_fullres", dataset_json, TINY)
    assert rewrite_plans(once, "3d_fullres", dataset_json, TINY) == once


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("2d", "cannot train on single slices"),
        ("3d_flat", "cannot train on single slices"),
        ("3d_cascade_fullres", "second stage of a cascade"),
        ("3d_lowres", "not in the plans.*3d_fullres"),
    ],
)
def test_unsupported_configurations_are_refused(
    plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        refuse_unsupported(plans, configuration, dataset_json)


def test_what_would_misplace_clicks_is_refused(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="NibabelIOWithReorient"):
        refuse_unsupported(plans | {"image_reader_writer": "NibabelIOWithReorient"}, "3d_fullres", dataset_json)
    plans["configurations"]["3d_fullres"]["preprocessor_name"] = "MyPreprocessor"
    with pytest.raises(UserError, match="MyPreprocessor"):
        refuse_unsupported(plans, "3d_fullres", dataset_json)


def test_a_region_that_no_voxel_can_carry_is_refused(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    regions = dataset_json | {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    refuse_unsupported(plans, "3d_fullres", regions)
    with pytest.raises(UserError, match=r"regions_class_order gives whole \(3\)"):
        refuse_unsupported(plans, "3d_fullres", regions | {"regions_class_order": [3, 2]})


def test_patch_smaller_than_a_window_is_refused(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"window \(16, 16, 16\).*token grid \(4, 4, 4\)"):
        rewrite_plans(plans, "3d_fullres", dataset_json, TrainingOptions(preset="tiny", window=16))
    plans["configurations"]["3d_fullres"]["patch_size"] = [2, 32, 32]
    with pytest.raises(UserError, match="at least 2 tokens per axis"):
        rewrite_plans(plans, "3d_fullres", dataset_json, TINY)


def test_unknown_preset_lists_the_known_ones(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="vit_b"):
        rewrite_plans(plans, "3d_fullres", dataset_json, TrainingOptions(preset="vit_xxl"))


def test_dataset_without_foreground_is_refused(plans: dict[str, Any]) -> None:
    nothing = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    with pytest.raises(UserError, match="no foreground label"):
        rewrite_plans(plans, "3d_fullres", nothing, TINY)


def test_a_small_network_has_larger_tokens_where_the_patch_has_four_of_them() -> None:
    spacing = (2.0, 1.0, 1.0)
    assert preset_stride(TINY, (16, 32, 32), spacing) == (4, 8, 8)
    for small in ((15, 32, 32), (16, 31, 32)):
        assert preset_stride(TINY, small, spacing) == (2, 4, 4)
    assert preset_stride(replace(TINY, detail_dim=0), (64, 64, 64), spacing) == (2, 4, 4)
    assert preset_stride(replace(TINY, preset="vit_b"), (64, 64, 64), spacing) == (2, 4, 4)
    assert preset_stride(replace(TINY, token_voxels=2), (16, 16, 16), spacing) == (1, 2, 2)


def test_a_training_with_few_clicks_has_room_for_those_of_a_scribble(
    plans: dict[str, Any], dataset_json: dict[str, Any]
) -> None:
    for kinds, slots in (("click", 2), ("click,scribble", 8)):
        options = replace(TINY, max_clicks=2, prompt_kinds=kinds)
        rewritten = rewrite_plans(plans, "3d_fullres", dataset_json, options)
        assert rewritten["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["max_clicks"] == slots


def test_stride_rule_contains_the_paper() -> None:
    assert token_stride((1.0, 1.0, 1.0)) == (4, 4, 4)
    assert token_stride((5.0, 0.8, 0.8)) == (1, 4, 4)
    assert token_stride((2.0, 1.0, 1.0)) == (2, 4, 4)


@given(st.lists(st.floats(0.2, 10.0), min_size=3, max_size=3))
def test_tokens_are_near_cubic(spacing: list[float]) -> None:
    edges = [stride * mm for stride, mm in zip(token_stride(spacing), spacing, strict=True)]
    target = 4 * min(spacing)
    for edge, mm in zip(edges, spacing, strict=True):
        # strides double, so a factor of sqrt(2) is the best possible unless one voxel is longer than a token
        assert edge / target <= max(math.sqrt(2), mm / target) + 1e-5
        assert edge / target >= 1 / math.sqrt(2) - 1e-5


@given(st.integers(2, 64))
def test_window_fits_and_pads_little(tokens: int) -> None:
    edge = window_edge(tokens)
    assert edge <= min(tokens, 8)
    assert -tokens % edge <= 3
