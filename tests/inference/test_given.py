"""Images, positions and models of many kinds: taken as if read from a file, or refused in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.given import given_image, given_model
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.datasets import STARTER, WEIGHTS
from nnsam3d.prompts import Click, PromptError

from .conftest import opened, volume, write_model

nibabel = pytest.importorskip("nibabel")
TURN = 0.3
OBLIQUE = (np.cos(TURN), -np.sin(TURN), 0, np.sin(TURN), np.cos(TURN), 0, 0, 0, 1)
DIRECTIONS = {
    "oblique": OBLIQUE,
    "flipped": (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    "permuted and flipped": (0, 0, -1, 1, 0, 0, 0, -1, 0),
}


@pytest.fixture(params=["SimpleITKIO", "NibabelIO"])
def reading_model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    folder = write_model(tmp_path / "model", spacing=(1.2, 0.9, 1.1), transpose=(1, 0, 2))
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps(plans | {"image_reader_writer": request.param}))
    return Model(folder, [0], mirroring=False)


def objects_of(path: Path) -> dict[str, Any]:
    """The image of a file in other libraries."""
    found: dict[str, Any] = {"SimpleITK": sitk.ReadImage(str(path)), "nibabel": nibabel.load(path)}
    found["nibabel, in memory"] = nibabel.Nifti1Image(found["nibabel"].get_fdata(), None, found["nibabel"].header)
    data = pytest.importorskip("monai.data")
    plain = torch.from_numpy(found["nibabel"].get_fdata())
    affine = torch.from_numpy(found["nibabel"].affine)
    found["MONAI"] = data.MetaTensor(plain, affine=affine)
    found["MONAI, channel first"] = data.MetaTensor(plain[None].float().requires_grad_(), affine=affine)
    lps = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)) @ affine
    found["MONAI, LPS"] = data.MetaTensor(plain, affine=lps, meta={"space": "LPS"})
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_objects_with_geometry_are_as_their_file(
    reading_model: Model, write_image: Callable[..., Path], direction: str, tmp_path: Path
) -> None:
    path = write_image(shape=(7, 16, 18), spacing_xyz=(0.7, 1.3, 2.5), direction=DIRECTIONS[direction])
    by_file = opened(reading_model, path)
    world = by_file.grid.index_to_world([[9, 8, 3]])[0]
    by_file.add_click(world, "lesion", space="lps")
    assert by_file.segmentation.any()
    by_file.save_segmentation(tmp_path / "file.nii.gz")
    for name, image in objects_of(path).items():
        session = opened(reading_model, [image])
        session.set_image(image)
        np.testing.assert_allclose(session.grid.ras_affine, by_file.grid.ras_affine, atol=1e-4, err_msg=name)
        assert session.shape == by_file.shape
        np.testing.assert_allclose(session.spacing, by_file.spacing, rtol=1e-6)
        session.add_click(world, "lesion", space="lps")
        np.testing.assert_array_equal(session.segmentation, by_file.segmentation, err_msg=name)
        session.save_segmentation(tmp_path / "object.nii.gz")
        ours, theirs = (sitk.ReadImage(str(tmp_path / f"{one}.nii.gz")) for one in ("object", "file"))
        np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
        session.set_image(image, spacing=by_file.spacing)
        with pytest.raises(UserError, match="carries the spacing"):
            session.set_image(image, spacing=(9, 9, 9))
        with pytest.raises(UserError, match="without properties"):
            session.set_image(image, properties={"spacing": [1, 1, 1]})


def test_properties_are_those_of_the_reader(model: Model, write_image: Callable[..., Path]) -> None:
    path = write_image(spacing_xyz=(0.7, 1.3, 2.5))
    data, properties = model.read([path])
    _, array, ours = given_image(sitk.ReadImage(str(path)), None, None, model.reader_name)
    np.testing.assert_array_equal(array, data[0])
    assert ours == properties


def test_one_object_per_channel(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    model = Model(write_model(tmp_path / "two", channels=2), [0], mirroring=False)
    paths = [write_image(f"case_000{number}.nii.gz", seed=number) for number in range(2)]
    by_file, by_object = Session(model), Session(model)
    by_file.set_image(paths)
    by_object.set_image([sitk.ReadImage(str(path)) for path in paths])
    for session in (by_file, by_object):
        session.add_click((15, 20, 10), 1)
    np.testing.assert_array_equal(by_file.segmentation, by_object.segmentation)
    other = sitk.ReadImage(str(paths[1]))
    other.SetOrigin((0, 0, 0))
    with pytest.raises(UserError, match="channel 1 has another grid"):
        by_object.set_image([sitk.ReadImage(str(paths[0])), other])
    with pytest.raises(UserError, match="mixes images and arrays"):
        by_object.set_image([other, volume((20, 40, 30))], spacing=(1, 1, 1))
    with pytest.raises(UserError, match="mixes file names"):
        by_object.set_image([paths[0], volume((20, 40, 30))])


def test_what_a_reader_cannot_represent_is_refused(model: Model) -> None:
    array = volume((20, 30, 26))
    sheared = np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    session = Session(model)
    with pytest.raises(UserError, match="right angles"):
        session.set_image(nibabel.Nifti1Image(array, sheared))
    with pytest.raises(UserError, match=r"Nifti1Image has the shape \(3, 20, 30, 26\)"):
        session.set_image(nibabel.Nifti1Image(np.stack([array] * 3), np.eye(4)))
    with pytest.raises(UserError, match="3 values in every voxel"):
        session.set_image(sitk.GetImageFromArray(np.stack([array] * 3, axis=-1), isVector=True))
    with pytest.raises(UserError, match=r"single slice|2 axes"):
        session.set_image(sitk.GetImageFromArray(array[0]))
    with pytest.raises(UserError, match="SimpleITKIOWithReorient"):
        given_image(sitk.GetImageFromArray(array), None, None, "SimpleITKIOWithReorient")
    far = sitk.GetImageFromArray(array)
    far.SetSpacing((1e8, 1, 1))
    with pytest.raises(UserError, match="spacing"):
        session.set_image(far)


class Foreign:
    """An image of a library that is not known."""

    def GetSpacing(self) -> tuple[float, ...]:
        return 1.0, 1.0, 1.0


FULL = volume((20, 30, 26))
WRONG_IMAGES: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "empty": np.zeros((0, 20, 20)),
    "an empty list": [],
    "an empty name": "",
    "masked": np.ma.masked_greater(FULL, 120),
    "complex": FULL.astype(complex),
    "objects": FULL.astype(object),
    "text": np.full((4, 5, 6), "a"),
    "bytes": np.full((4, 5, 6), b"a"),
    "dates": np.zeros((4, 5, 6), "datetime64[s]"),
    "structured": np.zeros((4, 5, 6), [("a", "f4")]),
    "ragged": [[[1, 2], [3]], [[4]]],
    "a dictionary": {"image": FULL},
    "a generator": (one for one in ("a.nii.gz",)),
    "a set": {"a.nii.gz"},
    "another library's": Foreign(),
    "a model": torch.nn.Linear(2, 2),
    "a sparse tensor": torch.zeros(4, 5, 6).to_sparse(),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_no_image_is_refused_in_one_sentence(model: Model, name: str) -> None:
    session = opened(model, FULL)
    with pytest.raises(UserError) as caught:
        session.set_image(WRONG_IMAGES[name], spacing=(1, 1, 1))
    assert 0 < len(str(caught.value)) < 300
    assert session.shape == FULL.shape, "and the session is as it was"


@pytest.mark.parametrize(
    "image",
    [
        torch.from_numpy(FULL),
        torch.from_numpy(FULL).double().requires_grad_(),
        np.ma.array(FULL),
        FULL.astype(">f8"),
        FULL[None],
        FULL.tolist(),
        np.asfortranarray(FULL),
    ],
    ids=lambda image: type(image).__name__,
)
def test_arrays_of_any_kind_are_the_same_image(model: Model, image: Any) -> None:
    masks = []
    for given, spacing in ((FULL, (1, 1, 1)), (image, torch.ones(3)), (image, np.ones(3)), (image, [Fraction(1)] * 3)):
        session = Session(model)
        session.set_image(given, spacing=spacing)
        session.add_click((13, 15, 10), 1)
        masks.append(session.segmentation)
    for mask in masks:
        np.testing.assert_array_equal(mask, masks[0])


@pytest.mark.parametrize(
    "spacing", [1.0, "1 1 1", b"111", {1.0, 2.0, 3.0}, {"z": 1, "y": 1, "x": 1}, [1, 1], "abc", None]
)
def test_spacing_is_three_numbers(model: Model, spacing: Any) -> None:
    with pytest.raises(UserError, match=r"mm"):
        Session(model).set_image(FULL, spacing=spacing)


@pytest.mark.parametrize("properties", [[1], "text", {"sitk_stuff": {}}, {"spacing": None}, {"spacing": "abc"}])
def test_properties_are_checked(model: Model, properties: Any) -> None:
    with pytest.raises(UserError):
        Session(model).set_image(FULL, properties=properties)


POSITIONS = [
    torch.tensor([13, 15, 10]),
    torch.tensor([13.0, 15.0, 10.0], requires_grad=True),
    np.array([13, 15, 10], np.uint8),
    [np.float32(13), np.int64(15), torch.tensor(10.0)],
    (Fraction(13), 15, 10.0),
]


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_positions_of_any_kind(model: Model, position: Any) -> None:
    session = opened(model, FULL)
    for label in (1, np.int64(1), torch.tensor(1), np.str_("lesion")):
        session.add_click(position, label)
    assert {click.position for click in session.clicks} == {(13.0, 15.0, 10.0)}
    assert all(type(number) is float for click in session.clicks for number in click.position)


@pytest.mark.parametrize(
    "position",
    [
        {13, 15, 10},
        frozenset({13, 15, 10}),
        {13: 0, 15: 0, 10: 0},
        {13: 0, 15: 0, 10: 0}.keys(),
        (number for number in (13, 15, 10)),
        "abc",
        b"abc",
        None,
        13,
        [13, 15],
        [True, 15, 10],
        np.array([True, True, True]),
        np.array([13, 15, 10 + 1j]),
        np.array(["13", "15", "10"]),
        [[13], [15], [10]],
        torch.tensor([[13, 15, 10]]),
        torch.tensor(3),
    ],
)
def test_no_position_is_refused(position: Any) -> None:
    with pytest.raises(PromptError, match="position must be three finite numbers"):
        Click(position, 1)


def test_a_model_is_found_from_what_lies_in_it(model_folder: Path) -> None:
    fold, checkpoint = model_folder / "fold_1", "checkpoint_final.pth"
    for given in (fold, str(fold), os.fsencode(fold), fold / checkpoint, f"{fold}/"):
        assert given_model(given, None) == (model_folder, ["1"], checkpoint)
        assert given_model(given, 1) == (model_folder, ["1"], checkpoint)
        with pytest.raises(UserError, match="is fold 1, but folds 0 were given"):
            given_model(given, [0])
    for folds in (0, "0", [0], np.int64(0), torch.tensor(0), (0,), range(1)):
        assert [str(one) for one in given_model(model_folder, folds)[1] or []] == ["0"]
    assert given_model(model_folder / "plans.json", None)[0] == model_folder
    assert Session(STARTER / "fold_0" / WEIGHTS).labels == Session().labels, "as models are passed on"
    session = Session(fold, device=None)
    assert session._model.folds == ["1"]
    assert Session(model_folder, folds=0, device=torch.device("cpu"))._model.device.type == "cpu"  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [7, [], "", torch.nn.Linear(2, 2)])
def test_no_model_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match="the model must be its folder"):
        Session(wrong)


@pytest.mark.parametrize("device", [3.5, "no-such", object(), "cuda:99"])
def test_no_device_is_refused(model_folder: Path, device: Any) -> None:
    with pytest.raises(UserError, match="device"):
        Session(model_folder, folds=0, device=device)


def test_a_mask_to_start_from(model: Model) -> None:
    session = opened(model, FULL)
    mask = np.zeros(FULL.shape, np.uint8)
    mask[5:8, 5:9, 5:9] = 1
    for given in (mask, torch.from_numpy(mask), mask.astype(float), mask.tolist()):
        session.start_from(given)
        np.testing.assert_array_equal(session.segmentation, mask)
    wrong = (None, sitk.GetImageFromArray(mask), nibabel.Nifti1Image(mask.T, np.eye(4)), mask.astype(complex), "", [])
    for given in wrong:
        with pytest.raises(UserError):
            session.start_from(given)
    monai = pytest.importorskip("monai.data")
    cube = np.zeros((26, 26, 26), np.uint8)
    session.set_image(volume((26, 26, 26)), spacing=(1, 1, 1))
    with pytest.raises(UserError, match="axes z, y, x"):
        session.start_from(monai.MetaTensor(torch.from_numpy(cube)))
