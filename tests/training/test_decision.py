"""The planner's entry in the plans: read back, edited by hand."""

from __future__ import annotations

from typing import Any

import pytest

from nnsam3d.errors import UserError
from nnsam3d.training.decision import DECISION_KEY, Decision, read_decision
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.plans import rewrite_plans

TINY = TrainingOptions(preset="tiny")
GOOD = Decision(
    budget_gb=8,
    estimate_gb=6.9,
    precision="mixed",
    spacing_rule="median",
    token_stride=(2, 4, 4),
    token_grid=(8, 8, 8),
    window=(8, 8, 8),
    token_mm=(4.0, 4.0, 4.0),
    why=("because",),
).as_dict()


@pytest.fixture
def planned(plans: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's plans with a decision for its patch of 16 x 32 x 32."""
    plans["configurations"]["3d_fullres"][DECISION_KEY] = dict(GOOD)
    return plans


def kwargs_of(plans: dict[str, Any], dataset_json: dict[str, Any], options: TrainingOptions = TINY) -> dict[str, Any]:
    rewritten = rewrite_plans(plans, "3d_fullres", dataset_json, options)
    return rewritten["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]


def test_nnunet_s_own_plans_have_none(plans: dict[str, Any]) -> None:
    assert read_decision(plans["configurations"]["3d_fullres"], "3d_fullres") is None


def test_stride_and_window_are_used(planned: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    entry = planned["configurations"]["3d_fullres"][DECISION_KEY]
    entry |= {"token_stride": [4, 4, 2], "token_grid": [4, 8, 16], "window": [4, 4, 8]}
    kwargs = kwargs_of(planned, dataset_json)
    assert kwargs["token_stride"] == (4, 4, 2)
    assert kwargs["window"] == (4, 4, 8)
    assert kwargs_of(planned, dataset_json, TrainingOptions(preset="tiny", window=2))["window"] == (2, 2, 2)


def test_inherited_decisions_are_checked_too(planned: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    planned["configurations"]["mine"] = {"inherits_from": "3d_fullres", "patch_size": [16, 64, 64]}
    with pytest.raises(UserError, match=r"configuration mine.*token grid of \[8, 16, 16\]"):
        rewrite_plans(planned, "mine", dataset_json, TINY)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"token_stride": [2, 4]}, "token_stride.*three positive whole numbers"),
        ({"token_stride": [2, 4, 4.5]}, "token_stride.*three positive whole numbers"),
        ({"token_stride": [32, 4, 4]}, "at most 16 voxels"),
        ({"token_stride": [4, 4, 4]}, r'token grid of \[4, 8, 8\].*write "token_grid": \[4, 8, 8\]'),
        ({"window": [9, 8, 8]}, r"window.*larger than.*at most \[8, 8, 8\]"),
        ({"preset": "tiny"}, 'unknown key preset.*entry "nnsam3d" beside it'),
        ({"why": None, "token_mm": None}, None),
    ],
)
def test_edits_that_cannot_work(planned: dict[str, Any], edit: dict[str, Any], message: str | None) -> None:
    configuration = planned["configurations"]["3d_fullres"]
    configuration[DECISION_KEY] |= edit
    if message is None:
        read_decision(configuration, "3d_fullres")
        return
    with pytest.raises(UserError, match=message) as error:
        read_decision(configuration, "3d_fullres")
    assert 'plans, configuration 3d_fullres, entry "nnsam3d_plan"' in str(error.value)


def test_a_changed_patch_says_what_to_write(planned: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    configuration = planned["configurations"]["3d_fullres"]
    configuration["patch_size"] = [16, 24, 32]
    with pytest.raises(UserError, match=r'"token_grid": \[8, 6, 8\]'):
        kwargs_of(planned, dataset_json)
    configuration[DECISION_KEY] |= {"token_grid": [8, 6, 8], "window": [8, 6, 8]}
    assert kwargs_of(planned, dataset_json)["patch_size"] == (16, 24, 32)


def test_missing_keys_and_other_things(planned: dict[str, Any]) -> None:
    configuration = planned["configurations"]["3d_fullres"]
    del configuration[DECISION_KEY]["window"]
    with pytest.raises(UserError, match="missing key window"):
        read_decision(configuration, "3d_fullres")
    configuration[DECISION_KEY] = "vit_b"
    with pytest.raises(UserError, match="must be an object"):
        read_decision(configuration, "3d_fullres")
