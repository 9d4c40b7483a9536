"""Images that cannot fit into memory on the model's grid are refused before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.nnunet import lazy, size
from nnsam3d.nnunet.preprocessing import PROPERTIES_KEY
from nnsam3d.prompts import Box, CasePrompts, Click

from .conftest import volume, write_model

ABSURD = [
    ((30, 40, 40), (1e8, 1, 1)),
    ((30, 40, 40), (1, 1, 1e-9)),
    ((2000, 3, 3), (1000, 1, 1)),  # each plausible, and 2 km together
    ((40, 40, 40), (1000, 1000, 1000)),
    ((60, 60, 60), (900, 900, 5)),
]


@pytest.mark.parametrize(("shape", "spacing"), ABSURD)
def test_absurd_images_are_refused_at_once(
    model: Model, shape: tuple[int, int, int], spacing: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "spline_matrix", None)  # not reached
    array = volume(shape)
    session = Session(model)
    with pytest.raises(UserError, match=r"spacing|GB"):
        session.set_image(array, spacing=spacing)
    with pytest.raises(UserError, match=r"spacing|GB"):
        PreparedImage(model, array[None], {"spacing": list(spacing)})
    with pytest.raises(UserError, match=r"spacing|GB"):
        model.preprocess(array[None], {"spacing": list(spacing)})


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
def test_axes_are_those_of_the_models_grid(tmp_path: Path, transpose: tuple[int, int, int]) -> None:
    spacing_DHW = (0.01, 1.0, 1.0)
    model = Model(write_model(tmp_path / "m", transpose=transpose, spacing=spacing_DHW), [0], mirroring=False)
    fine, wrong = [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]
    fine[transpose[0]] = 0.01
    wrong[transpose[0]] = 1000.0
    PreparedImage(model, volume((20, 20, 20))[None], {"spacing": fine})
    with pytest.raises(UserError, match=r"the image: 20 x 20 x 20 voxels of 1000 x 1 x 1 mm would be 2000000 x"):
        PreparedImage(model, volume((20, 20, 20))[None], {"spacing": wrong})


def test_maps_of_prompts_are_part_of_a_whole_image(literal: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    array, properties = volume((20, 40, 40))[None], {"spacing": [1.0, 1.0, 1.0]}
    clicked = CasePrompts("case", "voxel", [Click((10, 10, 10), 1)])
    drawn = CasePrompts("case", "voxel", [Box((5, 5, 5), (15, 15, 15), 1)])
    monkeypatch.setattr(size, "memory_bytes", lambda: 4 * array.size * len(literal.codec.maps))
    literal.preprocess(array, properties | {PROPERTIES_KEY: clicked})
    with pytest.raises(UserError, match="the whole image would take"):
        literal.preprocess(array, properties | {PROPERTIES_KEY: drawn})


def test_the_limit_is_the_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    array, properties = volume((20, 40, 40))[None], {"spacing": [20.0, 5.0, 5.0]}
    image = PreparedImage(model, array, properties)
    assert image.volume.shape == (400, 200, 200)
    whole = 4 * 400 * 200 * 200
    monkeypatch.setattr(size, "memory_bytes", lambda: whole // 2)
    PreparedImage(model, array, properties)  # a window fits
    with pytest.raises(UserError, match=r"400 x 200 x 200 voxels.*the whole image would take at least .* GB"):
        image.volume.whole()
    with pytest.raises(UserError, match="the whole image"):
        image.prepare_for(None)
    with pytest.raises(UserError, match="the whole image"):
        image.segment(None, "everything")
    monkeypatch.setattr(size, "memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match="a window would take"):
        PreparedImage(model, array, properties)


def test_a_border_of_zeros_does_not_count(model: Model) -> None:
    array = np.zeros((90, 20, 20), np.float32)
    array[40:60] = volume((20, 20, 20))
    PreparedImage(model, array[None], {"spacing": [1000.0, 1.0, 1.0]})


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_predict_names_the_file_and_computes_the_others(
    predict: Any, model: Model, write_image: Callable[..., Path], tmp_path: Path,
    capfd: pytest.CaptureFixture[str], ending: str,
) -> None:  # fmt: skip
    good, bad = write_image("good_0000.nii.gz"), write_image("bad_0000.nii.gz", spacing_xyz=(1.0, 1.0, 1e8))
    status, out = predict("--report", tmp_path / "r.json", folder=good.parent)
    assert status == 1
    assert [path.name for path in out.glob("*.nii.gz")] == ["good.nii.gz"]
    assert f"{bad}: spacing 1e+08, 1, 1 mm" in capfd.readouterr().err
    cases = {case["case"]: case for case in json.loads((tmp_path / "r.json").read_text())["cases"]}
    assert cases["bad"]["status"] == "failed"
    session = Session(model)
    image = sitk.ReadImage(str(good))
    image.SetSpacing((1.0, 0.0001, 1.0))
    path = tmp_path / f"case_0000{ending}"
    sitk.WriteImage(image, str(path))
    with pytest.raises(UserError, match=rf"case_0000{ending}.*spacing"):
        session.set_image(path)
