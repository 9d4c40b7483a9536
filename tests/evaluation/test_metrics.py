"""Metrics against a second implementation (surface-distance) and against sentences that must hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnsam3d.evaluation.metrics import area_under_curve, clicks_to_reach, score_mask

SHAPE = (7, 9, 8)


def blob(seed: int, smooth: float, level: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), smooth)
    return noise > level * noise.std()


def hd95_by_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    def border(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        return np.argwhere(padded & ~ndimage.binary_erosion(padded)) * spacing

    distance = cdist(border(a), border(b))
    return max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95))


masks = st.builds(blob, st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 1.5]), st.sampled_from([-3.0, 0.0, 1.0, 2.0]))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 4.8])] * 3)


@settings(max_examples=60)
@given(masks, masks, spacings)
def test_agrees_with_a_second_implementation(a, b, spacing):
    if not a.any() or not b.any():
        return
    scores = score_mask(a, b, spacing)
    second = surface_distance.compute_surface_distances(a, b, spacing)
    for tolerance in (5, 2):
        expected = surface_distance.compute_surface_dice_at_tolerance(second, tolerance)
        assert scores[f"nsd_{tolerance}mm"] == pytest.approx(expected, abs=1e-5)
    assert scores["hd95"] == pytest.approx(hd95_by_force(a, b, spacing), abs=1e-4)
    assert scores["dice"] == pytest.approx(surface_distance.compute_dice_coefficient(a, b))


@settings(max_examples=30)
@given(masks, masks, spacings)
def test_symmetry_and_bounds(a, b, spacing):
    there, back = score_mask(a, b, spacing), score_mask(b, a, spacing)
    for name in ("dice", "nsd_5mm", "nsd_2mm", "hd95"):
        assert there[name] == back[name] or there[name] == pytest.approx(back[name], abs=1e-5)
    if there["nsd_2mm"] is not None:
        assert 0 <= there["nsd_2mm"] <= there["nsd_5mm"] <= 1


def test_identity_and_single_voxels():
    voxel, neighbour = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    voxel[3, 4, 4] = neighbour[3, 4, 5] = True
    perfect = {"dice": 1, "nsd_5mm": 1, "nsd_2mm": 1, "hd95": 0, "volume_error": 0, "detected": True}
    for mask in (voxel, np.ones(SHAPE, bool)):
        assert score_mask(mask, mask, (3.0, 1.0, 1.0)) == perfect
    apart = score_mask(voxel, neighbour, (1.0, 1.0, 4.0))
    assert apart["dice"] == 0
    assert apart["hd95"] == pytest.approx(4)
    assert apart["detected"] is False


def test_empty_masks_follow_nnunet():
    nothing, something = np.zeros(SHAPE, bool), blob(1, 1.0, 1.0)
    unknown = dict.fromkeys(["dice", "nsd_5mm", "nsd_2mm", "hd95", "volume_error", "detected"])
    assert score_mask(nothing, nothing, (1, 1, 1)) == unknown
    assert score_mask(something, nothing, (1, 1, 1)) == unknown | {"dice": 0, "nsd_5mm": 0, "nsd_2mm": 0}
    missed = {"dice": 0, "nsd_5mm": 0, "nsd_2mm": 0, "hd95": None, "volume_error": -1, "detected": False}
    assert score_mask(nothing, something, (1, 1, 1)) == missed


def test_dice_is_nnunets():
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

    for seed in range(5):
        a, b = blob(seed, 1.0, 0.5), blob(seed + 100, 1.0, 0.5)
        tp, fp, fn, _ = compute_tp_fp_fn_tn(a, b, None)
        assert score_mask(a, b, (1, 1, 1))["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_curves():
    rows = [dict.fromkeys(range(11), 1.0), {1: 0.0, 2: 0.5, 3: 0.5, 4: 0.5, 5: 1.0}, {1: 0.5, 2: 0.5}]
    assert area_under_curve(pd.DataFrame(rows)).tolist() == pytest.approx([4, 2, np.nan], nan_ok=True)
    assert area_under_curve(pd.DataFrame(rows[2:])).isna().all()
    dice = pd.DataFrame([{0: 0.2, 1: 0.85, 2: 0.7, 3: 0.9, 5: None}])
    found = [clicks_to_reach(dice, target).item() for target in (0.8, 0.9, 0.95)]
    assert found == pytest.approx([1, 3, np.nan], nan_ok=True)
