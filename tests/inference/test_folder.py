"""`nnsam3d predict` over a folder: what is refused, what is isolated, what is written, what is left out."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.inference.cases import Case, find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.model import Model

from .conftest import CASE_SHAPE as SHAPE
from .conftest import contents, read, write_case, write_clicks


def test_what_is_written_and_reported(predict: Any, images: Path, model_folder: Path, tmp_path: Path) -> None:
    status, out = predict("--report", tmp_path / "deep" / "report.json", "--save_probabilities")
    assert status == 0
    names = {f"case_{n}{ending}" for n in range(6) for ending in (".nii.gz", ".npz", ".pkl")}
    assert set(os.listdir(out)) == names | {"dataset.json", "plans.json"}
    image = sitk.ReadImage(str(images / "case_0_0000.nii.gz"))
    mask = sitk.ReadImage(str(out / "case_0.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection())
    array = sitk.GetArrayFromImage(mask)
    assert array[8, 12, 10] == 1
    assert array[2, 4, 3] == 0
    with np.load(out / "case_0.npz") as file:
        assert file["probabilities"].shape == (3, *SHAPE)
    assert pickle.loads((out / "case_0.pkl").read_bytes())["shape_before_cropping"] == SHAPE
    report = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert report["nnsam3d_report"] == 1
    assert set(report["versions"]) >= {"nnsam3d", "nnunetv2", "torch", "python"}
    assert report["model"]["sha256_by_fold"].keys() == {"0"}
    assert report["arguments"]["scope"] == "clicked"
    cases = {case["case"]: case for case in report["cases"]}
    assert cases["case_1"]["clicks"][0] == {"position": [11.0, 12.0, 8.0], "label": "lesion"}
    assert cases["case_1"]["space"] == "voxel"
    assert cases["case_1"]["windows"] >= 1
    assert cases["case_1"]["stock_windows"] == 2
    assert cases["case_1"]["seconds"] > 0
    assert cases["case_1"]["peak_memory_mb"] > 0
    assert len(cases["case_1"]["prompt_sha256"]) == len(cases["case_1"]["output_sha256"]) == 64
    assert cases["case_5"]["clicks"] == []


def test_everything_is_the_stock_prediction(predict: Any, model_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "two"
    write_case(images, "case_0", [([10, 12, 8], "lesion"), ([3, 4, 2], 0)])
    write_case(images, "case_1")
    _, out = predict("--scope", "everything", "--no_binding", "--save_probabilities", folder=images)
    stock = Model(model_folder, [0], mirroring=False).predictor
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(images), str(tmp_path / "stock"), save_probabilities=True)
    for n in range(2):
        np.testing.assert_array_equal(read(out / f"case_{n}.nii.gz"), read(tmp_path / "stock" / f"case_{n}.nii.gz"))
        ours, theirs = (np.load(folder / f"case_{n}.npz")["probabilities"] for folder in (out, tmp_path / "stock"))
        np.testing.assert_array_equal(ours, theirs)


def test_several_folds_and_a_case_without_clicks_are_stock_too(
    predict: Any, model_folder: Path, tmp_path: Path
) -> None:
    write_case(tmp_path / "one", "case", seed=3)
    one, out = str(tmp_path / "one"), str(tmp_path / "out")
    assert main(["predict", "-i", one, "-o", out, "-m", str(model_folder), "-device", "cpu"]) == 0
    predictor = Model(model_folder).predictor
    (tmp_path / "stock").mkdir()
    predictor.predict_from_files_sequential(one, str(tmp_path / "stock"))
    np.testing.assert_array_equal(read(tmp_path / "out" / "case.nii.gz"), read(tmp_path / "stock" / "case.nii.gz"))


def test_the_same_bytes_every_time(predict: Any) -> None:
    first, second = (contents(predict("--save_probabilities", output=name)[1]) for name in ("a", "b"))
    assert first == second


def test_all_bad_prompt_files_are_told_before_anything_is_computed(
    predict: Any, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts"
    write_clicks(prompts, "case_0", [([10, 12, 8], "lesion")])
    write_clicks(prompts, "case_1", [([10, 12, 8], "leson")])
    write_clicks(prompts, "case_2", [([1000, 12, 8], "lesion")])
    (prompts / "case_3.json").write_text("{")
    write_clicks(prompts, "case_99", [([1, 2, 3], "lesion")])
    write_clicks(prompts, "case_4_0000", [([1, 2, 3], "lesion")])
    status, out = predict("--prompts", prompts)
    captured = capfd.readouterr()
    assert status == 1
    before = captured.err[: captured.err.index("will be skipped")]
    for text in ("case_1.json", "'leson'", "case_2.json", "1000", "case_3.json"):
        assert text in before
    assert "case_99.json matches no image" in captured.out
    assert "did you mean case_4.json?" in captured.out
    assert "1 with prompts, 2 without" in captured.out
    after = captured.err[captured.err.index("will be skipped") :]
    assert after.count("nnsam3d: failed: ") == 3
    assert {path.name for path in out.glob("*.nii.gz")} == {"case_0.nii.gz", "case_4.nii.gz", "case_5.nii.gz"}


def test_one_corrupt_image_or_prompt_file_of_twenty_costs_one_case(
    predict: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "twenty"
    for number in range(20):
        write_case(folder, f"case_{number:02d}", [([12, 13, 8], "lesion")], number)
    whole = (folder / "case_07_0000.nii.gz").read_bytes()
    (folder / "case_07_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "case_11_0000.nii.gz").write_bytes(b"not an image")
    (folder / "case_13.json").write_bytes(b"\xff\xfe{")
    report = tmp_path / "report.json"
    status, out = predict("--report", report, folder=folder)
    assert status == 1
    lost = {"case_07", "case_11", "case_13"}
    assert {path.name[:7] for path in out.glob("*.nii.gz")} == {f"case_{n:02d}" for n in range(20)} - lost
    assert not list(out.glob(".*"))
    failures = [line for line in capfd.readouterr().err.splitlines() if line.startswith("nnsam3d: failed: ")]
    assert len(failures) == 3
    assert all(any(name in line for line in failures) for name in lost)
    cases = json.loads(report.read_text())["cases"]
    assert {case["case"] for case in cases if case["status"] == "failed"} == lost
    assert all(case["error"] for case in cases if case["status"] == "failed")


def test_parts_share_the_cases(predict: Any) -> None:
    whole = contents(predict(output="whole")[1])
    assert predict("-num_parts", 2, "-part_id", 0, output="parts")[0] == 0
    _, out = predict("-num_parts", 2, "-part_id", 1, output="rest")
    masks = [{path.name for path in folder.glob("*.nii.gz")} for folder in (out.parent / "parts", out)]
    assert [len(names) for names in masks] == [3, 3]
    assert contents(out) | contents(out.parent / "parts") == whole


def test_a_broken_case_among_others_changes_nothing(predict: Any, model: Model, images: Path, tmp_path: Path) -> None:
    """Although it is read while the case before it is computed."""
    cases = find_cases(images, model)
    cases.insert(2, Case("broken", (str(tmp_path / "broken_0000.nii.gz"),)))
    outcomes, _ = predict_folder(model, cases, tmp_path / "out beside", FolderOptions())
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done", "done", "done", "done"]
    assert contents(tmp_path / "out beside") == contents(predict()[1])
    again = FolderOptions(continue_prediction=True)
    outcomes, _ = predict_folder(model, cases, tmp_path / "out beside", again)
    assert [outcome.status for outcome in outcomes].count("skipped") == 6


def test_what_is_there_is_left_alone(predict: Any, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = predict()
    before = contents(out)
    (out / "case_2.nii.gz").unlink()
    sitk.WriteImage(sitk.ReadImage(str(out / "case_3.nii.gz")) * 0, str(out / "case_3.nii.gz"))  # somebody else's
    mine = (out / "case_3.nii.gz").read_bytes()
    assert mine != before["case_3.nii.gz"]
    (out / ".case_4.unfinished").mkdir()
    capfd.readouterr()
    assert predict("--continue_prediction")[0] == 0
    assert "1 predicted, 5 skipped, 0 failed" in capfd.readouterr().out
    assert contents(out) == before | {"case_3.nii.gz": mine}
    assert not (out / ".case_4.unfinished").exists()
    # the probabilities are not there
    assert predict("--continue_prediction", "--save_probabilities")[0] == 0
    assert "6 predicted, 0 skipped" in capfd.readouterr().out


def test_killed_and_continued_is_byte_identical(predict: Any, images: Path, model_folder: Path, tmp_path: Path) -> None:
    more = ("--save_probabilities", "--continue_prediction")
    expected = contents(predict(*more, output="undisturbed")[1])
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "nnsam3d", "predict", "-i", images, "-o", out, "-m", model_folder, "-f", "0",
               "-device", "cpu", "--disable_tta", *more]  # fmt: skip
    rng = random.Random(os.getpid())
    environment = os.environ | {"nnsam3d_prompts": ""}
    for _ in range(2):
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for_output(out, process)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        _only_whole_files(out, expected)
    assert contents(predict(*more, output="killed")[1]) == expected
    assert not list(out.glob(".*"))


def _wait_for_output(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until it has begun to compute; start-up is the longest part by far."""
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        plans = out / "plans.json"
        if plans.is_file() and plans.stat().st_mtime_ns != stamps.get("plans.json"):
            return
        time.sleep(0.01)


def _only_whole_files(out: Path, expected: dict[str, bytes]) -> None:
    for name, content in contents(out).items():
        if not name.startswith("."):
            assert content == expected[name]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-num_parts", "2", "-part_id", "2"], "parts are numbered from 0"),
        (["-step_size", "0"], "-step_size 0.0"),
        (["--prompts", "/no/such/folder"], "no such folder"),
        (["-f", "7"], "fold 7 has no checkpoint_final.pth"),
        (["-chk", "checkpoint_best.pth"], "no checkpoint_best.pth"),
        (["-device", "cuda:77"], "Without a GPU: cpu"),
        (["-device", "toaster"], "device toaster"),
        (["--report", "/tmp"], "--report /tmp is a folder"),
        (["--report", "/proc/nowhere/r.json"], "cannot write to /proc/nowhere"),
        (["-i", "/no/such/images"], "no such folder"),
        (["-m", "/no/such/model"], "no trained model"),
    ],
)
def test_wrong_arguments_are_explained(
    predict: Any, more: list[str], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out = predict(*more)
    assert status == 1
    assert message in capfd.readouterr().err
    assert not out.exists()


def test_the_model_by_dataset(
    predict: Any, model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    results, raw = tmp_path / "results", tmp_path / "raw"
    (results / "Dataset999_Test").mkdir(parents=True)
    (results / "Dataset999_Test" / model_folder.name).symlink_to(model_folder)
    (raw / "Dataset999_Test").mkdir(parents=True)
    by_dataset = ["predict", "-i", str(images), "-o", str(tmp_path / "out"), "-f", "0", "-device", "cpu"]
    by_dataset += ["-d", "Dataset999_Test", "-c", "3d_fullres", "-num_parts", "6", "--disable_tta"]
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert main(by_dataset) == 1
    assert "nnUNet_results is not set" in capfd.readouterr().err
    unknown = [*by_dataset[: by_dataset.index("-d")], "-d", "998", "-c", "3d_fullres"]
    # in a process of its own: nnU-Net reads its folders' names when it is imported
    script = f"from nnsam3d.cli import main; print('status', main({by_dataset!r}), main({unknown!r}))"
    environment = os.environ | {"nnUNet_results": str(results), "nnUNet_raw": str(raw), "nnUNet_preprocessed": str(raw)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert "status 0 1" in done.stdout
    assert (tmp_path / "out" / "case_0.nii.gz").is_file()
    assert "nnsam3d: error: -d 998" in done.stderr
