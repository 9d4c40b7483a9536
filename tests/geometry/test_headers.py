"""The grid of an image file, as the reader of its voxels sees it."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnsam3d.geometry import GeometryError
from nnsam3d.geometry.headers import GeometryWarning, grid_of_file, nibabel_grid

AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
SHEARED = AFFINE + np.array([[0, 0.4, 0, 5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def write(path: Path, sform: np.ndarray, qform: np.ndarray | None = None) -> Path:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), sform)
    image.set_sform(sform, code=1)
    image.set_qform(sform if qform is None else qform, code=1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("reader", [None, "SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_readers_agree_on_an_ordinary_header(tmp_path: Path, reader: str | None) -> None:
    path = write(tmp_path / "image.nii.gz", AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = grid_of_file(path, reader)("lps")
    np.testing.assert_allclose(grid.index_to_world(np.array([[1.0, 2, 3]])), [[-2, -3, 9]], atol=1e-5)


def test_a_sheared_header_is_that_of_its_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii.gz", SHEARED)
    ras = SHEARED @ [1, 2, 3, 1]
    grid = grid_of_file(path, "NibabelIO")("ras")
    np.testing.assert_allclose(grid.index_to_world(np.array([[1.0, 2, 3]]))[0], [-ras[0], -ras[1], ras[2]], atol=1e-4)
    for reader in (None, "SimpleITKIO"):
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                theirs = grid_of_file(path, reader)("lps")
        except GeometryError as error:
            assert "orthonormal" in str(error)  # noqa: PT017  ITK refuses some, and reads others
            continue
        apart = np.abs(theirs.index_to_world(np.array([[3.0, 4, 5]])) - grid.index_to_world(np.array([[3.0, 4, 5]])))
        warned = any(one.category is GeometryWarning for one in told)
        assert warned == (reader is None and apart.max() > 0.01)


def test_two_transformations_that_differ_are_a_warning_with_both_values(tmp_path: Path) -> None:
    """ITK and nibabel prefer different ones of a NIfTI's two, or the same: it depends on their codes and versions."""
    turned = AFFINE.copy()
    turned[0, 3] = 12
    path = write(tmp_path / "image.nii.gz", AFFINE, turned)
    path_q = tmp_path / "second.nii.gz"
    image = nibabel.load(path)
    image.set_sform(AFFINE, code=2)
    nibabel.save(image, path_q)
    for one in (path, path_q):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            itk = grid_of_file(one)("lps")
        apart = np.abs(itk.index_to_world(np.zeros((1, 3))) - nibabel_grid(one).index_to_world(np.zeros((1, 3)))).max()
        texts = [str(w.message) for w in told if w.category is GeometryWarning]
        assert bool(texts) == (apart > 0.01)
        if texts:
            assert "for ITK" in texts[0]
            assert "for nibabel" in texts[0]


@pytest.mark.parametrize("ending", [".tif", ".TIFF"])
def test_formats_without_world_geometry_say_so(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    tifffile.imwrite(path, np.zeros((6, 5, 4), np.float32), photometric="minisblack")
    grid_of = grid_of_file(path)
    assert grid_of("voxel").size_xyz == (4, 5, 6)
    for space in ("lps", "ras"):
        with pytest.raises(GeometryError, match="has no world geometry"):
            grid_of(space)


def test_what_is_no_volume(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), np.eye(4)), path)
    for reader in (None, "SimpleITKIO", "NibabelIO"):
        with pytest.raises(GeometryError, match="dimensions"):
            grid_of_file(path, reader)
    path.write_bytes(b"nothing")
    for reader in (None, "NibabelIO"):
        with pytest.raises(GeometryError, match="header cannot be read"):
            grid_of_file(path, reader)


def test_other_formats_are_itks(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.float32))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    assert grid_of_file(tmp_path / "image.mha")("lps").origin_xyz == (1.0, 2.0, 3.0)
