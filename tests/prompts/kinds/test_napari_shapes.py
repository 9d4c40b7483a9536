"""A shapes layer of napari, as its writer saves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnsam3d.prompts import Box, Lasso, Line, PromptError, Scribble, read_prompts
from nnsam3d.prompts.convert import Stated
from nnsam3d.prompts.kinds import Prompt

from .drawn import LABELS, SIZE_XYZ

ONE = {"background": 0, "tumour": 1}


def shapes(folder: Path, *listed: tuple[str, list], more: str = "", value: str = "") -> Path:
    text = f"index,shape-type,vertex-index,axis-0,axis-1,axis-2{more}\n"
    for number, (kind, corners) in enumerate(listed):
        for vertex, corner in enumerate(corners):
            text += f"{number}.0,{kind},{vertex}.0,{','.join(map(str, corner))}{value}\n"
    path = folder / "c.csv"
    path.write_text(text, encoding="utf-8")
    return path


SQUARE = [(5.0, 2.5, 3.5), (5.0, 2.5, 9.5), (5.0, 8.5, 9.5), (5.0, 8.5, 3.5)]  # z, y, x: around voxels 3..8, 4..9


def test_every_shape_is_a_prompt(tmp_path: Path) -> None:
    path = shapes(tmp_path, ("rectangle", SQUARE), ("line", SQUARE[:2]), ("path", SQUARE), ("polygon", SQUARE[:3]))
    box, line, path_, polygon = read_prompts(path, labels=ONE).prompts
    assert box == Box((4, 3, 5), (9, 8, 5), "tumour"), "whole voxels, on one slice"
    assert line == Line((3.5, 2.5, 5), (9.5, 2.5, 5), "tumour")
    assert path_ == Scribble([tuple(corner[::-1]) for corner in SQUARE], "tumour")
    assert polygon == Lasso([tuple(corner[::-1]) for corner in SQUARE[:3]], "tumour")


def test_an_ellipse_touches_its_rectangle(tmp_path: Path) -> None:
    (lasso,) = read_prompts(shapes(tmp_path, ("ellipse", SQUARE)), labels=ONE).prompts
    corners = np.array(lasso.corners)
    np.testing.assert_allclose(corners.min(axis=0), (3.5, 2.5, 5))
    np.testing.assert_allclose(corners.max(axis=0), (9.5, 8.5, 5))
    np.testing.assert_allclose(np.linalg.norm(corners - (6.5, 5.5, 5), axis=1), 3)


def test_a_turned_rectangle_keeps_its_corners(tmp_path: Path) -> None:
    turned = [(5.0, 2.0, 6.0), (5.0, 6.0, 10.0), (5.0, 10.0, 6.0), (5.0, 6.0, 2.0)]
    (lasso,) = read_prompts(shapes(tmp_path, ("rectangle", turned)), labels=ONE).prompts
    assert lasso == Lasso([corner[::-1] for corner in turned], "tumour")


def test_labels_are_those_of_the_column(tmp_path: Path) -> None:
    path = shapes(tmp_path, ("rectangle", SQUARE), more=",label", value=",2")
    assert read_prompts(path, labels=LABELS).prompts[0].label == 2


def scaled_square(folder: Path, spacing_xyz: tuple[float, float, float]) -> Prompt:
    """The square in units of this spacing, as `--scaled` reads it."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.zeros(SIZE_XYZ[::-1], np.float32))
    image.SetSpacing(spacing_xyz)
    sitk.WriteImage(image, str(folder / "c_0000.nii.gz"))
    path = shapes(folder, ("rectangle", (np.array(SQUARE) * spacing_xyz[::-1]).tolist()))
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1}}')
    prompts, _ = Stated(folder / "c_0000.nii.gz", folder / "dataset.json", scaled=True).read(path)
    (prompt,) = prompts.prompts
    return prompt


@pytest.mark.parametrize("spacing", [(0.5, 2.0, 3.0), (0.5, 2.0, 0.5), (0.7, 0.7, 0.8)])
def test_a_scaled_rectangle_is_the_same_box(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    box = scaled_square(tmp_path, spacing)
    np.testing.assert_allclose([box.low, box.high], [(4, 3, 5), (9, 8, 5)], atol=1e-6)


def test_a_scaled_rectangle_of_less_than_a_unit_keeps_its_size(tmp_path: Path) -> None:
    lasso = scaled_square(tmp_path, (0.1, 0.1, 0.5))
    np.testing.assert_allclose(lasso.points("voxel"), np.array(SQUARE)[:, ::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "corners", "told"),
    [
        ("rectangle", SQUARE[:3], "shape 1 ('rectangle'): has 3 vertices instead of 4"),
        ("line", SQUARE, "shape 1 ('line'): has 4 vertices instead of 2"),
        ("star", SQUARE, "unknown shape-type; allowed: rectangle, ellipse, polygon, line, path"),
        ("polygon", SQUARE[:2], "points must be 3 to 10000 positions, got 2"),
        ("ellipse", [*SQUARE[:3], ("nan", 1, 2)], "three finite numbers"),
        ("path", [(0, 0, x) for x in range(10_001)], "more than 10000 rows"),
    ],
)
def test_mistakes_name_the_file_and_the_shape(tmp_path: Path, kind: str, corners: list, told: str) -> None:
    with pytest.raises(PromptError) as error:
        read_prompts(shapes(tmp_path, (kind, corners)), labels=ONE)
    assert told in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "c.csv"))
