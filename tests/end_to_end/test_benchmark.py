"""`nnsam3d benchmark run --train`: nnUNetClickTrainer and a control, trained by nnU-Net's own commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Workspace

pytestmark = pytest.mark.e2e
OPTIONS = "num_iterations_per_epoch=1 num_val_iterations_per_epoch=1 final_validation=1"


def test_train_click_and_report(workspace: Workspace, tmp_path: Path) -> None:
    arms = ("nnUNetClickTrainer", "nnUNetBaselineTrainer+oracle")
    command = ("benchmark", "run", "-d", "990", "-o", tmp_path / "bench", "-device", "cpu", "--disable_tta", "--arms",
               *arms, "--protocols", "random", "--seeds", "0", "--jobs", "2", "--train", "--train-minutes", "0.02",
               "--options", OPTIONS)  # fmt: skip
    workspace.run("nnsam3d", *command)
    report = json.loads((tmp_path / "bench/report.json").read_text())
    costs = {row["arm"]: row for row in report["costs"]}
    assert {arm: row["kind"] for arm, row in costs.items()} == {arms[0]: "clicks", arms[1]: "oracle"}
    assert all(1 <= row["epochs"] < 100 and row["training_seconds"] >= 1.2 for row in costs.values())
    assert {(row["arm"], row["clicks"]) for row in report["scores"]} == {(arm, n) for arm in arms for n in (0, 1)}
    log = (tmp_path / "bench/logs/train_Dataset990_PhantomCT_3d_fullres_0_nnUNetClickTrainer.txt").read_text()
    assert "the budget of 0.02 minutes is used up" in log
    prompts = workspace.model.with_name("nnUNetClickTrainer__nnUNetPlans__3d_fullres") / "fold_0/validation_prompts"
    assert list(prompts.glob("*.json")), "its validation can be replayed by nnUNetv2_predict"


def test_stock_prediction_hears_the_clicks(workspace: Workspace, tmp_path: Path) -> None:
    """nnUNetv2_predict with the validation's prompt files gives the validation's segmentations."""
    model = workspace.model.with_name("nnUNetClickTrainer__nnUNetPlans__3d_fullres") / "fold_0"
    if not model.is_dir():
        pytest.skip("trained by the test before")
    images = tmp_path / "images"
    images.mkdir()
    cases = [path.stem for path in (model / "validation_prompts").glob("*.json")]
    for case in cases:
        source = workspace.root / "raw/Dataset990_PhantomCT/imagesTr" / f"{case}_0000.nii.gz"
        (images / source.name).symlink_to(source)
    workspace.run(
        "nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", "-d", "990", "-c", "3d_fullres", "-f", "0", "-tr",
        "nnUNetClickTrainer", "-device", "cpu", "-npp", "1", "-nps", "1",
        nnsam3d_prompts=str(model / "validation_prompts"),
    )  # fmt: skip
    for case in cases:
        predicted, validated = (folder / f"{case}.nii.gz" for folder in (tmp_path / "out", model / "validation"))
        assert (read(predicted) != read(validated)).mean() < 1e-3


def read(path: Path):  # type: ignore[no-untyped-def]
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
