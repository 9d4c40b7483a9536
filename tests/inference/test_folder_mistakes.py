"""`nnsam3d predict` and the mistakes that people make: names, folders, half-copied files, a second run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.inference.session import Session

from .conftest import write_case


def case_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "some images"
    for number in range(2):
        write_case(folder, f"case_{number}", [([10, 12, 8], "lesion")], number)
    return folder


def test_a_truncated_image_is_told_and_not_filled_with_zeros(
    predict: Any, tmp_path: Path, model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = case_folder(tmp_path)
    image = folder / "case_0_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:-2000])
    status, out = predict(folder=folder)
    assert status == 1
    assert [path.name for path in out.glob("*.nii.gz")] == ["case_1.nii.gz"]
    assert f"{image}: the image cannot be read, it is truncated or damaged" in capfd.readouterr().err
    session = Session(model_folder, folds=0)
    with pytest.raises(UserError, match="truncated"):
        session.set_image(image)


def test_an_image_without_channel_number_costs_only_itself(
    predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = case_folder(tmp_path)
    (folder / "case_0_0000.nii.gz").rename(folder / "case_0.nii.gz")
    status, out = predict(folder=folder)
    assert status == 1
    assert [path.name for path in out.glob("*.nii.gz")] == ["case_1.nii.gz"]
    assert "for example case_0_0000.nii.gz" in capfd.readouterr().err


def test_two_images_of_one_name_have_each_its_own_outcome(predict: Any, tmp_path: Path) -> None:
    folder = case_folder(tmp_path)
    (folder / "case_0.nii.gz").write_bytes((folder / "case_0_0000.nii.gz").read_bytes())
    for more in ((), ("--continue_prediction",)):
        status, out = predict("--report", tmp_path / "report.json", *more, folder=folder)
        assert status == 1
        cases = json.loads((tmp_path / "report.json").read_text())["cases"]
        kinds = [(case["case"], case["status"]) for case in cases]
        done = "skipped" if more else "done"
        assert kinds == [("case_0", done), ("case_1", done), ("case_0", "failed")]
    assert {path.name for path in out.glob("*.nii.gz")} == {"case_0.nii.gz", "case_1.nii.gz"}


def test_the_number_of_the_channel_counts_and_capitals_are_named(
    predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = case_folder(tmp_path)
    (folder / "case_0_0000.nii.gz").rename(folder / "case_0_0001.nii.gz")
    (folder / "other_0000.NII.GZ").write_bytes((folder / "case_1_0000.nii.gz").read_bytes())
    status, out = predict(folder=folder)
    assert status == 1
    assert [path.name for path in out.glob("*.nii.gz")] == ["case_1.nii.gz"]
    told = capfd.readouterr().err
    assert "the model needs 1 channels, case_0_0000.nii.gz; found case_0_0001.nii.gz" in told
    assert "exactly the model's file ending, other_0000.nii.gz" in told


def test_doubtful_results_are_told_and_stand_in_the_report(
    predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = case_folder(tmp_path)
    image = sitk.ReadImage(str(folder / "case_0_0000.nii.gz"))
    sitk.WriteImage(image * 0 + 7, str(folder / "case_0_0000.nii.gz"))
    status, _ = predict("--report", tmp_path / "report.json", folder=folder)
    assert status == 0
    cases = {case["case"]: case for case in json.loads((tmp_path / "report.json").read_text())["cases"]}
    assert cases["case_0"]["warnings"][0] == "the image is 7 in every voxel: it contains no information"
    assert not any("in every voxel" in text for text in cases["case_1"]["warnings"])
    assert "check case_0" in capfd.readouterr().err


def test_results_do_not_go_among_the_images(predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = case_folder(tmp_path)
    before = sorted(folder.iterdir())
    assert predict(folder=folder, output=folder.name)[0] == 1
    assert "is the folder of the images" in capfd.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_a_continued_run_keeps_the_report_of_what_was_done(predict: Any, tmp_path: Path) -> None:
    folder, report = case_folder(tmp_path), tmp_path / "report.json"
    predict("--report", report, folder=folder)
    first = json.loads(report.read_text())["cases"]
    for _ in range(2):
        predict("--report", report, "--continue_prediction", folder=folder)
        assert json.loads(report.read_text())["cases"] == [{**case, "status": "skipped"} for case in first]


def test_a_prompts_folder_that_fits_no_case_is_told(
    predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict("--prompts", empty, folder=case_folder(tmp_path))[0] == 0
    assert "contains no prompt file for these cases" in capfd.readouterr().out


def test_a_missing_model_names_those_beside_it(model_folder: Path) -> None:
    with pytest.raises(UserError, match=model_folder.name):
        Session(model_folder.with_name("SAM3DAdapterTrainer__otherPlans__3d_fullres"))


def test_session_refuses_what_a_prediction_would(model_folder: Path, tmp_path: Path) -> None:
    session = Session(model_folder, folds="0")
    folder = case_folder(tmp_path)
    session.set_image(folder / "case_0_0000.nii.gz")
    with pytest.raises(UserError, match="no prompts to save"):
        session.save_prompts(tmp_path / "x.json")
    with pytest.raises(UserError, match="three finite numbers, got \\(3, 4\\)"):
        session.add_click((3, 4), "lesion")
    session.add_click((3, 4, 5), "lesion")
    with pytest.raises(UserError, match="cannot be written"):
        session.save_prompts(tmp_path / "missing" / "x.json")
