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

from .conftest import volume, write_clicks, write_model

FACTORS = {10.0: "10 times larger", 0.1: "10 times smaller", 1000.0: "1e+03 times larger"}


def inspected(capfd: pytest.CaptureFixture[str], file: Path, *more: Any) -> str:
    """What `nnsam3d prompts inspect` says of a prompt file beside its image."""
    assert main([str(argument) for argument in ("prompts", "inspect", file, "--image", file.parent, *more)]) == 0
    return "".join(capfd.readouterr())


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_wrong_units_are_told_everywhere(
    predict: Any,
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
        write_clicks(good.parent, case, [([6, 6, 6], "lesion")])
        text = inspected(capfd, good.parent / f"{case}.json", "-m", model_folder)
        assert (told in text) == (case == "bad")
    report = tmp_path / "report.json"
    assert predict("--report", report, folder=good.parent)[0] == 0
    text = "".join(capfd.readouterr())
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
    predict: Any, write_image: Callable[..., Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(spacing_xyz=(10.0, 10.0, 10.0))

    def unreadable(*arguments: Any) -> None:
        raise UserError("enough of it")

    monkeypatch.setattr(Model, "read", unreadable)
    predict(folder=image.parent)
    assert "because it has no positive click: up to 19,008 windows" in "".join(capfd.readouterr())
    write_clicks(image.parent, "case", [([15, 20, 10], "lesion")])
    predict(folder=image.parent)
    assert "windows, each" not in "".join(capfd.readouterr())
    predict("--scope", "everything", folder=image.parent)
    assert "is segmented as a whole: up to 19,008 windows" in "".join(capfd.readouterr())


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
    write_clicks(images, "case", [([6, 6, 6], "lesion")])
    assert "orientation and spacing unknown" in inspected(capfd, images / "case.json")
