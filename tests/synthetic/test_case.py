"""Synthetic volumes: determined by their generator, labelled consistently, of any size and spacing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from nnsam3d.synthetic import INSIDE, synthetic_case
from nnsam3d.synthetic.case import draw_spacing
from nnsam3d.synthetic.noise import smooth_noise
from nnsam3d.synthetic.scene import OBJECTS, SMALLEST
from nnsam3d.synthetic.shapes import draw_shape

SHAPE = (28, 40, 36)
CASES = 12


@pytest.fixture(scope="module")
def cases():
    return [synthetic_case(np.random.default_rng([3, n]), SHAPE) for n in range(CASES)]


def test_a_case_depends_only_on_its_generator(cases):
    again = synthetic_case(np.random.default_rng([3, 5]), SHAPE)
    np.testing.assert_array_equal(again.image_ZYX, cases[5].image_ZYX)
    np.testing.assert_array_equal(again.labels_ZYX, cases[5].labels_ZYX)
    assert again.spacing_ZYX == cases[5].spacing_ZYX
    assert not np.array_equal(cases[4].labels_ZYX, cases[5].labels_ZYX)


def test_images_are_finite_and_not_flat(cases):
    for case in cases:
        assert case.image_ZYX.dtype == np.float32
        assert case.image_ZYX.shape == case.labels_ZYX.shape == SHAPE
        assert np.isfinite(case.image_ZYX).all()
        assert case.image_ZYX.std() > 0


def test_labels_are_objects_and_what_lies_inside_them(cases):
    found = [np.unique(case.labels_ZYX, return_counts=True) for case in cases]
    for labels, counts in found:
        present = set(labels.tolist()) - {0}
        assert present
        assert present <= {*range(1, OBJECTS + 1), *INSIDE}
        assert counts.min() >= SMALLEST
        assert {INSIDE[label] for label in present & set(INSIDE)} <= present
    assert any(set(labels.tolist()) & set(INSIDE) for labels, _ in found)
    assert max(len(labels) for labels, _ in found) > 15
    assert len({len(labels) for labels, _ in found}) > 3


def test_what_lies_inside_touches_its_object(cases):
    for case in cases:
        for inner, outer in INSIDE.items():
            mask = case.labels_ZYX == inner
            if mask.any():
                assert (ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & (case.labels_ZYX == outer)).any()


def test_objects_are_cut_by_the_border_and_touch_one_another(cases):
    faces = touching = 0
    for case in cases:
        labels = case.labels_ZYX
        faces += any(np.any(side) for side in (labels[0], labels[-1], labels[:, 0], labels[:, :, -1]))
        a, b = labels[1:], labels[:-1]
        touching += bool(((a > 0) & (b > 0) & (a <= OBJECTS) & (b <= OBJECTS) & (a != b)).any())
    assert faces > CASES / 2
    assert touching > CASES / 2


def test_most_objects_can_be_seen_and_some_hardly(cases):
    """The contrast of an object to its surroundings, in standard deviations of the image."""
    contrasts = []
    for case in cases:
        for label in set(np.unique(case.labels_ZYX).tolist()) - {0}:
            mask = case.labels_ZYX == label
            shell = ndimage.binary_dilation(mask) & ~mask
            contrasts.append(abs(case.image_ZYX[mask].mean() - case.image_ZYX[shell].mean()) / case.image_ZYX.std())
    assert np.mean(np.array(contrasts) > 0.3) > 0.3
    assert np.min(contrasts) < 0.1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.7, 0.7), (1, 1, 3)])
def test_any_spacing(spacing):
    case = synthetic_case(np.random.default_rng(1), (16, 24, 20), spacing)
    assert case.spacing_ZYX == tuple(map(float, spacing))
    assert case.labels_ZYX.any()


def test_drawn_spacings_are_isotropic_and_anisotropic():
    rng = np.random.default_rng(0)
    ratios = [max(spacing) / min(spacing) for spacing in (draw_spacing(rng) for _ in range(100))]
    assert min(ratios) < 1.1
    assert 3 < max(ratios) < 6


def test_objects_are_as_deep_in_mm_as_they_are_wide():
    """Thick slices: fewer slices contain an object."""
    rng = np.random.default_rng(0)
    shapes = [draw_shape(rng, (60, 60, 60), (4, 1, 1), 6.0) for _ in range(60)]
    extents = np.array([[side.stop - side.start for side in shape.place] for shape in shapes if shape is not None])
    assert np.median(extents[:, 0]) * 2 < np.median(extents[:, 1])


@pytest.mark.parametrize("scale", [(0.5, 0.5, 0.5), (1, 1, 1), (4, 2, 8)])
def test_noise_has_unit_variance_and_the_scale(scale):
    fields = np.stack([smooth_noise(np.random.default_rng(n), (20, 24, 28), scale) for n in range(40)])
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert abs(fields.mean()) < 0.1
    for axis, length in enumerate(scale, start=1):
        step = np.mean(np.diff(fields, axis=axis) ** 2)
        assert step == pytest.approx(2, abs=0.2) if length < 1 else step < 1.5 / length


@pytest.mark.parametrize(("shape", "spacing"), [((7, 20, 20), None), ((20, 20), None), ((9, 9, 9), (1, 0, 1))])
def test_what_cannot_be_drawn_is_refused(shape, spacing):
    with pytest.raises(ValueError, match=r"synthetic volume needs|positive"):
        synthetic_case(np.random.default_rng(0), shape, spacing)


def test_a_volume_takes_little_processor_time():
    """Volumes are made during training: 0.1 s each, here with a wide margin, of this process alone."""
    before = time.process_time()
    for n in range(4):
        synthetic_case(np.random.default_rng(n), (64, 56, 56))
    assert time.process_time() - before < 4 * 2
