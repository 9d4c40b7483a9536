"""Positions that carry their space: every way round comes back, and nnU-Net's real preprocessing agrees."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from nnsam3d.geometry import GeometryError, ImageGrid, Points, Steps, preprocessing_steps

from ..nnunet.plans import preprocessed

SPACES = ("voxel", "lps", "ras", "array")
seeds = st.integers(0, 2**32 - 1)


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """Axial, sagittal and coronal, flipped and permuted axes, oblique, and oblique with a little shear."""
    kind = draw(st.sampled_from(["axes", "oblique", "sheared"]))
    signs = np.array(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    matrix = np.eye(3)[:, draw(st.permutations([0, 1, 2]))] * signs
    if kind != "axes":
        matrix = Rotation.random(random_state=draw(st.integers(0, 2**31))).as_matrix() @ matrix
    if kind == "sheared":  # the sform of a gantry tilt
        matrix[:, 2] += 0.3 * matrix[:, 1]
        matrix[:, 2] /= np.linalg.norm(matrix[:, 2])
    return matrix


@st.composite
def grids(draw: st.DrawFn) -> ImageGrid:
    size = draw(st.tuples(*[st.integers(1, 500)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 10)] * 3))
    origin = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return ImageGrid(size, spacing, origin, tuple(map(tuple, draw(directions()))))


@settings(max_examples=100)
@given(grid=grids(), first=st.sampled_from(SPACES), second=st.sampled_from(SPACES), seed=seeds)
def test_every_way_through_the_spaces_comes_back(grid: ImageGrid, first: str, second: str, seed: int) -> None:
    index = Points(np.random.default_rng(seed).uniform(-10, 510, (20, 3)), "voxel")
    away = index.to(first, grid).to(second, grid)
    assert away.space == second
    assert np.abs(away.to("voxel", grid).values_N3 - index.values_N3).max() < 1e-6
    assert (away.inside(grid) == index.inside(grid)).all()


@settings(max_examples=100)
@given(grid=grids(), space=st.sampled_from(SPACES), order=st.permutations([0, 1, 2]), data=st.data())
def test_from_the_users_mm_to_a_window_of_the_network_and_back(grid: ImageGrid, space: str, order, data) -> None:
    """All steps of a prediction on a random image: below 1e-6 voxel before anything is rounded."""
    small = st.integers(0, 20)
    triple = st.tuples(small, small, small)
    transposed = [grid.shape_zyx[a] for a in order]
    start = [min(c, s - 1) for c, s in zip(data.draw(triple), transposed, strict=True)]
    cropped = tuple(s - c for s, c in zip(transposed, start, strict=True))
    factors = data.draw(st.tuples(*[st.floats(0.2, 5)] * 3))
    resampled = tuple(max(1, round(s * f)) for s, f in zip(cropped, factors, strict=True))
    steps = Steps(tuple(order), tuple(start), cropped, resampled)
    index = Points(np.random.default_rng(0).uniform(-0.5, np.array(grid.size_xyz) - 0.5, (20, 3)), "voxel")
    clicks = index.to(space, grid)
    network = steps.apply(clicks.to("array", grid).values_N3)
    back = Points(steps.invert(network), "array").to(space, grid)
    assert np.abs(back.to("voxel", grid).values_N3 - index.values_N3).max() < 1e-6


@settings(max_examples=40)
@given(direction=directions(), seed=seeds)
def test_negative_steps_of_a_nifti_affine(direction: np.ndarray, seed: int) -> None:
    """nibabel's affine has no spacing of its own: a negative diagonal is a flipped direction."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = direction * rng.uniform(0.3, 5, 3) * rng.choice([-1, 1], 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    grid = ImageGrid.from_ras_affine(affine, (30, 30, 30))
    assert min(grid.spacing_xyz) > 0
    index = rng.uniform(0, 30, (10, 3))
    expected = index @ affine[:3, :3].T + affine[:3, 3]
    ras = Points(index, "voxel").to("ras", grid)
    assert np.allclose(ras.values_N3, expected)
    assert np.abs(ras.to("voxel", grid).values_N3 - index).max() < 1e-6


@settings(max_examples=30)
@given(
    direction=directions(),
    pitch=st.tuples(*[st.floats(0.7, 2.0)] * 3),
    target=st.tuples(*[st.floats(0.7, 2.2)] * 3),
    order=st.permutations([0, 1, 2]),
    reader=st.sampled_from([SimpleITKIO, NibabelIO]),
    seed=seeds,
)
def test_a_blob_lands_within_half_a_voxel_of_its_click(
    tmp_path_factory: pytest.TempPathFactory, direction, pitch, target, order, reader, seed
) -> None:
    """Random geometry on disk, nnU-Net's reader and preprocessor; the click is known in mm only."""
    # a shear cannot be kept in all headers
    assume(np.abs(direction.T @ direction - np.eye(3)).max() < 1e-6)
    rng = np.random.default_rng(seed)
    shape = np.array([26, 30, 34])
    margins = rng.integers(0, 4, (3, 2))  # zero borders, which nnU-Net crops
    body = tuple(slice(low, s - high) for (low, high), s in zip(margins, shape, strict=True))
    sigma = 2.2
    reach = 3 * sigma / np.array(pitch)
    low, high = margins[:, 0] + reach, shape - margins[:, 1] - 1 - reach
    assume((low < high).all())
    centre_zyx = rng.uniform(low, high)
    voxels = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij"), -1)
    blob = 40 * np.exp(-(((voxels - centre_zyx) * pitch) ** 2).sum(-1) / (2 * sigma**2))
    array = np.zeros(shape, np.float32)
    array[body] = (1 + blob)[body]
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(pitch[::-1])
    image.SetOrigin(rng.uniform(-300, 300, 3).tolist())
    image.SetDirection(direction.ravel().tolist())
    path = tmp_path_factory.mktemp("blob") / "case_0000.nii.gz"
    sitk.WriteImage(image, str(path))
    click = Points([image.TransformContinuousIndexToPhysicalPoint(centre_zyx[::-1].tolist())], "lps")

    data, properties = reader().read_images([str(path)])
    grid = ImageGrid.from_nnunet_properties(properties, data.shape[1:])
    (out,), properties = preprocessed(data, properties, list(order), list(target))
    steps = preprocessing_steps(properties, order, out.shape)
    (network,) = steps.apply(click.to("array", grid).values_N3)
    weight = np.clip(out - 3, 0, None)
    centre = (np.stack(np.indices(out.shape)) * weight).sum((1, 2, 3)) / weight.sum()
    assert np.abs(centre - network).max() < 0.5
    back = Points(steps.invert([network]), "array").to("lps", grid)
    assert np.abs(back.values_N3 - click.values_N3).max() < 1e-6


def test_array_order_is_the_reverse_of_the_files() -> None:
    grid = ImageGrid((4, 5, 6), (1, 1, 1), (0, 0, 0), np.eye(3))
    assert Points([[1, 2, 3]], "voxel").to("array", grid).values_N3.tolist() == [[3, 2, 1]]
    assert len(Points([], "lps").to("array", grid)) == 0


def test_positions_in_no_known_space_are_refused() -> None:
    for wrong in ("mm", "LPS", None):
        with pytest.raises(GeometryError, match="allowed are voxel, lps, ras, array"):
            Points([[1, 2, 3]], wrong)
    with pytest.raises(GeometryError, match="shape"):
        Points([[1, 2]], "lps")
