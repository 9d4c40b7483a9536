"""Images as they come in: what they hold against what a model wants, values that are no numbers, gzip."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnsam3d.errors import UserError
from nnsam3d.geometry import stored
from nnsam3d.nnunet.datasets import num_channels
from nnsam3d.nnunet.reading import check_image, image_remarks, read_label_map, read_volume
from nnsam3d.prompts.inspection import read_segmentation

READERS = {"SimpleITKIO": SimpleITKIO, "NibabelIO": NibabelIO}


def write(path: Path, array: np.ndarray) -> str:
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(path))
    return str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_an_error_with_file_and_count(
    tmp_path: Path, reader: str, ending: str, value: float
) -> None:
    if reader == "NibabelIO" and not ending.startswith(".nii"):
        pytest.skip("nibabel reads NIfTI")
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    good = write(tmp_path / f"case_0000{ending}", array)
    array[3, 4, :2] = value
    bad = write(tmp_path / f"case_0001{ending}", array)
    with pytest.raises(UserError, match=r"case_0001[^,]*: 2 voxels( of channel 1)? with NaN or infinity"):
        read_volume(READERS[reader](), [good, bad], 2)


@given(places=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3), st.integers(0, 4))))
def test_every_such_voxel_is_found(places: set[tuple[int, int, int, int]]) -> None:
    image = np.ones((2, 3, 4, 5), np.float32)
    for place in places:
        image[place] = np.nan
    first = [sum(place[0] == channel for place in places) for channel in range(2)]
    if not places:
        check_image(image, "here")
        return
    channel = 0 if first[0] else 1
    with pytest.raises(UserError, match=rf"here: {first[channel]} voxels? of channel {channel} with NaN"):
        check_image(image, "here")


def test_what_a_file_holds_and_what_the_model_wants(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32))] * 3)
    sitk.WriteImage(image, str(tmp_path / "case_0000.nii.gz"))
    with pytest.raises(UserError, match=r"case_0000.*3 volumes of \(6, 5, 4\) voxels.*one volume.*_0000, <case>_0001"):
        read_volume(SimpleITKIO(), [str(tmp_path / "case_0000.nii.gz")], 1)
    with pytest.raises(UserError, match=r"array of shape \(4, 5\)"):
        check_image(np.ones((4, 5)), "the image")
    with pytest.raises(UserError, match="single slice"):
        check_image(np.ones((1, 1, 5, 6)), "the image")


def test_channels_under_both_names() -> None:
    for key in ("channel_names", "modality"):
        assert num_channels({key: {"0": "T1", "1": "T2"}}) == 2


def test_a_channel_with_nothing_to_see_is_told_and_no_error() -> None:
    image = np.ones((2, 3, 4, 5), np.float32)
    image[1, 0, 0, 0] = 2
    check_image(image, "the image")
    told = ["channel 0 of the image is 1 in every voxel: it contains no information"]
    assert image_remarks(image, (1, 1, 1), {}) == told
    assert image_remarks(image[1:], (1, 1, 1), {}) == []


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize("name", ["case_0000.nii", "case_0000.nii.gz"])
def test_an_uncompressed_file_that_is_cut_short(tmp_path: Path, reader: str, kind: type, name: str) -> None:
    image = sitk.GetImageFromArray(np.ones((8, 9, 10), kind))
    sitk.WriteImage(image, str(tmp_path / "plain.nii"))
    content = (tmp_path / "plain.nii").read_bytes()
    path = tmp_path / name
    for cut in (len(content) - 1, len(content) * 6 // 10):
        path.write_bytes(content[:cut])
        for read in (
            lambda: read_volume(READERS[reader](), [str(path)]),
            lambda: read_label_map(READERS[reader](), str(path)),
        ):
            with pytest.raises(UserError, match=r"case_0000\.nii.*truncated or damaged"):
                read()
        with pytest.raises(UserError, match="truncated or damaged"):
            read_segmentation(path)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
def test_several_values_in_a_voxel_are_no_volumes(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(np.ones((8, 9, 10, 3), np.uint8), isVector=True)
    path = tmp_path / f"case_0000{ending}"
    sitk.WriteImage(image, str(path))
    for read in (lambda: read_volume(SimpleITKIO(), [str(path)], 1), lambda: read_segmentation(path)):
        with pytest.raises(UserError, match="3 values in every voxel"):
            read()


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_label_maps_are_read_as_carefully(tmp_path: Path, value: float) -> None:
    array = np.zeros((4, 5, 6))
    array[1, 2, 3] = value
    path = write(tmp_path / "case.nii.gz", array)
    for read in (lambda: read_label_map(SimpleITKIO(), path), lambda: read_segmentation(Path(path))):
        with pytest.raises(UserError, match=r"case\.nii\.gz"):
            read()


def test_where_there_is_no_room_for_the_content_the_file_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "case_0000.nii.gz", np.random.default_rng(0).normal(size=(8, 9, 10)))
    monkeypatch.setattr(stored, "LARGEST_RATIO", 1e12)
    assert read_volume(SimpleITKIO(), [path])[0].shape == (1, 8, 9, 10)
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or damaged"):
        read_volume(SimpleITKIO(), [path])


@pytest.mark.parametrize("reader", READERS)
def test_gzip(tmp_path: Path, reader: str) -> None:
    """The reader judges what has no gzip header; SimpleITK would fill a truncated file with zeros."""
    array = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    plain = Path(write(tmp_path / "plain.nii", array))
    good = tmp_path / "case_0000.nii.gz"
    good.write_bytes(gzip.compress(plain.read_bytes()))
    data, _ = read_volume(READERS[reader](), [str(good)])
    np.testing.assert_array_equal(data[0], array)
    content = good.read_bytes()
    for cut in (20, len(content) // 2, len(content) - 4):
        good.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"case_0000\.nii\.gz.*truncated or damaged"):
            read_volume(READERS[reader](), [str(good)])
    good.write_bytes(plain.read_bytes())
    np.testing.assert_array_equal(read_volume(READERS[reader](), [str(good)])[0][0], array)
    good.write_bytes(b"neither nor")
    with pytest.raises(UserError, match=r"case_0000\.nii\.gz: the image cannot be read"):
        read_volume(READERS[reader](), [str(good)])
    assert not list(tmp_path.glob("nnsam3d_*")), "temporary files are gone"


@pytest.mark.parametrize("reader", READERS)
def test_gzip_is_read_as_its_readers_do(tmp_path: Path, reader: str) -> None:
    """Several members are one file, and what follows the last one does not count; a cut member is an error."""
    array = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    plain = Path(write(tmp_path / "plain.nii", array)).read_bytes()
    path = tmp_path / "case_0000.nii.gz"
    whole = gzip.compress(plain)
    members = gzip.compress(plain[:500]) + gzip.compress(b"") + gzip.compress(plain[500:])
    for content in (whole, members):
        for after in (b"", b"\0" * 512, b"\0", b"some text after the end", b"\x1f", gzip.compress(b"")):
            path.write_bytes(content + after)
            np.testing.assert_array_equal(read_volume(READERS[reader](), [str(path)])[0][0], array)
            with stored.decompressed(str(path)) as file:  # as label maps are
                assert sitk.ReadImage(file).GetSize() == (10, 9, 8)
    damaged = bytearray(whole)
    damaged[-6] ^= 255  # the checksum
    for content in (members[:-1], members[: len(members) // 2], whole[:-9], bytes(damaged), whole + members[:20]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"case_0000\.nii\.gz.*truncated or damaged"):
            read_volume(READERS[reader](), [str(path)])
