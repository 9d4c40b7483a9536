"""Boxes of an image that is preprocessed lazily are boxes of what nnU-Net's preprocessor gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from nnsam3d.errors import UserError
from nnsam3d.nnunet.lazy import LazyVolume, WholeVolume, _warn_whole, can_be_lazy, volume_of
from nnsam3d.nnunet.normalisation import NORMALISATIONS, Z_SCORE

from .plans import managers

CT = {"mean": 60.0, "std": 40.0, "percentile_00_5": 10.0, "percentile_99_5": 140.0}
TOLERANCE = 1e-5  # of the intensity range


def model(
    spacing: list[float],
    transpose: list[int],
    schemes: list[str],
    *,
    order: int = 3,
    order_z: int = 0,
    separate: bool | None = None,
    threshold: float = 3,
    masked: Sequence[bool] = (),
    resampling: str = "resample_data_or_seg_to_shape",
) -> Any:
    """As much of a trained model as preprocessing asks for."""
    plans, manager = managers(transpose, spacing, normalization=schemes[0], order=order)
    plans.plans["foreground_intensity_properties_per_channel"] = {str(c): CT for c in range(len(schemes))}
    how = {"order_z": order_z, "force_separate_z": separate, "separate_z_anisotropy_threshold": threshold}
    configuration = manager.configuration
    configuration |= {
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": schemes,
        "use_mask_for_norm": list(masked) or [False] * len(schemes),
        "resampling_fn_data": resampling,
        "resampling_fn_seg_kwargs": configuration["resampling_fn_seg_kwargs"] | how,
    }
    ours = resampling.startswith("resample_data")
    configuration["resampling_fn_data_kwargs"] = configuration["resampling_fn_data_kwargs"] | how if ours else {}

    def preprocess(image: np.ndarray, properties: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        data, _, found = DefaultPreprocessor(verbose=False).run_case_npy(image, None, properties, plans, manager, {})
        return data, found

    return SimpleNamespace(
        plans_manager=plans, configuration_manager=manager, num_channels=len(schemes), preprocess=preprocess
    )


def image(seed: int, shape: tuple[int, ...], channels: int, border: int) -> np.ndarray:
    """Noise on blobs, in a frame of zeros."""
    rng = np.random.default_rng(seed)
    data = rng.uniform(1, 200, (channels, *shape)).astype(np.float32)
    data[:, : shape[0] // 2] += 40
    if border:
        for axis, side in enumerate(rng.integers(0, 2, 3)):
            place = [slice(None)] * 4
            place[axis + 1] = slice(0, border) if side else slice(-border, None)
            data[tuple(place)] = 0
    return data


def compare(made: Any, data: np.ndarray, spacing: list[float], seed: int) -> None:
    expected, properties = made.preprocess(data, {"spacing": spacing})
    lazy = LazyVolume(made, data, {"spacing": spacing})
    assert lazy.shape == expected.shape[1:]
    for key in ("shape_before_cropping", "shape_after_cropping_and_before_resampling"):
        assert tuple(lazy.properties[key]) == tuple(properties[key])
    assert [list(side) for side in lazy.properties["bbox_used_for_cropping"]] == [
        list(side) for side in properties["bbox_used_for_cropping"]
    ]
    scale = max(float(np.ptp(expected)), 1e-6)
    rng = np.random.default_rng(seed)
    boxes = [((0, 0, 0), expected.shape[1:]), ((-2, -1, -3), tuple(n + 5 for n in expected.shape[1:]))]
    for _ in range(3):
        size = [int(rng.integers(1, n + 1)) for n in expected.shape[1:]]
        start = [int(rng.integers(0, n - length + 1)) for n, length in zip(expected.shape[1:], size, strict=True)]
        boxes.append((tuple(start), tuple(size)))
    padded = np.pad(expected, [(0, 0), (3, 6), (3, 6), (3, 6)])
    for start, size in boxes:
        found = lazy.box(start, size)
        wanted = padded[(slice(None), *(slice(a + 3, a + 3 + n) for a, n in zip(start, size, strict=True)))]
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() <= TOLERANCE * scale


spacings = st.lists(st.sampled_from([0.7, 1.0, 1.3, 2.0, 6.0]), min_size=3, max_size=3)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(*[st.integers(3, 30)] * 3),
    spacing=spacings,
    target=spacings,
    transpose=st.permutations([0, 1, 2]),
    schemes=st.lists(st.sampled_from(sorted(set(NORMALISATIONS) - {"RGBTo01Normalization"})), min_size=1, max_size=2),
    separate=st.sampled_from([None, True, False]),
    threshold=st.sampled_from([2, 3, 7]),
    orders=st.sampled_from([(3, 0), (1, 0), (3, 1), (2, 3)]),
    border=st.integers(0, 1),
    masked=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_boxes_are_those_of_the_whole(
    seed: int,
    shape: tuple[int, int, int],
    spacing: list[float],
    target: list[float],
    transpose: list[int],
    schemes: list[str],
    separate: bool | None,
    threshold: float,
    orders: tuple[int, int],
    border: int,
    masked: list[bool],
) -> None:
    how: dict[str, Any] = {"order": orders[0], "order_z": orders[1], "separate": separate, "threshold": threshold}
    made = model(target, transpose, schemes, **how, masked=masked[: len(schemes)])
    assert can_be_lazy(made)
    # so that something is left of every axis
    length = [(shape[axis] - border) * spacing[axis] for axis in transpose]
    assume(all(mm > 0.6 * step for mm, step in zip(length, target, strict=True)))
    compare(made, image(seed, shape, len(schemes), border), spacing, seed)


@pytest.mark.parametrize("scheme", NORMALISATIONS)
def test_every_normalisation_on_an_image_larger_than_a_spline_sees(scheme: str) -> None:
    """Rows of the matrices are cut where weights vanish: only a long axis shows what that costs."""
    compare(model([1.0, 0.8, 1.7], [0, 1, 2], [scheme]), image(1, (90, 70, 80), 1, 0), [1.2, 1.0, 1.0], 3)


def test_a_constant_image_is_not_divided_by_zero() -> None:
    data = np.full((1, 6, 7, 8), 5, np.float32)
    compare(model([1.0, 1.0, 1.0], [0, 1, 2], ["ZScoreNormalization"]), data, [1.5, 1.0, 1.0], 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:(nnunetv2|numpy)")  # nnU-Net's mean over an empty mask
def test_a_mask_with_holes_and_without_anything() -> None:
    data = image(4, (14, 15, 16), 2, 2)
    data[:, 5:8, 5:8, 5:8] = 0  # a hole, which nnU-Net fills
    data[1, 3:5] = 0  # zero in one channel only
    made = model([1.0, 0.8, 1.2], [2, 0, 1], [Z_SCORE, Z_SCORE], masked=(True, False))
    compare(made, data, [1.5, 1.0, 1.0], 5)
    compare(model([1.0, 1.0, 1.0], [0, 1, 2], [Z_SCORE], masked=(True,)), data[:1] * 0, [1.5, 1.0, 1.0], 0)


def test_what_is_not_known_is_left_to_nnunet(caplog: pytest.LogCaptureFixture) -> None:
    made = model([1.0, 1.0, 2.0], [2, 0, 1], [Z_SCORE], resampling="resample_torch_fornnunet")
    assert not can_be_lazy(made)
    data = image(2, (9, 10, 11), 1, 1)
    _warn_whole.cache_clear()
    for _ in range(2):
        volume = volume_of(made, data, {"spacing": [1.0, 1.2, 1.0]})
    assert caplog.text.count("preprocessed as a whole") == 1, "it is said once"
    assert isinstance(volume, WholeVolume)
    expected, _ = made.preprocess(data, {"spacing": [1.0, 1.2, 1.0]})
    np.testing.assert_array_equal(volume.whole(), expected)
    np.testing.assert_array_equal(volume.box((1, 2, 0), (3, 2, 4)), expected[:, 1:4, 2:4, 0:4])


def test_an_image_thinner_than_a_voxel_of_the_model_is_an_error() -> None:
    made = model([6.0, 1.0, 1.0], [0, 1, 2], ["NoNormalization"])
    with pytest.raises(UserError, match=r"less than half a voxel"):
        LazyVolume(made, image(0, (3, 8, 8), 1, 0), {"spacing": [0.7, 1.0, 1.0]})


def test_colours_that_are_none_are_an_error() -> None:
    made = model([1.0, 1.0, 1.0], [0, 1, 2], ["RGBTo01Normalization"])
    with pytest.raises(UserError, match="RGB"):
        LazyVolume(made, np.full((1, 4, 4, 4), 300, np.float32), {"spacing": [1.0, 1.0, 1.0]}).box((0, 0, 0), (2, 2, 2))
