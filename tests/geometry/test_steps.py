"""Array positions through transpose, crop and resample, and through nnU-Net's real preprocessor."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from nnsam3d.geometry import (
    Chain,
    Crop,
    GeometryError,
    ImageGrid,
    Resample,
    Transpose,
    preprocessing_steps,
)

from .preprocess import preprocess

shapes = st.tuples(*[st.integers(1, 400)] * 3)
steps = st.one_of(
    st.permutations([0, 1, 2]).map(tuple).map(Transpose),
    st.tuples(*[st.integers(0, 200)] * 3).map(Crop),
    st.builds(Resample, shapes, shapes),
)


@settings(max_examples=100)
@given(chain=st.lists(steps, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_chains_are_inverted_exactly(chain: list, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-1, 500, (10, 3))
    both = Chain(tuple(chain))
    # The largest possible magnification, 400 to the power of 4, costs digits; voxels stay far below 1e-6.
    assert np.abs(both.invert(both.apply(points)) - points).max() < 1e-6


@settings(max_examples=50)
@given(order=st.permutations([0, 1, 2]), start=st.tuples(*[st.integers(0, 3)] * 3), seed=st.integers(0, 999))
def test_transpose_and_crop_follow_numpy(order: list[int], start: tuple, seed: int) -> None:
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    moved = array.transpose(order)[start[0] :, start[1] :, start[2] :]
    voxel = np.random.default_rng(seed).integers(0, moved.shape)
    old = Chain((Transpose(tuple(order)), Crop(start))).invert([voxel])[0]
    assert array[tuple(old.astype(int))] == moved[tuple(voxel)]


def test_resample_keeps_the_outer_faces() -> None:
    step = Resample((10, 4, 1), (5, 7, 3))
    assert np.allclose(step.apply([[-0.5] * 3, [9.5, 3.5, 0.5]]), [[-0.5] * 3, [4.5, 6.5, 2.5]])


def test_empty_chain_and_no_points() -> None:
    assert Chain(()).apply([]).shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Transpose((0, 1, 1)),
        lambda: Crop((0, np.nan, 0)),
        lambda: Resample((0, 1, 1), (1, 1, 1)),
        lambda: Crop((0, 0, 0)).apply([[1, 2]]),
        lambda: preprocessing_steps({}, (0, 1, 2), (1, 1, 1)),
        lambda: preprocessing_steps(
            {
                "bbox_used_for_cropping": [[0, 2]] * 3,
                "shape_after_cropping_and_before_resampling": (3, 3, 3),
            },
            (0, 1, 2),
            (1, 1, 1),
        ),
    ],
)
def test_impossible_steps_are_refused(make) -> None:
    with pytest.raises(GeometryError):
        make()


@pytest.mark.parametrize(
    ("transpose", "spacing"),
    [
        ([0, 1, 2], [2.0, 1.0, 1.5]),
        ([0, 2, 1], [1.2, 1.2, 1.2]),
        ([1, 0, 2], [6.0, 0.9, 0.9]),
        ([1, 2, 0], [2.0, 1.0, 1.5]),
        ([2, 0, 1], [1.2, 1.2, 1.2]),
        ([2, 1, 0], [6.0, 0.9, 0.9]),
    ],
)
def test_blob_lands_on_its_click_after_nnunets_preprocessing(tmp_path, transpose, spacing) -> None:
    """From world mm of an oblique file on disk to the voxel of the network's input."""
    # Three blobs far apart, so that a swapped axis or a forgotten crop cannot pass by accident.
    array = np.zeros((30, 44, 52), np.float32)
    array[3:28, 6:43, 2:47] = 1  # the zero border is cropped, unequally on all sides
    zyx = np.array([[8.0, 15.4, 9.7], [20.3, 30.0, 35.6], [14.5, 34.2, 12.1]])
    pitch = np.array([1.7, 1.1, 0.8])
    grid_mm = np.stack(np.meshgrid(*[np.arange(s) for s in array.shape], indexing="ij"), -1) * pitch
    blobs = [40 * np.exp(-(((grid_mm - c * pitch) ** 2).sum(-1)) / (2 * 2.0**2)) for c in zyx]
    image = sitk.GetImageFromArray((array * (1 + sum(blobs))).astype(np.float32))
    image.SetSpacing(pitch[::-1].tolist())
    image.SetOrigin((-120.0, 33.0, 710.0))
    image.SetDirection(Rotation.from_euler("xyz", [20, -35, 60], degrees=True).as_matrix().ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "case_0000.nii.gz"))
    world = [image.TransformContinuousIndexToPhysicalPoint(c[::-1].tolist()) for c in zyx]

    data, properties = SimpleITKIO().read_images([str(tmp_path / "case_0000.nii.gz")])
    grid = ImageGrid.from_nnunet_properties(properties, data.shape[1:])
    out = preprocess(data, properties, transpose, spacing)
    chain = preprocessing_steps(properties, transpose, out.shape[1:])
    clicks = chain.apply(grid.world_to_index(world)[:, ::-1])

    assert np.abs(chain.invert(clicks)[:, ::-1] - grid.world_to_index(world)).max() < 1e-6
    voxels = np.stack(np.meshgrid(*[np.arange(s) for s in out.shape[1:]], indexing="ij"), -1)
    target_mm = np.asarray(spacing)
    for click in clicks:
        near = np.linalg.norm((voxels - click) * target_mm, axis=-1) < 12
        weight = np.clip(out[0] - 2, 0, None) * near
        centre = (voxels * weight[..., None]).sum((0, 1, 2)) / weight.sum()
        # Separate-z resampling takes the nearest slice along the coarse axis, which moves a blob by itself.
        assert np.abs(centre - click).max() < (0.25 if max(spacing) > 5 else 0.02)
