"""Formats x geometries: the same clicks, however they are written, give the identical network input.

And nnU-Net's image readers: supported, or refused with a message.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.spatial.transform import Rotation

from nnsam3d import cli
from nnsam3d.geometry import ImageGrid
from nnsam3d.nnunet.preprocessing import PromptedPreprocessor
from nnsam3d.prompts import PromptError, read_channel

from ..prompts.by_hand import WRITERS
from .plans import DATASET, managers

SHAPE_ZYX = (22, 30, 26)
CLICKS = [((20.0, 7.0, 15.0), "lesion"), ((4.0, 24.0, 5.0), "background"), ((11.25, 16.5, 17.0), "lesion")]
GEOMETRIES = {
    "axial": np.eye(3),
    "sagittal": np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "flipped": np.diag([-1, 1, -1]),
    "permuted and flipped": np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    "oblique": Rotation.from_euler("xyz", [25, -40, 70], degrees=True).as_matrix(),
    "oblique and mirrored": Rotation.from_euler("xyz", [-10, 15, 120], degrees=True).as_matrix() @ np.diag([1, 1, -1]),
}


def write_image(folder: Path, direction: np.ndarray) -> Path:
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[2:21, 3:29, 1:25] = np.random.default_rng(0).uniform(1, 9, (19, 26, 24))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.9, 1.2, 2.0))
    image.SetOrigin((-70.5, 33.25, 610.0))
    image.SetDirection(direction.ravel().astype(float).tolist())
    path = folder / "case_0000.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def network_input(image: Path, reader: str = "SimpleITKIO", ending: str = ".nii.gz") -> np.ndarray:
    plans, configuration = managers([1, 2, 0], [1.5, 1.5, 1.0], normalization="ZScoreNormalization", order=3)
    plans = PlansManager(plans.plans | {"image_reader_writer": reader})
    dataset = DATASET | {"file_ending": ending}
    return PromptedPreprocessor(verbose=False).run_case([str(image)], None, plans, configuration, dataset)[0]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_all_formats_give_the_identical_input(tmp_path: Path, geometry: str) -> None:
    image = write_image(tmp_path, GEOMETRIES[geometry])
    grid = ImageGrid.from_file(image)
    results = {}
    for name, write in WRITERS.items():
        prompts = write(tmp_path, CLICKS, grid)
        if name == "grand_challenge":  # its space must be stated, which is done by conversion
            with pytest.raises(PromptError, match="does not state the space"):
                network_input(image)
            arguments = ["prompts", "convert", prompts, "-o", tmp_path, "--space", "voxel", "--overwrite"]
            assert cli.main(list(map(str, arguments))) == 0
        results[name] = network_input(image)
        prompts.unlink()
    expected = results["ours"]
    assert sorted(read_channel(expected[1])[1].tolist()) == [0, 1, 1]
    for name, result in results.items():
        np.testing.assert_array_equal(result, expected, err_msg=name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_written_files_give_the_identical_input_too(tmp_path: Path, geometry: str) -> None:
    """What `convert` writes, in every space."""
    image = write_image(tmp_path, GEOMETRIES[geometry])
    ours = WRITERS["ours"](tmp_path, CLICKS, ImageGrid.from_file(image))
    expected = network_input(image)
    first = tmp_path / "first"
    convert = ["prompts", "convert", "--image", tmp_path]
    assert cli.main(list(map(str, [*convert, ours, "-o", first, "--to", "slicer"]))) == 0
    ours.unlink()
    for space in ("voxel", "lps", "ras"):
        arguments = [*convert, first / "case.mrk.json", "-o", tmp_path, "--to-space", space, "--overwrite"]
        assert cli.main(list(map(str, arguments))) == 0
        np.testing.assert_array_equal(network_input(image), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["ours", "slicer", "fcsv"])
def test_nibabel_reads_the_same(tmp_path: Path, geometry: str, name: str) -> None:
    image = write_image(tmp_path, GEOMETRIES[geometry])
    WRITERS[name](tmp_path, CLICKS, ImageGrid.from_file(image))
    np.testing.assert_array_equal(network_input(image, "NibabelIO"), network_input(image))


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_reorienting_readers_are_refused_if_there_are_prompts(tmp_path: Path, reader: str) -> None:
    image = write_image(tmp_path, GEOMETRIES["flipped"])
    assert not network_input(image, reader)[1].any()
    WRITERS["ours"](tmp_path, CLICKS, ImageGrid.from_file(image))
    with pytest.raises(PromptError, match=rf"{reader}.*supported are SimpleITKIO and NibabelIO"):
        network_input(image, reader)


def test_tiff_takes_voxels_and_refuses_millimetres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TIFF has no geometry; its <case>.json is nnU-Net's, so prompts lie elsewhere."""
    array = np.random.default_rng(0).uniform(1, 9, SHAPE_ZYX).astype(np.float32)
    images, prompts = tmp_path / "images", tmp_path / "prompts"
    images.mkdir()
    prompts.mkdir()
    image = images / "case_0000.tif"
    tifffile.imwrite(image, array)
    (images / "case.json").write_text('{"spacing": [2.0, 1.2, 0.9]}', encoding="utf-8")
    assert not network_input(image, "Tiff3DIO", ".tif")[1].any()
    grid = ImageGrid(SHAPE_ZYX[::-1], (0.9, 1.2, 2.0), (0, 0, 0), np.eye(3))
    expected = write_image(tmp_path, np.eye(3))
    sitk_image = sitk.GetImageFromArray(array)
    sitk_image.SetSpacing(grid.spacing_xyz)
    sitk.WriteImage(sitk_image, str(expected))
    monkeypatch.setenv("nnsam3d_prompts", str(prompts))
    for name in ("ours", "autopet", "challenge_npz", "napari"):
        path = WRITERS[name](prompts, CLICKS, grid)
        np.testing.assert_array_equal(network_input(image, "Tiff3DIO", ".tif"), network_input(expected))
        path.unlink()
    WRITERS["slicer"](prompts, CLICKS, grid)
    with pytest.raises(PromptError, match="no world geometry"):
        network_input(image, "Tiff3DIO", ".tif")
