"""Files that do not fit: a full disk, a limit for the size of a file. Nothing incomplete gets a final name."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.files import WriteError
from nnsam3d.geometry.label_files import ENDINGS, check_written, stored_slices
from nnsam3d.inference import Session
from nnsam3d.inference import folder as folder_module
from nnsam3d.inference import report as report_module
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.label_files import check_finished, save_label_map, write_label_map

from .conftest import CASE_SHAPE as SHAPE
from .conftest import contents, opened, read, volume, write_case


def noise(values: int = 3) -> np.ndarray:
    """A label map that compresses badly."""
    return np.random.default_rng(0).integers(0, values, SHAPE).astype(np.int16)


def oblique() -> sitk.Image:
    image = sitk.Image([int(n) for n in SHAPE[::-1]], sitk.sitkUInt8)
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-20.0, 30.5, 5.25))
    turn = 0.3
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    return image


def writer_and_properties(name: str) -> tuple[Any, dict[str, Any]]:
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    image = oblique()
    own = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    affine = np.array([[-2.0, 0, 0, 7], [0, 0, 1.5, 8], [0, -3.0, 0, 9], [0, 0, 0, 1]])
    turned = np.array([[2.0, 0, 0, -39], [0, 1.5, 0, 8], [0, 0, 3.0, -66], [0, 0, 0, 1]])
    nibabel_stuff = {"original_affine": affine, "reoriented_affine": turned}
    return {
        "SimpleITKIO": (SimpleITKIO(), {"sitk_stuff": own}),
        "NibabelIO": (NibabelIO(), {"nibabel_stuff": nibabel_stuff}),
        "NibabelIOWithReorient": (NibabelIOWithReorient(), {"nibabel_stuff": nibabel_stuff}),
        "Tiff3DIO": (Tiff3DIO(), {"spacing": (1.0, 2.0, 3.0)}),
    }[name]


WRITERS = [
    *(("SimpleITKIO", ending) for ending in ENDINGS),
    *(("NibabelIO", ending) for ending in (".nii", ".nii.gz")),
    *(("NibabelIOWithReorient", ending) for ending in (".nii", ".nii.gz")),
    ("Tiff3DIO", ".tif"),
]


@pytest.mark.parametrize(("name", "ending"), WRITERS)
@pytest.mark.parametrize("values", [1, 3, 300])
def test_a_checked_file_is_the_one_that_the_writer_writes(tmp_path: Path, name: str, ending: str, values: int) -> None:
    """Byte for byte, of one or two bytes per voxel."""
    writer, properties = writer_and_properties(name)
    files = [tmp_path / folder / f"mask{ending}" for folder in ("stock", "ours")]
    for file in files:
        file.parent.mkdir()
    writer.write_seg(noise(values), str(files[0]), properties)
    write_label_map(writer, noise(values), files[1], properties)
    assert ending in (".mnc", ".h5", ".hdf5", ".tif") or files[0].read_bytes() == files[1].read_bytes()
    check_finished(writer, files[1], SHAPE)
    with pytest.raises(UserError, match="has the shape"):
        check_finished(writer, files[1], (16, 26, 25))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("values", [1, 3])
def test_every_cut_is_noticed(tmp_path: Path, ending: str, values: int) -> None:
    """Also where the missing voxels are background, with which ITK fills up what is missing."""
    writer, properties = writer_and_properties("SimpleITKIO")
    file = tmp_path / f"mask{ending}"
    writer.write_seg(noise(values), str(file), properties)
    whole = file.read_bytes()
    check_written(file, noise(values))
    cuts = {*range(0, len(whole), max(1, len(whole) // 40)), 451, len(whole) - 9, len(whole) - 5, len(whole) - 1}
    for cut in sorted(cut for cut in cuts if cut < len(whole)):
        file.write_bytes(whole[:cut])
        with pytest.raises(OSError, match="cannot be read back"):
            check_written(file, noise(values))
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="incomplete or damaged"):
            check_finished(writer, file, SHAPE)


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_wrong_voxel_is_noticed(tmp_path: Path, ending: str) -> None:
    writer, properties = writer_and_properties("SimpleITKIO")
    file = tmp_path / f"mask{ending}"
    other = noise()
    other[-1, -1, -1] += 1
    writer.write_seg(other, str(file), properties)
    assert stored_slices(file)[0] == SHAPE
    with pytest.raises(OSError, match="cannot be read back"):
        check_written(file, noise())


@pytest.fixture
def session(model: Model, images: Path) -> Session:
    """With one click."""
    made = opened(model, images / "case_0_0000.nii.gz")
    made.add_click((10, 12, 8), "lesion")
    return made


# ---------------------------------------------------------------------- a real small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """All space but so many bytes (a multiple of 4096)."""
    file = disk / "filling"
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as content:
        while True:
            content.write(bytes(4096))
    os.truncate(file, file.stat().st_size - left)
    return file


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_keeps_the_old_mask(session: Session, small_disk: Path, ending: str) -> None:
    path = small_disk / f"mask{ending}"
    path.write_bytes(b"old")
    fill(small_disk)
    with pytest.raises(UserError, match="No space left on device: free space, or choose another") as caught:
        session.save_segmentation(path)
    assert str(caught.value).startswith(str(path))
    assert path.read_bytes() == b"old"
    assert {file.name for file in small_disk.iterdir()} == {path.name, "filling"}
    with pytest.raises(WriteError, match="No space left"):
        session.save_prompts(small_disk / "clicks.json")


def test_predict_into_a_full_disk(predict: Any, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = small_disk / "out"
    out.mkdir()
    fill(small_disk)
    status, _ = predict("--report", small_disk / "report.json", output=str(out))
    told = capfd.readouterr()
    assert status == 1
    assert list(out.iterdir()) == []
    assert "0 predicted, 0 skipped, 6 failed" in told.out
    assert "Traceback" not in told.err
    for name in ("dataset.json", "case_0.nii.gz", "case_5.nii.gz", "report.json"):
        assert f"{name}: cannot be written: No space left on device: free space" in told.err


# ---------------------------------------------------------------------- a limit for files, everywhere


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, str], None]:
    """Files may have 100 bytes while a function of a module runs: then writing fails with EFBIG."""
    resource = pytest.importorskip("resource")  # no Windows
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_for(module: ModuleType, name: str) -> None:
        stock = getattr(module, name)

        def limited(*arguments: Any) -> Any:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
            try:
                return stock(*arguments)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        monkeypatch.setattr(module, name, limited)

    return set_for


@pytest.mark.parametrize("more", [(), ("--save_probabilities",)], ids=["mask", "probabilities"])
def test_a_mask_that_does_not_fit_fails_by_name(
    predict: Any, limit: Any, tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "images", "case", [([10, 12, 8], "lesion")])
    limit(folder_module, "_written")
    status, out = predict(*more, folder=tmp_path / "images")
    told = capsys.readouterr()
    assert status == 1, told.err
    assert "0 predicted, 0 skipped, 1 failed" in told.out
    ending = ".npz" if more else ".nii.gz"
    assert f"{out}/case{ending}: cannot be written: File too large" in told.err
    assert "Traceback" not in told.err
    assert {path.name for path in out.iterdir()} == {"dataset.json", "plans.json"}


@pytest.mark.parametrize("where", ["_write_model_files", "write_prediction_report"])
def test_the_summary_follows_although_another_file_does_not_fit(
    predict: Any, limit: Any, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "images", "case", [([10, 12, 8], "lesion")])
    report = tmp_path / "report.json"
    report.write_text("old")
    of_report = where == "write_prediction_report"
    limit(report_module if of_report else folder_module, where)
    status, out = predict("--report", report, folder=tmp_path / "images")
    told = capsys.readouterr()
    assert status == 1, told.err
    assert "1 predicted, 0 skipped, 0 failed" in told.out
    assert "1 other file could not be written" in told.out
    assert f"{'report' if of_report else 'dataset'}.json: cannot be written: File too large" in told.err
    assert "Traceback" not in told.err
    assert sitk.ReadImage(str(out / "case.nii.gz")).GetSize() == SHAPE[::-1]
    assert (report.read_text() == "old") == of_report


# ---------------------------------------------------------------------- --continue_prediction


def damage(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "another shape":
        image = sitk.Image([24, 26, 17], sitk.sitkUInt8)
        sitk.WriteImage(image, str(file))
    else:
        file.write_bytes({"empty": b"", "cut": whole[:-5], "no image": b"what is this"}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "another shape", "no image"])
def test_an_incomplete_mask_is_computed_again(predict: Any, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = predict()
    before = contents(out)
    damage(out / "case_2.nii.gz", how)
    assert predict("--continue_prediction")[0] == 0
    told = capfd.readouterr().out
    assert "case case_2 is computed again" in told
    assert "1 predicted, 5 skipped, 0 failed" in told
    assert contents(out) == before


@pytest.mark.parametrize("ending", [".npz", ".pkl"])
@pytest.mark.parametrize("how", ["empty", "cut"])
def test_incomplete_probabilities_are_computed_again(
    predict: Any, ending: str, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _, out = predict("--save_probabilities")
    damage(out / f"case_2{ending}", how)
    assert predict("--continue_prediction", "--save_probabilities")[0] == 0
    assert "1 predicted, 5 skipped, 0 failed" in capfd.readouterr().out
    with np.load(out / "case_2.npz") as file:
        assert file["probabilities"].shape == (3, *SHAPE)
    assert predict("--continue_prediction", "--save_probabilities")[0] == 0
    assert "0 predicted, 6 skipped, 0 failed" in capfd.readouterr().out


# ---------------------------------------------------------------------- endings


def test_endings_that_cannot_hold_a_mask(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Session, "segmentation", property(lambda _: pytest.fail("computed before the name was checked"))
    )
    for ending in (".png", ".mhd", ".nhdr", ".hdr", ".img", ".img.gz", ".tif", ".vtk", ".gipl", ".jpg", ""):
        with pytest.raises(UserError, match=r"\.nii\.gz, \.nii, \.nrrd, \.mha"):
            session.save_segmentation(tmp_path / f"mask{ending}")
    assert list(tmp_path.glob("*mask*")) == []


@pytest.mark.parametrize("ending", [*ENDINGS, ".seg.nrrd"])
def test_endings_that_hold_a_mask(tmp_path: Path, ending: str) -> None:
    """With the oblique geometry of the image, in one file, beside the old one until the end."""
    writer, properties = writer_and_properties("SimpleITKIO")
    path = tmp_path / f"a.1{ending}"
    path.write_bytes(b"old")
    save_label_map(writer, noise(), path, properties)
    assert list(tmp_path.iterdir()) == [path]
    image, wanted = sitk.ReadImage(str(path)), oblique()
    np.testing.assert_array_equal(read(path), noise())
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(image, name)(), getattr(wanted, name)(), atol=1e-5)


def test_nibabel_writes_nifti_only(tmp_path: Path) -> None:
    writer, properties = writer_and_properties("NibabelIO")
    with pytest.raises(UserError, match=r"direction: \.nii\.gz, \.nii$"):
        save_label_map(writer, noise(), tmp_path / "mask.nrrd", properties)
    save_label_map(writer, noise(), tmp_path / "mask.nii.gz", properties)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    writer, properties = writer_and_properties("SimpleITKIO")
    with pytest.raises(WriteError, match="cannot be written: No such file or directory: create its folder"):
        save_label_map(writer, noise(), tmp_path / "missing" / "mask.nii.gz", properties)


def test_clicks_in_the_format_that_the_name_says(session: Session, tmp_path: Path) -> None:
    session.add_click((3, 4, 5), 0)
    for ending in (".txt", ".csv", ".fcsv", ".npz", ""):
        with pytest.raises(UserError, match=r"\.json, or in \.mrk\.json"):
            session.save_prompts(tmp_path / f"a{ending}")
    assert list(tmp_path.glob("a*")) == []
    session.save_prompts(tmp_path / "a.mrk.json")
    assert "markups" in json.loads((tmp_path / "a.mrk.json").read_text())
    before = [click.position for click in session.clicks]
    mask = np.array(session.segmentation)
    session.reset()
    session.load_prompts(tmp_path / "a.mrk.json")
    assert [click.position for click in session.clicks] == before
    assert [click.label for click in session.clicks] == ["lesion", "background"]
    np.testing.assert_array_equal(session.segmentation, mask)


def test_an_array_has_no_clicks_in_mm(model: Model, tmp_path: Path) -> None:
    session = opened(model, volume(SHAPE))
    session.add_click((10, 12, 8), "lesion")
    with pytest.raises(UserError):
        session.save_prompts(tmp_path / "a.mrk.json")
    session.save_prompts(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
