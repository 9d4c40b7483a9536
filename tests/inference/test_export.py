"""The way back to the image's grid: the computed part alone, as nnU-Net's own export of the whole has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.export import Region

from .conftest import volume, write_model

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "resampled": {"spacing": (1.3, 0.8, 1.1)},
    "to finer slices": {"spacing": (1.0, 1.0, 1.0), "raw": (2.5, 0.7, 0.9)},
    "coarse slices": {"spacing": (4.0, 1.0, 1.0), "raw": (5.0, 0.8, 0.8)},
    "transposed": {"spacing": (0.9, 1.2, 1.0), "transpose": (2, 0, 1)},
    "transposed, coarse along y": {"spacing": (4.0, 1.0, 1.0), "transpose": (1, 2, 0), "raw": (1.0, 5.0, 0.8)},
    "cropped": {"spacing": (1.2, 0.9, 1.0), "zeros": 6},
    "cropped and transposed": {"spacing": (1.2, 0.9, 1.0), "zeros": 5, "transpose": (1, 0, 2)},
    "regions": {"spacing": (1.2, 0.9, 1.0), "labels": REGIONS},
    "ignore label": {"spacing": (1.2, 0.9, 1.0), "labels": {"background": 0, "lesion": 1, "ignore": 2}},
    "another resampling": {"spacing": (1.2, 0.9, 1.0), "order": 0},
    "torch resampling": {"spacing": (1.2, 0.9, 1.0), "torch": True},
}


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[[str], PreparedImage]:
    def make(name: str) -> PreparedImage:
        geometry = dict(GEOMETRIES[name])
        zeros, raw = geometry.pop("zeros", 0), geometry.pop("raw", (1.0, 1.0, 1.0))
        order, use_torch = geometry.pop("order", 1), geometry.pop("torch", False)
        model = Model(write_model(tmp_path / "model", **geometry), mirroring=False)
        configuration = model.configuration_manager.configuration
        configuration["resampling_fn_probabilities_kwargs"]["order"] = order
        if use_torch:
            configuration["resampling_fn_probabilities"] = "resample_torch_fornnunet"
            configuration["resampling_fn_probabilities_kwargs"] = {"is_seg": False, "force_separate_z": None}
        image = np.pad(volume((24, 40, 33)), zeros)
        return PreparedImage(model, image[None], {"spacing": list(raw)})

    return make


def smooth_logits(image: PreparedImage) -> np.ndarray:
    heads = image.model.label_manager.num_segmentation_heads
    noise = np.random.default_rng(1).normal(size=(heads, *image.volume.shape))
    return (30 * ndimage.gaussian_filter(noise, (0, 2, 2, 2))).astype(np.float32)


def assert_nearly_the_same(found: np.ndarray, expected: np.ndarray) -> None:
    """nnU-Net computes in double precision: ties may go either way."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert (found != expected).mean() < 1e-3


@pytest.mark.parametrize("name", GEOMETRIES)
def test_everything_computed_is_nnunets_own_export(prepare: Callable, name: str) -> None:
    image = prepare(name)
    logits = smooth_logits(image)
    expected, probabilities = image.model.export(logits.copy(), image.properties, probabilities=True)
    result = image._export([Region((0, 0, 0), logits, ())], probabilities=True)
    assert len(np.unique(expected)) > 1
    assert_nearly_the_same(result.label_map, expected)
    assert probabilities is not None
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, probabilities, atol=2e-4)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_part_is_the_whole_export_there(prepare: Callable, name: str) -> None:
    image = prepare(name)
    logits = smooth_logits(image)
    whole, _ = image.model.export(logits.copy(), image.properties)
    low, high = np.array([3, 5, 4]), np.array(logits.shape[1:]) - [2, 6, 5]
    part = logits[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    region = Region((3, 5, 4), part, ())
    result = image._export([region], probabilities=False)
    (box,) = result.boxes
    assert not np.delete(result.label_map, np.arange(box[0].start, box[0].stop), axis=0).any()
    if image.exporter.resampling.is_linear:
        assert_nearly_the_same(result.label_map[box], whole[box])
        shares = [(side.stop - side.start) / n for side, n in zip(box, whole.shape, strict=True)]
        assert max(shares) < 1, "only the part is worked on"
    else:
        agree = result.label_map[result.label_map > 0] == whole[result.label_map > 0]
        assert agree.mean() > 0.98


def test_the_computed_part_ends_at_the_images_end(prepare: Callable) -> None:
    """Half a voxel at the border belongs to no interval between voxel centres; it must not stay background."""
    image = prepare("to finer slices")
    logits = np.full((3, *image.volume.shape), -9, np.float32)
    logits[1] = 9
    assert (image._export([Region((0, 0, 0), logits, ())], False).label_map == 1).all()


def test_nothing_computed_is_background(prepare: Callable) -> None:
    image = prepare("as it is")
    probabilities = image.exporter.probabilities([])
    assert (probabilities[0] == 1).all()
    assert not probabilities[1:].any()
    assert not image.exporter.empty().any()


def test_a_click_on_a_region_finds_it_under_another_label(tmp_path: Path) -> None:
    """Logits that say "whole" and "core": the label map says core, but the place is in the whole as well."""
    from nnsam3d.nnunet.export import is_label, to_labels

    model = Model(write_model(tmp_path / "model", labels=REGIONS), mirroring=False)
    logits = np.array([5, 5, -5], np.float32)[:, None, None, None] * np.ones((3, 2, 2, 2), np.float32)
    assert (to_labels(model, logits) == 2).all()
    assert is_label(model, logits, 1).all()
    assert is_label(model, logits, 2).all()
    assert not is_label(model, logits, 3).any()
    assert model.regions == {1: {1, 2, 3}, 2: {2, 3}, 3: {3}}
