"""`nnsam3d predict` beside nnU-Net's own command, with a model that nnU-Net trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import Workspace
from .test_workflow import PREDICT, SEQUENTIAL, click, masks, read_mask, write_prompts

pytestmark = pytest.mark.e2e


def test_everything_equals_nnunets_command_byte_for_byte(trained: Workspace, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", test_000=[click(20, 20, 10), click(5, 20, 10, label=0)])
    files = ("-i", trained.test_images, "-o")
    trained.run("nnUNetv2_predict", *files, tmp_path / "stock", *PREDICT, *SEQUENTIAL, nnsam3d_prompts=str(prompts))
    ours = ("--prompts", prompts, "--scope", "everything", "--no_binding", "--report", tmp_path / "report.json")
    text = trained.run("nnsam3d", "predict", *files, tmp_path / "ours", *PREDICT, *ours)
    assert "1 with prompts, 1 without" in text
    assert masks(tmp_path / "ours") == masks(tmp_path / "stock") == ["test_000.nii.gz", "test_001.nii.gz"]
    for name in masks(tmp_path / "ours"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["done", "done"]


def test_clicked_binds_and_stays_near_its_clicks(trained: Workspace, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", test_001=[click(20, 20, 10), click(5, 20, 10, label=0)])
    only = ("--prompts", prompts, "-num_parts", "2", "-part_id", "1")
    trained.run("nnsam3d", "predict", "-i", trained.test_images, "-o", tmp_path / "out", *PREDICT, *only)
    assert masks(tmp_path / "out") == ["test_001.nii.gz"]
    mask = read_mask(tmp_path / "out" / "test_001.nii.gz")
    assert mask[10, 20, 20] == 1
    assert mask[10, 20, 5] == 0
    assert np.isin(mask, [0, 1]).all()
