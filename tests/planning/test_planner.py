"""SAM3DAdapterPlanner on made-up fingerprints: what the plans hold, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import (
    move_plans_between_datasets,
)

from nnsam3d.errors import UserError
from nnsam3d.planning.planner import PLANS_NAME, SAM3DAdapterPlanner
from nnsam3d.training.options import resolve_options
from nnsam3d.training.plans import rewrite_plans

from .conftest import MakeDataset

pytestmark = pytest.mark.usefixtures("quick_estimate")
BRAIN = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
}


def plan(number: int, budget: float = 8, **flags: Any) -> tuple[dict[str, Any], str]:
    """As nnUNetv2_plan_experiment does it."""
    return plan_experiment_dataset(number, SAM3DAdapterPlanner, budget, **flags)


def saved(tmp_path: Path, number: int, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / "preprocessed" / f"Dataset{number}_Made" / f"{name}.json").read_text())


def test_the_plans_are_what_the_trainer_makes_of_them(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, name = plan(make_dataset())
    plans = saved(tmp_path, 700, name)
    entry = plans["configurations"]["3d_fullres"]
    assert entry["spacing"] == [3.3, 1.0, 1.0]
    assert entry["patch_size"] == [32, 128, 128], "near-cubic in mm: a coarse axis has one slice per token"
    assert entry["data_identifier"] == f"{PLANS_NAME}_3d_fullres", "nnU-Net's own data stay"
    decision = entry["nnsam3d_plan"]
    assert decision["budget_gb"] == 8
    assert decision["estimate_gb"] <= 8
    assert decision["token_grid"] == [32, 32, 32]
    assert decision["spacing_rule"].startswith("median")
    said = capsys.readouterr().out
    assert all(reason in said for reason in decision["why"])
    assert f"-p {PLANS_NAME}" in said

    dataset_json = json.loads((tmp_path / "raw" / "Dataset700_Made" / "dataset.json").read_text())
    options = resolve_options(entry, "3d_fullres")
    assert options.preset == "vit_b"
    rewritten = rewrite_plans(plans, "3d_fullres", dataset_json, options)["configurations"]["3d_fullres"]
    assert json.loads(json.dumps(rewritten["architecture"])) == entry["architecture"]
    assert rewritten["nnsam3d_plan"] == decision


def test_slices_come_first_whatever_axis_they_lie_on(make_dataset: MakeDataset) -> None:
    plans, _ = plan(make_dataset(spacing=(1.0, 4.0, 1.0), shape=(148, 40, 150)))
    assert plans["transpose_forward"] == [1, 0, 2]
    entry = plans["configurations"]["3d_fullres"]
    assert list(entry["spacing"]) == [4.0, 1.0, 1.0]
    assert entry["nnsam3d_plan"]["token_stride"] == [1, 4, 4]


def test_a_low_resolution_but_neither_2d_nor_a_cascade(make_dataset: MakeDataset, tmp_path: Path) -> None:
    number = make_dataset(spacing=(1.0, 0.8, 0.8), shape=(480, 512, 512))
    plans, _ = plan(number)
    assert set(plans["configurations"]) == {"3d_fullres", "3d_lowres"}
    assert "next_stage" not in plans["configurations"]["3d_lowres"]
    assert plans["configurations"]["3d_lowres"]["nnsam3d_plan"]["spacing_rule"].startswith("coarser than 3d_fullres")
    # a second planning that needs no low resolution must not leave the old one there; own configurations stay
    file = tmp_path / "preprocessed" / "Dataset700_Made" / f"{PLANS_NAME}.json"
    mine = json.loads(file.read_text())
    mine["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    file.write_text(json.dumps(mine))
    plan(number, overwrite_target_spacing=(4.0, 4.0, 4.0))
    assert set(saved(tmp_path, 700, PLANS_NAME)["configurations"]) == {"3d_fullres", "mine"}


def test_overwritten_spacing_and_name(make_dataset: MakeDataset, tmp_path: Path) -> None:
    number = make_dataset()
    plan(number)
    _, name = plan(number, overwrite_target_spacing=("2", "2", "2"), overwrite_plans_name="Coarse")
    assert name == "Coarse"
    entry = saved(tmp_path, number, "Coarse")["configurations"]["3d_fullres"]
    assert entry["spacing"] == [2.0, 2.0, 2.0]
    assert entry["data_identifier"] == "Coarse_3d_fullres"
    assert entry["nnsam3d_plan"]["spacing_rule"] == "given with -overwrite_target_spacing"
    assert saved(tmp_path, number, PLANS_NAME)["configurations"]["3d_fullres"]["spacing"] == [3.3, 1.0, 1.0]


def test_moved_plans_serve_another_dataset(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Other channels and labels: nnU-Net moves the plans, the trainer takes the numbers from the new dataset."""
    source, target = make_dataset(), make_dataset(701, **BRAIN)
    plan(source)
    move_plans_between_datasets(source, target, PLANS_NAME, "Moved")
    plans = saved(tmp_path, target, "Moved")
    dataset_json = json.loads((tmp_path / "raw" / "Dataset701_Made" / "dataset.json").read_text())
    entry = plans["configurations"]["3d_fullres"]
    assert entry["data_identifier"] == "Moved_3d_fullres"
    rewritten = rewrite_plans(plans, "3d_fullres", dataset_json, resolve_options(entry, "3d_fullres"))
    kwargs = rewritten["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["num_click_labels"] == 3
    assert tuple(kwargs["patch_size"]) == (32, 128, 128)


def test_channels_and_regions_count(make_dataset: MakeDataset, tmp_path: Path) -> None:
    number = make_dataset(**BRAIN)
    file = tmp_path / "preprocessed" / "Dataset700_Made" / "dataset_fingerprint.json"
    fingerprint = json.loads(file.read_text())
    fingerprint["foreground_intensity_properties_per_channel"]["1"] = {"mean": 2.0}
    file.write_text(json.dumps(fingerprint))
    facts = SAM3DAdapterPlanner(number).fullres_facts()
    assert (facts.channels, facts.heads, facts.click_labels) == (2, 2, 3)
    assert (facts.cases, facts.shape_DHW) == (41, (59, 148, 150))


@pytest.mark.parametrize(
    ("dataset", "flags", "message"),
    [
        ({}, {"gpu_memory_target_in_gb": 0.3}, "0.3 GB is too small.*-gpu_memory_target"),
        ({}, {"gpu_memory_target_in_gb": -1}, "positive number of gigabytes"),
        ({"shape": (1, 148, 150)}, {}, "single slice.*nnU-Net's own planner"),
        ({"spacing": (1.0, 1.0, 1.0), "shape": (148, 150, 1)}, {}, "single slice"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, {}, "1 channel.*dataset.json lists 2.*--clean"),
        ({"labels": {"background": 0}}, {}, "no foreground label"),
        ({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, {}, "NibabelIOWithReorient.*NibabelIO"),
        ({}, {"plans_name": "nnUNetPlans"}, "would replace nnU-Net's own plans"),
        ({}, {"preprocessor_name": "Mine"}, "preprocess with Mine"),
        ({}, {"overwrite_target_spacing": [1.0, 2.0]}, "three positive numbers in mm"),
        ({}, {"overwrite_target_spacing": [1.0, -2.0, 1.0]}, "three positive numbers in mm"),
    ],
)
def test_what_cannot_work_names_the_way_out(
    make_dataset: MakeDataset, dataset: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    number = make_dataset(**dataset)
    with pytest.raises(UserError, match=message):
        SAM3DAdapterPlanner(number, **flags).plan_experiment()


def test_a_missing_fingerprint_names_the_command(make_dataset: MakeDataset, tmp_path: Path) -> None:
    number = make_dataset()
    (tmp_path / "preprocessed" / "Dataset700_Made" / "dataset_fingerprint.json").unlink()
    with pytest.raises(UserError, match="nnUNetv2_extract_fingerprint -d 700"):
        plan(number)
