"""Session: the mask depends on image and clicks only, further clicks are cheap, nothing of torch leaks."""

from __future__ import annotations

import gc
import inspect
import typing
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Cancelled
from nnsam3d.network import SAM3D
from nnsam3d.network.config import preset_config
from nnsam3d.network.cost import count_flop, on_shapes
from nnsam3d.prompts import PromptError, read_prompts

from .conftest import opened, predict_with, read, volume, write_model

SHAPE = (20, 40, 40)
CLICKS: list[tuple[tuple[float, float, float], int | str]] = [
    ((12, 12, 8), "lesion"),
    ((14, 11, 9), 0),
    ((33, 30, 15), "organ"),
    ((20, 20, 10), 1),
]


@pytest.fixture
def session(model: Model) -> Session:
    return opened(model, volume(SHAPE))


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Encoder and decoder calls from now on."""
    counts = [0, 0]
    for index, name in enumerate(("encode", "decode")):
        original = getattr(SAM3D, name)

        def counted(self: SAM3D, *inputs: Any, original: Any = original, index: int = index) -> Any:
            counts[index] += 1
            return original(self, *inputs)

        monkeypatch.setattr(SAM3D, name, counted)
    return counts


def test_before_the_first_positive_click_all_is_background(session: Session) -> None:
    assert session.segmentation.shape == session.shape == SHAPE
    assert not session.segmentation.any()
    session.add_click((12, 12, 8), "background")
    assert not session.segmentation.any()
    assert (session.probabilities[0] == 1).all()


def test_undo_redo_and_reset_are_exact(session: Session) -> None:
    masks = [session.segmentation.copy()]
    for position, label in CLICKS:
        session.add_click(position, label)
        masks.append(session.segmentation.copy())
    assert len({mask.tobytes() for mask in masks}) == len(masks), "every click says something"
    for mask in masks[-2::-1]:
        assert session.undo() is not None
        np.testing.assert_array_equal(session.segmentation, mask)
    assert session.undo() is None
    for mask in masks[1:]:
        assert session.redo() is not None
        np.testing.assert_array_equal(session.segmentation, mask)
    assert session.redo() is None
    session.reset()
    assert session.clicks == ()
    assert not session.segmentation.any()
    assert session.redo() is None


def test_several_labels_at_once(session: Session) -> None:
    session.add_click((12, 12, 8), "lesion")
    session.add_click((13, 12, 8), "organ")
    assert session.segmentation[8, 12, 12] == 1
    assert session.segmentation[8, 12, 13] == 2
    assert session.labels == {"background": 0, "lesion": 1, "organ": 2}


def test_a_further_click_in_a_window_only_decodes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.inference.region._Canvas.grow", lambda canvas: False)
    session.add_click((20, 20, 10), 1)
    assert session.segmentation.any()
    counts = count_encodings(monkeypatch)
    for position, label in (((22, 20, 10), 1), ((18, 17, 9), 0), ((20, 23, 11), 2)):
        session.add_click(position, label)
        assert session.segmentation.any()
    assert counts == [0, 3]
    session.undo()
    assert session.segmentation.any()
    assert counts == [0, 3], "and going back costs nothing"


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_what_a_further_click_costs(name: str) -> None:
    """In operations, on tensors without values: prompt encoder and decoder beside the whole."""
    config = preset_config(name, patch_size=(128, 128, 128))
    with on_shapes(lambda: SAM3D(config).eval()) as net, torch.no_grad():
        image, clicks = torch.empty(1, 1, 128, 128, 128), torch.empty(1, 2, 3)
        labels = torch.zeros(1, 2, dtype=torch.long)
        features = net.encode(image)
        further = count_flop(lambda: net.decode(features, clicks, labels))
        first = count_flop(lambda: net.segment(image, clicks, labels))
    assert further < {"tiny": 0.2, "vit_b": 0.03}[name] * first


def test_files_arrays_and_world_clicks_agree(model: Model, write_image: Callable[..., Path]) -> None:
    path = write_image(shape=SHAPE)
    by_file, by_array, by_world = Session(model), Session(model), Session(model)
    by_file.set_image(path)
    by_file.add_click((12, 13, 8), 1)
    image = sitk.ReadImage(str(path))
    by_array.set_image(sitk.GetArrayFromImage(image), spacing=image.GetSpacing()[::-1])
    by_array.add_click((8, 13, 12), 1, space="array")
    by_world.set_image([path])
    lps = image.TransformIndexToPhysicalPoint((12, 13, 8))
    by_world.add_click(lps, 1, space="lps")
    for other in (by_array, by_world):
        np.testing.assert_array_equal(by_file.segmentation, other.segmentation)
    by_world.reset()
    by_world.add_click((-lps[0], -lps[1], lps[2]), 1, space="ras")
    np.testing.assert_array_equal(by_file.segmentation, by_world.segmentation)
    np.testing.assert_allclose(by_world.clicks[0].position, (12, 13, 8), atol=1e-6)
    assert ImageGrid.from_file(path).size_xyz == by_file.shape[::-1]


def test_saved_prompts_replay_to_the_identical_mask_also_in_predict(
    model_folder: Path, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_image(shape=SHAPE)
    session = Session(model_folder, folds=[0, 1])
    session.set_image(path)
    for position, label in CLICKS:
        session.add_click(position, label)
    mask = session.segmentation.copy()
    saved = path.parent / "case.json"
    session.save_prompts(saved)
    assert read_prompts(saved).clicks[0].label == "lesion"
    session.reset()
    session.load_prompts(saved)
    np.testing.assert_array_equal(session.segmentation, mask)
    again = opened(Model(model_folder, mirroring=False), path)
    again.load_prompts(saved)
    np.testing.assert_array_equal(again.segmentation, mask)
    assert predict_with(model_folder, path.parent, tmp_path / "out") == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "case.nii.gz"), mask)


def test_world_prompts_are_loaded(model: Model, write_image: Callable[..., Path], tmp_path: Path) -> None:
    path = write_image(shape=SHAPE)
    x, y, z = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((12, 13, 8))
    file = tmp_path / "world.json"
    file.write_text(
        f'{{"nnsam3d_prompts": 1, "space": "ras", "clicks": [{{"position": [{-x}, {-y}, {z}], "label": 1}}]}}'
    )
    session = opened(model, path)
    session.load_prompts(file)
    np.testing.assert_allclose(session.clicks[0].position, (12, 13, 8), atol=1e-6)


def test_changed_box_is_tight(session: Session) -> None:
    assert session.changed_box is None
    before = session.segmentation.copy()
    for position, label in CLICKS:
        session.add_click(position, label)
        box, after = session.changed_box, session.segmentation
        changed = np.argwhere(before != after)
        assert box is not None
        assert [side.start for side in box] == changed.min(axis=0).tolist()
        assert [side.stop for side in box] == (changed.max(axis=0) + 1).tolist()
        before = after.copy()
    session.undo()
    session.redo()
    assert session.changed_box is None, "taken back and put back before anybody looked"


def test_the_memory_stays_in_its_bound(model: Model) -> None:
    free, bounded = Session(model), Session(model, cache_bytes=50_000)
    for made in (free, bounded):
        made.set_image(volume(SHAPE), spacing=(1, 1, 1))
    for position, label in CLICKS:
        for made in (free, bounded):
            made.add_click(position, label)
            assert made.segmentation.any()
        assert bounded._prepared.windows._features.used <= 50_000
    np.testing.assert_array_equal(free.segmentation, bounded.segmentation)
    assert free._prepared.windows._features.used > 50_000


def test_results_cannot_be_damaged(session: Session) -> None:
    session.add_click(*CLICKS[0])
    with pytest.raises(ValueError, match="read-only"):
        session.segmentation[0, 0, 0] = 1


def test_wrong_input_leaves_the_session_as_it_was(session: Session, tmp_path: Path) -> None:
    session.add_click(*CLICKS[0])
    mask = session.segmentation.copy()
    with pytest.raises(PromptError, match="outside the image"):
        session.add_click((60, 0, 0), 1)
    with pytest.raises(PromptError, match="unknown label 'kidney'"):
        session.add_click((1, 1, 1), "kidney")
    with pytest.raises(PromptError, match='allowed: "voxel", "lps", "ras", "array"'):
        session.add_click((1, 1, 1), 1, space="mm")
    with pytest.raises(UserError, match="geometry"):
        session.add_click((1, 1, 1), 1, space="lps")
    (tmp_path / "bad.json").write_text('{"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [99, 0, 0]}]}')
    with pytest.raises(PromptError, match=r"bad\.json"):
        session.load_prompts(tmp_path / "bad.json")
    assert len(session.clicks) == 1
    np.testing.assert_array_equal(session.segmentation, mask)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_an_image_of_one_value_is_segmented_without_a_crash(model: Model, value: float) -> None:
    """Nothing to crop to and no variance to divide by; nobody can expect more than an answer that is finite."""
    session = opened(model, np.full(SHAPE, value))
    session.add_click((5, 5, 5), 1)
    assert session.segmentation.shape == SHAPE
    assert session.segmentation[5, 5, 5] == 1
    assert np.isfinite(session.probabilities).all()


def test_wrong_images_are_refused(model: Model, tmp_path: Path) -> None:
    session = Session(model)
    with pytest.raises(UserError, match="set_image first"):
        session.add_click((1, 1, 1), 1)
    with pytest.raises(UserError, match=r"contains 2 volumes of \(20, 20, 20\) voxels"):
        session.set_image(np.zeros((2, 20, 20, 20)), spacing=(1, 1, 1))
    with pytest.raises(UserError, match="shape"):
        session.set_image(np.zeros((20, 20)), spacing=(1, 1, 1))
    with pytest.raises(UserError, match="three positive numbers"):
        session.set_image(volume(SHAPE), spacing=(1, 0, 1))
    with pytest.raises(UserError, match="no_such"):
        session.set_image(tmp_path / "no_such_0000.nii.gz")
    with pytest.raises(UserError, match=r"spacing=\(z, y, x\) in mm"):
        session.set_image(volume(SHAPE))


def test_a_new_image_forgets_the_clicks(session: Session) -> None:
    session.add_click(*CLICKS[0])
    assert session.segmentation.any()
    session.set_image(volume((20, 30, 30)), spacing=(1, 1, 1))
    assert session.clicks == ()
    assert session.segmentation.shape == (20, 30, 30)
    assert not session.segmentation.any()
    assert session.undo() is None


def test_progress_and_warming_up(model: Model, write_image: Callable[..., Path]) -> None:
    told: list[tuple[str, int]] = []
    session = Session(model, progress=lambda what, number: told.append((what, number)))
    session.warm_up()
    session.set_image(write_image())
    assert told == [("warming up", 0), ("reading", 0)]
    session.add_click((12, 12, 8), "lesion")
    assert len(told) == 2, "nothing is computed until the mask is asked for"
    assert session.segmentation.any()
    assert told[2:] == [("window", number) for number in range(len(told) - 2)]


def test_a_cancelled_computation_leaves_the_session_as_it_was(model: Model) -> None:
    seen: list[int] = []

    def cancel_at_once(what: str, number: int) -> None:
        seen.append(number)
        if number == 0 and len(seen) == first:
            session.cancel()

    first = 1
    session = Session(model, progress=cancel_at_once)
    session.set_image(volume((30, 90, 90)), spacing=(1, 1, 1))
    session.add_click((12, 12, 8), "lesion")
    session.add_click((80, 80, 20), "organ")
    with pytest.raises(Cancelled):
        _ = session.segmentation
    assert len(session.clicks) == 2
    after = session.segmentation
    fresh = opened(model, volume((30, 90, 90)))
    fresh.add_click((12, 12, 8), "lesion")
    fresh.add_click((80, 80, 20), "organ")
    np.testing.assert_array_equal(after, fresh.segmentation)
    session.cancel()
    assert session.undo() is not None, "without a computation there is nothing to cancel"
    assert session.segmentation.any()


def test_an_image_that_cannot_be_read_loses_nothing(
    model: Model, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    session = opened(model, write_image())
    session.add_click((12, 12, 8), "lesion")
    before = session.segmentation.copy()
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    for wrong in (tmp_path / "broken.nii.gz", tmp_path / "missing.nii.gz"):
        with pytest.raises(UserError, match=wrong.name):
            session.set_image(wrong)
    assert len(session.clicks) == 1
    np.testing.assert_array_equal(session.segmentation, before)


def test_the_callers_array_may_change_afterwards(model: Model) -> None:
    mine = volume(SHAPE)
    session = opened(model, mine)
    mine[:] = 0
    session.add_click((12, 12, 8), "lesion")
    other = opened(model, volume(SHAPE))
    other.add_click((12, 12, 8), "lesion")
    np.testing.assert_array_equal(session.segmentation, other.segmentation)


def test_a_session_goes_with_its_last_name(model: Model) -> None:
    session = opened(model, volume(SHAPE))
    session.add_click((12, 12, 8), "lesion")
    assert session.segmentation.any()
    image = weakref.ref(session._prepared)
    gc.disable()
    try:
        del session
        assert image() is None, "without waiting for the garbage collector"
    finally:
        gc.enable()


def test_what_is_doubtful_is_told(model: Model) -> None:
    session = opened(model, np.full(SHAPE, 3.0))
    assert session.remarks[0].startswith("the image is 3 in every voxel")
    session.set_image(volume(SHAPE), spacing=(1, 1, 1))
    assert session.remarks == ()


def test_two_sessions_share_a_model(model: Model) -> None:
    one, two = Session(model), Session(model)
    one.set_image(volume(SHAPE), spacing=(1, 1, 1))
    two.set_image(volume(SHAPE, seed=1), spacing=(1, 1, 1))
    one.add_click(*CLICKS[0])
    mask = one.segmentation.copy()
    two.add_click(*CLICKS[2])
    assert two.segmentation.any()
    np.testing.assert_array_equal(one.segmentation, mask)


def test_anisotropic_and_transposed_images_come_back_on_their_own_grid(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    folder = write_model(tmp_path / "model", transpose=(1, 0, 2), spacing=(2.0, 1.0, 1.5))
    path = write_image(shape=(14, 50, 44), spacing_xyz=(0.9, 1.2, 3.0))
    session = opened(folder, path)
    session.add_click((30, 20, 7), "organ")
    assert session.segmentation.shape == (14, 50, 44)
    assert session.segmentation[7, 20, 30] == 2
    assert session.probabilities.shape == (3, 14, 50, 44)


def test_no_torch_type_leaves_a_session(session: Session) -> None:
    session.add_click(*CLICKS[0])
    public = [name for name in vars(Session) if not name.startswith("_")]
    for name in public:
        member = inspect.getattr_static(Session, name)
        if isinstance(member, property):
            value = None if name == "grid" else getattr(session, name)  # this image is an array without a grid
            assert "torch" not in type(value).__module__
            parts = value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, dict) else []
            assert all("torch" not in type(part).__module__ for part in parts)
        function = member.fget if isinstance(member, property) else member
        assert "torch" not in str(typing.get_type_hints(function).get("return"))
    assert isinstance(session.segmentation, np.ndarray)
    assert isinstance(session.probabilities, np.ndarray)
