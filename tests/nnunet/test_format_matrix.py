"""Formats x geometries: the same clicks and shapes, however they are written, give the identical network input.

And nnU-Net's image readers: supported, or refused with a message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.spatial.transform import Rotation

from nnsam3d import cli
from nnsam3d.geometry import ImageGrid
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY
from nnsam3d.nnunet.preprocessing import PromptedPreprocessor
from nnsam3d.prompts import PromptError, read_channel
from nnsam3d.prompts.kinds import KINDS

from ..prompts.by_hand import EXTENT_WRITERS, GRID, WRITERS
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


def write_image(folder: Path, direction: np.ndarray, shape_zyx: tuple[int, ...] = SHAPE_ZYX) -> Path:
    d, h, w = shape_zyx
    array = np.zeros(shape_zyx, np.float32)
    array[2:-1, 3:-1, 1:-1] = np.random.default_rng(0).uniform(1, 9, (d - 3, h - 4, w - 2))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.9, 1.2, 2.0))
    image.SetOrigin((-70.5, 33.25, 610.0))
    image.SetDirection(direction.ravel().astype(float).tolist())
    path = folder / "case_0000.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def network_input(
    image: Path, reader: str = "SimpleITKIO", ending: str = ".nii.gz", kinds: tuple[str, ...] = ("click",)
) -> np.ndarray:
    plans, configuration = managers([1, 2, 0], [1.5, 1.5, 1.0], normalization="ZScoreNormalization", order=3)
    configuration.configuration[PROMPT_TYPES_KEY] = list(kinds)
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


def write_shapes(folder: Path, name: str, grid: ImageGrid) -> Path:
    path = EXTENT_WRITERS[name](folder, [], grid)
    if name == "ours_2":  # without its mask, which nnU-Net's own commands refuse
        content = json.loads(path.read_text(encoding="utf-8"))
        content["prompts"] = [entry for entry in content["prompts"] if entry["type"] != "mask"]
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def expected_shapes(name: str, grid: ImageGrid) -> tuple[str, list[dict[str, Any]]]:
    """The space and entries of a file of ours that says the same."""
    if name == "npz_boxes":
        return "voxel", [{"type": "box", "low": [7, 4, 3], "high": [9, 6, 12]}]
    if name == "napari_shapes":
        square = [[5, 5, 7], [20, 5, 7], [20, 30, 7], [5, 30, 7]]
        turns = np.arange(32) * np.pi / 16
        ellipse = [[12.5 + 7.5 * np.cos(turn), 17.5 + 12.5 * np.sin(turn), 7] for turn in turns]
        return "voxel", [
            {"type": "box", "low": [5.5, 5.5, 7], "high": [19.5, 29.5, 7]},
            *({"type": "lasso", "points": corners} for corners in (ellipse, square)),
            {"type": "scribble", "points": square},
            {"type": "line", "start": square[0], "end": square[1]},
        ]
    corners = grid.index_to_world([(5, 6, 7), (30, 8, 7), (20, 30, 7)], "lps").tolist()
    (middle,) = grid.index_to_world([(20, 20, 20)], "lps").tolist()
    halves = [[0.8 * 4.5, 0.6 * 4.5, 0], [-0.6 * 4, 0.8 * 4, 0], [0, 0, 3.5]]
    return "lps", [
        *({"type": "click", "position": corner} for corner in corners),
        {"type": "box", "low": middle, "high": middle, "axes": halves},
        {"type": "line", "start": corners[0], "end": corners[1]},
        {"type": "scribble", "points": corners},
        {"type": "lasso", "points": corners},
    ]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", EXTENT_WRITERS)
def test_shapes_lie_where_they_were_drawn(tmp_path: Path, name: str, geometry: str) -> None:
    """Also in what `convert` makes of them, from space to space."""
    kinds = tuple(kind for kind in KINDS if KINDS[kind].trained)
    image = write_image(tmp_path, GEOMETRIES[geometry], GRID.shape_zyx)
    grid = ImageGrid.from_file(image)
    path = write_shapes(tmp_path, name, grid)
    found = network_input(image, kinds=kinds)
    assert np.ptp(found[2:], axis=(1, 2, 3)).any(), "maps"
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps(DATASET), encoding="utf-8")
    converted = path
    for space in ("lps", "ras", "voxel", "ras"):
        arguments = ["--image", tmp_path, converted, "-o", tmp_path / space, "--to-space", space, "--dataset", dataset]
        assert cli.main(["prompts", "convert", *map(str, arguments), "--overwrite"]) == 0
        converted = tmp_path / space / "case.json"
    path.unlink()
    converted.replace(tmp_path / "case.json")
    np.testing.assert_allclose(network_input(image, kinds=kinds), found, atol=1e-4)
    (tmp_path / "case.json").unlink()
    if name == "ours_2":  # in voxels: any geometry gives the same
        write_shapes(tmp_path, name, grid)
        image = write_image(tmp_path, GEOMETRIES["axial"], GRID.shape_zyx)
    else:
        space, entries = expected_shapes(name, grid)
        entries = [{**entry, "label": "lesion"} for entry in entries]
        content = {"nnsam3d_prompts": 2, "space": space, "prompts": entries}
        (tmp_path / "case.json").write_text(json.dumps(content), encoding="utf-8")
    np.testing.assert_allclose(found, network_input(image, kinds=kinds), atol=1e-4)


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
