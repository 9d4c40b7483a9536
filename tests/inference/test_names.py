"""Names of files: bytes that are not UTF-8, line breaks, DICOM. A case fails by name; the others are computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.errors import UserError, printable
from nnsam3d.geometry import grid_of_file
from nnsam3d.inference import Session

from .conftest import write_clicks

LATIN = os.fsdecode(b"\xe9t")
CLICK = [([6, 6, 6], "lesion")]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file systems with names in Unicode only")


@pytest.fixture
def images(write_image: Callable[..., Path]) -> Path:
    for name in ("a", "b"):
        folder = write_image(f"{name}_0000.nii.gz", (12, 12, 12)).parent
        write_clicks(folder, name, CLICK)
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own, which a crash in C++ would end, and a name that cannot be printed."""
    names = [os.fsencode(str(one)) for one in (sys.executable, "-m", "nnsam3d", *arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(names, capture_output=True, timeout=600, env=environment)


def test_one_case_with_a_latin_name_beside_two_good_ones(model_folder: Path, images: Path, tmp_path: Path) -> None:
    bad = images / f"{LATIN}_0000.nii.gz"
    bad.write_bytes((images / "a_0000.nii.gz").read_bytes())
    write_clicks(images, LATIN, CLICK)
    out, report = tmp_path / "out", tmp_path / "report.json"
    fixed = ("-m", model_folder, "-f", 0, "-device", "cpu", "--disable_tta")
    write_clicks(images, f"{LATIN} 2", CLICK)  # of no case
    result = command("predict", "-i", images, "-o", out, *fixed, "--report", report)
    assert result.returncode == 1, result.stderr
    text = (result.stdout + result.stderr).decode()
    assert r"\xe9t_0000.nii.gz: the name contains bytes that are not UTF-8" in text
    assert r"\xe9t 2.json matches no image" in text or r"\udce9t 2.json matches no image" in text
    assert "Traceback" not in text
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
    cases = {case["case"]: case["status"] for case in json.loads(report.read_text())["cases"]}
    assert cases == {"a": "done", "b": "done", r"\xe9t": "failed"}


def test_everything_that_reads_images_says_so(model_folder: Path, images: Path, tmp_path: Path) -> None:
    bad = images / f"{LATIN}_0000.nii.gz"
    bad.write_bytes((images / "a_0000.nii.gz").read_bytes())
    session = Session(model_folder, folds=0)
    for read in (
        lambda: session.set_image(bad),
        lambda: session.set_image(os.fsencode(bad)),
        lambda: grid_of_file(bad),
    ):
        with pytest.raises(UserError, match=r"\\xe9t_0000\.nii\.gz.*not UTF-8"):
            read()
    session.set_image(images / "a_0000.nii.gz")
    with pytest.raises(UserError, match=r"\\xe9t.*not UTF-8"):
        session.start_from(bad)
    with pytest.raises(UserError, match=r"\\xe9t.*not UTF-8"):
        session.save_segmentation(tmp_path / f"{LATIN}.nii.gz")
    result = command("prompts", "inspect", images / "a.json", "--image", bad)
    assert result.returncode == 1
    assert rb"\xe9t_0000.nii.gz" in result.stderr
    folder = tmp_path / LATIN
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(bad.read_bytes())
    result = command("prompts", "simulate", folder, "-o", tmp_path / "s", "--dataset", model_folder / "dataset.json")
    assert result.returncode == 1
    assert rb"\xe9t" in result.stderr
    for option in ("-i", "-o"):
        paths = {"-i": images, "-o": tmp_path / "out", option: folder}
        chosen = [part for pair in paths.items() for part in pair]
        result = command("predict", *chosen, "-m", model_folder, "-device", "cpu")
        assert result.returncode == 1
        assert b"Traceback" not in result.stderr
        assert rb"\xe9t" in result.stderr


def test_prompt_files_may_have_such_names(images: Path, tmp_path: Path) -> None:
    """They are read without ITK; what is printed is readable."""
    write_clicks(tmp_path, LATIN, CLICK)
    result = command("prompts", "inspect", tmp_path / f"{LATIN}.json", "--image", images / "a_0000.nii.gz")
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["two\nlines", "bell\x07", "esc\x1b[31m"])
def test_control_characters_do_not_reach_the_terminal(
    predict: Any, images: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (images / f"{name}_0000.nii.gz").write_bytes((images / "a_0000.nii.gz").read_bytes()[:300])
    status, out = predict()
    assert status == 1
    shown = "".join(capfd.readouterr())
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
    assert printable(name) in shown
    assert name not in shown


@pytest.mark.parametrize("text", ["plain", "ä", "\udce9", "a\tb", "\u2028"])
def test_everything_becomes_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode()
    assert (shown == text) == text.isprintable()


# ---------------------------------------------------------------------- DICOM


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    for number in range(3):
        piece = sitk.Image(8, 8, 1, sitk.sitkInt16)
        piece.SetOrigin((0, 0, number))
        sitk.WriteImage(piece, str(folder / f"{number}.dcm"))
    (folder / "0.dcm").rename(folder / "IM0")  # as scanners name them
    return folder


def test_dicom_is_named_with_what_to_do(
    model_folder: Path, dicom: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = Session(model_folder, folds=0)
    for given in (dicom, str(dicom), sorted(dicom.iterdir()), dicom / "1.dcm", dicom / "IM0"):
        with pytest.raises(UserError, match=r"DICOM: convert to NIfTI first.*dcm2niix"):
            session.set_image(given)
    write_clicks(tmp_path, "a", CLICK)
    for arguments in (
        ("predict", "-i", dicom, "-o", tmp_path / "out", "-m", model_folder, "-device", "cpu"),
        ("predict", "-i", dicom.parent, "-o", tmp_path / "out", "-m", model_folder, "-device", "cpu"),
        ("predict", "-i", dicom / "1.dcm", "-o", tmp_path / "out", "-m", model_folder, "-device", "cpu"),
        ("prompts", "inspect", tmp_path / "a.json", "--image", dicom / "1.dcm"),
    ):
        assert main([str(one) for one in arguments]) == 1
        assert "DICOM: convert to NIfTI first" in capfd.readouterr().err, arguments
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="is a folder; give the image file"):
        session.set_image(empty)


@pytest.mark.parametrize("count", ["0", "-3"])
def test_the_option_that_is_wrong_is_named(predict: Any, capfd: pytest.CaptureFixture[str], count: str) -> None:
    assert predict("-num_parts", count)[0] == 1
    assert f"error: -num_parts {count}: must be at least 1" in capfd.readouterr().err
