"""Slab by slab, an image is what nnU-Net's reader makes of the whole file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnsam3d.errors import UserError
from nnsam3d.nnunet import slabs
from nnsam3d.nnunet.reading import read_volume
from nnsam3d.nnunet.slabs import SLAB, read_in_slabs

OBLIQUE = tuple(np.array([[0, -0.6, 0.8], [1, 0, 0], [0, 0.8, 0.6]]).ravel())


def write(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (0.7, 0.8, 2.5)) -> str:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-12.5, 30, 7))
    image.SetDirection(OBLIQUE)
    sitk.WriteImage(image, str(path))
    return str(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("slices", [2, SLAB, 2 * SLAB + 3])
def test_equal_to_the_readers(tmp_path: Path, ending: str, kind: type, slices: int) -> None:
    if ending == ".tif" and kind in (np.int32, np.float64):
        pytest.skip("ITK writes no such TIFF")
    rng = np.random.default_rng(slices)
    files = [
        write(tmp_path / f"case_000{c}{ending}", rng.integers(0, 200, (slices, 5, 7)).astype(kind)) for c in range(2)
    ]
    data, properties = read_in_slabs(files) or (None, None)
    wanted, wanted_properties = SimpleITKIO().read_images(files)
    assert data is not None
    assert data.dtype == wanted.dtype
    np.testing.assert_array_equal(data, wanted)
    assert properties == wanted_properties


def test_scaled_integers(tmp_path: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.arange(4 * 5 * 70, dtype=np.int16).reshape(4, 5, 70), np.diag([1.0, 2, 3, 1]))
    image.header.set_slope_inter(0.25, -1000)
    nibabel.save(image, tmp_path / "case_0000.nii")
    data, properties = read_in_slabs([str(tmp_path / "case_0000.nii")]) or (None, None)
    wanted, wanted_properties = SimpleITKIO().read_images([str(tmp_path / "case_0000.nii")])
    assert data is not None
    assert data.min() < -900
    np.testing.assert_array_equal(data, wanted)
    assert properties == wanted_properties


def test_channels_that_differ_are_left_to_the_reader(tmp_path: Path) -> None:
    array = np.ones((4, 5, 6), np.int16)
    one = write(tmp_path / "case_0000.nii.gz", array)
    for other in (
        write(tmp_path / "case_0001.nii.gz", array[1:]),
        write(tmp_path / "case_0002.nii.gz", array, (1, 1, 1)),
    ):
        assert read_in_slabs([one, other]) is None
        with pytest.raises(UserError, match="cannot be read"):
            read_volume(SimpleITKIO(), [one, other], 2)


def test_nothing_of_the_images_size_is_held_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's memory is seen here; ITK's is what one slab needs."""
    file = write(tmp_path / "case_0000.nii", np.ones((4 * SLAB, 64, 64), np.int16))
    sizes = []
    whole = sitk.GetArrayViewFromImage

    def seen(image: sitk.Image) -> np.ndarray:
        sizes.append(image.GetSize()[2])
        return whole(image)

    monkeypatch.setattr(slabs.sitk, "GetArrayViewFromImage", seen)
    tracemalloc.start()
    data, _ = read_volume(SimpleITKIO(), [file], 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [SLAB] * 4
    assert peak < 1.25 * data.nbytes
