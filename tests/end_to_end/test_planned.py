"""From the planner's plans to a prediction with a click, on phantoms, with a budget of the size of a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import SimpleITK as sitk

from .conftest import QUICK, Workspace

pytestmark = pytest.mark.e2e
# In place of nnUNetv2_plan_experiment -pl, which needs `nnsam3d link` to change the installed nnU-Net.
PLAN = """
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnsam3d.planners.SAM3DAdapterPlanner import SAM3DAdapterPlanner
plan_experiment_dataset(990, SAM3DAdapterPlanner, gpu_memory_target_in_gb={budget})
"""


def plan(workspace: Workspace, budget: float) -> subprocess.CompletedProcess[str]:
    program = PLAN.format(budget=budget)
    return subprocess.run([sys.executable, "-c", program], env=workspace.environment, capture_output=True, text=True)


def test_planned_trained_predicted(workspace: Workspace, tmp_path) -> None:
    refused = plan(workspace, 0.2)
    assert refused.returncode != 0
    assert "use -gpu_memory_target" in refused.stderr.splitlines()[-1], "the last line is the reason"

    done = plan(workspace, 1)
    assert done.returncode == 0, done.stderr
    assert "3d_fullres: " in done.stdout
    preprocessed = workspace.root / "preprocessed" / "Dataset990_PhantomCT"
    workspace.run("nnUNetv2_preprocess", "-d", "990", "-plans_name", "nnUNetSAM3DPlans", "-np", "1", "1", "1")
    assert (preprocessed / "nnUNetSAM3DPlans_3d_fullres").is_dir()
    assert (preprocessed / "nnUNetPlans_3d_fullres").is_dir(), "the default plans' data are still there"

    flags = ("-tr", "SAM3DAdapterTrainer", "-p", "nnUNetSAM3DPlans", "-device", "cpu")
    options = QUICK.replace("preset=tiny ", "") + " final_validation=0"  # the preset is the plans' choice
    workspace.run("nnUNetv2_train", "990", "3d_fullres", "0", *flags, nnsam3d_options=options)
    model = workspace.root / "results" / "Dataset990_PhantomCT" / "SAM3DAdapterTrainer__nnUNetSAM3DPlans__3d_fullres"
    entry = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert entry["nnsam3d"]["preset"] == "tiny"
    assert entry["nnsam3d_plan"]["budget_gb"] == 1

    prompts = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [20, 20, 10], "label": "lesion"}]}
    (tmp_path / "test_000.json").write_text(json.dumps(prompts))
    workspace.run(
        "nnUNetv2_predict", "-i", workspace.test_images, "-o", tmp_path / "out", "-d", "990", "-c", "3d_fullres",
        "-f", "0", *flags, "--disable_tta", "-npp", "0", "-nps", "0", nnsam3d_prompts=str(tmp_path),
    )  # fmt: skip
    mask = sitk.ReadImage(str(tmp_path / "out" / "test_000.nii.gz"))
    assert mask.GetSize() == sitk.ReadImage(str(workspace.test_images / "test_000_0000.nii.gz")).GetSize()
