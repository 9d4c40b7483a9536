"""Index of the image file <-> world millimetres."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from scipy.spatial.transform import Rotation

from nnsam3d.geometry import GeometryError, ImageGrid, inside_grid

SIZE = (7, 9, 11)


def random_grid(seed: int) -> ImageGrid:
    """Random rotation (half of them with a mirrored axis), spacing 0.2..8 mm, origin up to half a metre away."""
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix()
    direction[:, 0] *= rng.choice([-1, 1])
    spacing = np.exp(rng.uniform(np.log(0.2), np.log(8), 3))
    return ImageGrid(SIZE, tuple(spacing), tuple(rng.uniform(-500, 500, 3)), tuple(map(tuple, direction)))


def sitk_image(grid: ImageGrid) -> sitk.Image:
    image = sitk.Image(*grid.size_xyz, sitk.sitkFloat32)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_simpleitk(seed: int) -> None:
    image = sitk_image(random_grid(seed))
    grid = ImageGrid.from_sitk(image)
    for index in [(0, 0, 0), (6, 0, 3), (1, 8, 10)]:
        world = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(grid.index_to_world([index])[0], world, atol=1e-6)
        assert np.allclose(grid.world_to_index([world])[0], image.TransformPhysicalPointToContinuousIndex(world))


def test_ras_is_lps_with_two_signs_flipped() -> None:
    grid = random_grid(1)
    lps, ras = (grid.index_to_world([[1, 2, 3]], space)[0] for space in ("lps", "ras"))
    assert np.allclose(lps * [-1, -1, 1], ras)


def test_file_header_and_reader_give_the_image_grid(tmp_path) -> None:
    image = sitk_image(random_grid(2))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(tmp_path / "a.nrrd"))
    reader.ReadImageInformation()
    points = [[1.5, 2, 3]]
    expected = ImageGrid.from_sitk(image).index_to_world(points)
    for grid in (ImageGrid.from_sitk(reader), ImageGrid.from_file(tmp_path / "a.nrrd")):
        assert grid.size_xyz == SIZE
        assert grid.shape_zyx == SIZE[::-1]
        assert np.allclose(grid.index_to_world(points), expected)


def test_unreadable_file_is_named(tmp_path) -> None:
    (tmp_path / "broken.nrrd").write_text("nonsense")
    with pytest.raises(GeometryError, match=r"broken\.nrrd"):
        ImageGrid.from_file(tmp_path / "broken.nrrd")


@pytest.mark.parametrize("seed", range(3))
def test_both_supported_readers_of_nnunet_agree(tmp_path, seed: int) -> None:
    path = str(tmp_path / "case_0000.nii.gz")
    sitk.WriteImage(sitk_image(random_grid(seed)), path)
    points = [[0, 0, 0], [6, 8, 10], [1.25, 3, 7]]
    worlds = []
    for reader in (SimpleITKIO(), NibabelIO()):
        data, properties = reader.read_images([path])
        grid = ImageGrid.from_nnunet_properties(properties, data.shape[1:])
        assert grid.size_xyz == SIZE
        worlds.append(grid.index_to_world(points, "ras"))
    affine = nibabel.load(path).affine
    assert np.allclose(worlds[1], np.asarray(points) @ affine[:3, :3].T + affine[:3, 3], atol=1e-6)
    assert np.allclose(*worlds, atol=1e-3)  # the file stores float32


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_reorienting_readers_are_refused_by_name(tmp_path, reader: type) -> None:
    path = str(tmp_path / "case_0000.nii.gz")
    sitk.WriteImage(sitk_image(random_grid(0)), path)
    _, properties = reader().read_images([path])
    with pytest.raises(GeometryError, match=rf"{reader.__name__}.*supported are SimpleITKIO and NibabelIO"):
        ImageGrid.from_nnunet_properties(properties, SIZE[::-1])


def test_properties_without_geometry_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"unknown reader.*properties: spacing.*SimpleITKIO"):
        ImageGrid.from_nnunet_properties({"spacing": (999, 1, 1)}, SIZE[::-1])


def test_two_dimensional_images_are_refused() -> None:
    with pytest.raises(GeometryError, match="2 dimensions"):
        ImageGrid.from_sitk(sitk.Image(4, 5, sitk.sitkUInt8))


def test_inside_means_the_volume_that_voxels_cover() -> None:
    grid = ImageGrid((4, 5, 1), (1, 1, 1), (0, 0, 0), np.eye(3))
    points = [[-0.5, 0, 0], [3.49, 4.49, 0.49], [3.5, 0, 0], [0, -0.51, 0], [0, 0, 1], [np.nan, 0, 0]]
    assert grid.contains_index(points).tolist() == [True, True, False, False, False, False]
    assert inside_grid([], (1, 1, 1)).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_xyz": (0, 1, 1)}, "size"),
        ({"spacing_xyz": (1, 1, 0)}, "spacing must be positive"),
        ({"spacing_xyz": (1, 1)}, "spacing must be three"),
        ({"origin_xyz": (0, 0, np.nan)}, "origin"),
        ({"direction": np.zeros((3, 3))}, "singular"),
        ({"direction": np.eye(2)}, "3x3"),
    ],
)
def test_impossible_grids_are_refused(change: dict, message: str) -> None:
    good = {"size_xyz": SIZE, "spacing_xyz": (1, 1, 1), "origin_xyz": (0, 0, 0), "direction": np.eye(3)}
    with pytest.raises(GeometryError, match=message):
        ImageGrid(**(good | change))


def test_unknown_world_space_is_refused() -> None:
    with pytest.raises(GeometryError, match="'lps' and 'ras'"):
        random_grid(0).world_to_index([[0, 0, 0]], "mni")
