"""Doubtful headers are told before anything is computed: in `predict`, `prompts inspect`, sessions and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.errors import UserError
from nnsam3d.geometry.plausible import FINGERPRINT
from nnsam3d.inference import Session
from nnsam3d.inference.header_check import sliding_windows
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model

from .conftest import volume, write_model

FACTORS = {10.0: "10 times larger", 0.1: "10 times smaller", 1000.0: "1e+03 times larger"}
CLICK = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [15, 20, 10], "label": "lesion"}]}


def run(capfd: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    out = capfd.readouterr()
    return status, out.out + out.err


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_wrong_units_are_told_everywhere(
    model_folder: Path,
    write_image: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    factor: float,
) -> None:
    shape = (12, 12, 12)
    good, bad = write_image("good_0000.nii.gz", shape), write_image("bad_0000.nii.gz", shape, spacing_xyz=(factor,) * 3)
    told = FACTORS[factor]
    for case in ("good", "bad"):
        content = json.dumps(CLICK).replace("[15, 20, 10]", "[6, 6, 6]")
        (good.parent / f"{case}.json").write_text(content)
        status, text = run(
            capfd, "prompts", "inspect", good.parent / f"{case}.json", "--image", good.parent, "-m", model_folder
        )
        assert status == 0
        assert (told in text) == (case == "bad")
    report = tmp_path / "report.json"
    arguments = ("-m", model_folder, "-f", 0, "-device", "cpu", "--disable_tta", "--report", report)
    status, text = run(capfd, "predict", "-i", good.parent, "-o", tmp_path / "out", *arguments)
    assert status == 0
    first, computed = text.index(f"warning: case bad: its voxels measure {factor:g} x"), text.index("predict:")
    assert first < computed, "before anything is computed"
    assert "case good" not in text
    cases = {case["case"]: case["warnings"] for case in json.loads(report.read_text())["cases"]}
    assert any(told in one for one in cases["bad"])
    assert not any("voxels measure" in one for one in cases["good"])
    session = Session(model_folder, folds=0)
    for path, expected in ((good, False), (bad, True)):
        session.set_image(path)
        assert any(told in remark for remark in session.remarks) == expected
        session.set_image(volume(shape), spacing=(factor,) * 3 if expected else (1, 1, 1))
        assert any(told in remark for remark in session.remarks) == expected


def test_what_a_case_without_click_will_cost_is_said_before(
    model_folder: Path, write_image: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = write_image(spacing_xyz=(10.0, 10.0, 10.0))

    def unreadable(*arguments: Any) -> None:
        raise UserError("enough of it")

    monkeypatch.setattr(Model, "read", unreadable)
    arguments = ("predict", "-i", image.parent, "-o", tmp_path / "out", "-m", model_folder, "-f", 0, "-device", "cpu")
    _, text = run(capfd, *arguments)
    assert "because it has no positive click: up to 19,008 windows" in text
    (image.parent / "case.json").write_text(json.dumps(CLICK))
    _, text = run(capfd, *arguments)
    assert "windows, each" not in text
    _, text = run(capfd, *arguments, "--scope", "everything")
    assert "is segmented as a whole: up to 19,008 windows" in text


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_windows_are_counted_like_nnunet_does(tmp_path: Path, transpose: tuple[int, int, int]) -> None:
    model = Model(write_model(tmp_path / "m", transpose=transpose, spacing=(1.0, 0.8, 0.7)), [0], mirroring=False)
    for shape in ((20, 40, 90), (16, 16, 16), (50, 33, 61)):
        image = PreparedImage(model, volume(shape)[None], {"spacing": [1.1, 1.5, 0.9]})
        assert sliding_windows(model, shape, (1.1, 1.5, 0.9)) == image.stock_windows


def test_the_fingerprint_of_the_training_counts(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    folder = write_model(tmp_path / "m")
    (folder / FINGERPRINT).write_text(json.dumps({"spacings": [[1, 1, 1], [9, 9, 9]]}))
    session = Session(folder)
    session.set_image(write_image(shape=(16, 16, 16), spacing_xyz=(10.0, 10.0, 10.0)))
    assert session.remarks == ()


def test_an_image_without_geometry_is_told(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(volume((16, 16, 16))), str(images / "case_0000.nii.gz"))
    session = Session(model_folder, folds=0)
    session.set_image(images / "case_0000.nii.gz")
    assert any(remark.startswith("orientation and spacing unknown") for remark in session.remarks)
    (images / "case.json").write_text(json.dumps(CLICK).replace("[15, 20, 10]", "[6, 6, 6]"))
    _, text = run(capfd, "prompts", "inspect", images / "case.json", "--image", images)
    assert "orientation and spacing unknown" in text
