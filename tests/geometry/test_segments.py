"""3D Slicer's segmentations as label maps: names, layers, parts of the image, other orders of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid
from nnsam3d.geometry.declared import HEAD
from nnsam3d.geometry.segments import read_segments, segments_of
from nnsam3d.geometry.standalone import declared

LABELS = {"background": 0, "Liver": 1, "tumour": 2}
SHAPE = (6, 8, 10)


def image_like(array: np.ndarray, is_vector: bool = False) -> sitk.Image:
    """With an oblique geometry."""
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    angle = 0.3
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    image.SetSpacing((0.8, 1.1, 2.5))
    image.SetOrigin((12.0, -30.0, 7.0))
    image.SetDirection((cos, -sin, 0, sin, cos, 0, 0, 0, 1))
    return image


def write(image: sitk.Image, segments: Sequence[Mapping[str, str]], path: Path) -> Path:
    for number, fields in enumerate(segments):
        for key, value in fields.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def labelled() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:6, 3:8] = 4
    array[2:3, 3:5, 4:6] = 9
    return array


GRID = ImageGrid.from_sitk(image_like(labelled()))
SEGMENTS = [
    {"ID": "a", "Name": "LIVER", "LabelValue": "4", "Layer": "0"},
    {"Name": "Tumour", "LabelValue": "9", "Layer": "0"},
]
WANTED = np.where(labelled() == 9, 2, np.where(labelled() == 4, 1, 0))


def test_segments_get_the_labels_with_their_names(tmp_path: Path) -> None:
    file = write(image_like(labelled()), SEGMENTS, tmp_path / "case.seg.nrrd")
    assert [one.name for one in segments_of(file)] == ["LIVER", "Tumour"]
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, LABELS), WANTED)


def test_without_such_a_name_values_stay(tmp_path: Path) -> None:
    others = [{**one, "Name": f"Segment_{n}"} for n, one in enumerate(SEGMENTS)]
    file = write(image_like(labelled()), others, tmp_path / "case.seg.nrrd")
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, LABELS), labelled())


@pytest.mark.parametrize("old", [False, True], ids=["layers", "Slicer 4.10"])
def test_layers_overlap_and_the_later_segment_counts(tmp_path: Path, old: bool) -> None:
    liver, tumour = (labelled() > 0).astype(np.uint8), (labelled() == 9).astype(np.uint8)
    names = [{"Name": "liver"}, {"Name": "tumour"}]
    layers = [{} if old else {"LabelValue": "1", "Layer": str(n)} for n in range(2)]
    segments = [{**name, **layer} for name, layer in zip(names, layers, strict=True)]
    file = write(image_like(np.stack([liver, tumour], -1), is_vector=True), segments, tmp_path / "case.seg.nrrd")
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, LABELS), WANTED)
    # in the other order, the liver hides the tumour, but not where the tumour is a region of it
    other = write(
        image_like(np.stack([tumour, liver], -1), is_vector=True), segments[::-1] if old else
        [{**segments[1], "Layer": "0"}, {**segments[0], "Layer": "1"}], tmp_path / "other.seg.nrrd",
    )  # fmt: skip
    np.testing.assert_array_equal(read_segments(other, GRID, SHAPE, LABELS), liver)
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    np.testing.assert_array_equal(read_segments(other, GRID, SHAPE, LABELS, regions), WANTED)


@pytest.mark.parametrize(("first", "second"), [("cyst", "Segment_2"), ("liver", "cyst"), ("cyst", "liver")])
def test_segments_do_not_merge_into_a_label_that_is_not_theirs(tmp_path: Path, first: str, second: str) -> None:
    """Slicer gives every segment of a layer of its own the value 1."""
    one, other = (labelled() == 4).astype(np.uint8), (labelled() == 9).astype(np.uint8)
    segments = [{"Name": name, "LabelValue": "1", "Layer": str(n)} for n, name in enumerate((first, second))]
    file = write(image_like(np.stack([one, other], -1), is_vector=True), segments, tmp_path / "case.seg.nrrd")
    with pytest.raises(UserError, match=rf"segments '{first}' and '{second}' would both.*labels of the model"):
        read_segments(file, GRID, SHAPE, LABELS)
    named = {"background": 0, first: 1, second: 2}
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, named), one + 2 * other)
    # nothing merges with a segment without voxels
    empty = write(image_like(np.stack([one, 0 * one], -1), is_vector=True), segments, tmp_path / "empty.seg.nrrd")
    np.testing.assert_array_equal(read_segments(empty, GRID, SHAPE, LABELS), one)


def test_an_unknown_segment_does_not_merge_with_the_label_of_another(tmp_path: Path) -> None:
    others = [{**SEGMENTS[0], "Name": "cyst", "LabelValue": "2"}, {**SEGMENTS[1], "Name": "tumour"}]
    array = np.where(labelled() == 4, 2, labelled())
    file = write(image_like(array), others, tmp_path / "case.seg.nrrd")
    with pytest.raises(UserError, match="segments 'cyst' and 'tumour' would both get the value 2"):
        read_segments(file, GRID, SHAPE, LABELS)


def test_a_part_of_the_image_is_placed_in_it(tmp_path: Path) -> None:
    part = sitk.RegionOfInterest(image_like(labelled()), [6, 5, 4], [3, 2, 1])
    file = write(part, SEGMENTS, tmp_path / "case.seg.nrrd")
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, LABELS), WANTED)
    with pytest.raises(UserError, match=r"shape \(4, 5, 6\).*\(6, 8, 10\)"):
        read_segments(file, None, SHAPE, LABELS)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_axes_may_have_another_order_and_direction(tmp_path: Path, order: tuple[int, ...]) -> None:
    turned = sitk.Flip(sitk.PermuteAxes(image_like(labelled()), order), [True, False, True])
    file = write(turned, SEGMENTS, tmp_path / "case.seg.nrrd")
    np.testing.assert_array_equal(read_segments(file, GRID, SHAPE, LABELS), WANTED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.SetOrigin((12.4, -30.0, 7.0)), "are not those of the image"),
        (lambda image: image.SetSpacing((0.8, 1.1, 5.0)), "are not those of the image"),
        (lambda image: image.SetOrigin((12.0, -30.0, 7.0 + 2.5 * 40)), "outside the image"),
    ],
)
def test_another_grid_is_refused(tmp_path: Path, change: object, said: str) -> None:
    image = image_like(labelled())
    change(image)  # type: ignore[operator]
    file = write(image, SEGMENTS, tmp_path / "case.seg.nrrd")
    with pytest.raises(UserError, match=rf"case\.seg\.nrrd.*{said}"):
        read_segments(file, GRID, SHAPE, LABELS)


@pytest.mark.parametrize(("key", "value", "said"), [("Layer", "3", "layer 3"), ("LabelValue", "x", "no number")])
def test_wrong_fields_are_named(tmp_path: Path, key: str, value: str, said: str) -> None:
    file = write(image_like(labelled()), [{**SEGMENTS[0], key: value}], tmp_path / "case.seg.nrrd")
    with pytest.raises(UserError, match=said):
        read_segments(file, GRID, SHAPE, LABELS)


def test_other_files_have_no_segments(tmp_path: Path) -> None:
    for name in ("plain.nrrd", "plain.nii.gz"):
        sitk.WriteImage(image_like(labelled()), str(tmp_path / name))
        assert segments_of(tmp_path / name) == []


def test_the_clean_header_of_an_upload_keeps_the_segments(tmp_path: Path) -> None:
    image = image_like(labelled())
    image.SetMetaData("Segment0_Extra", "no field of a segment")
    image.SetMetaData("Segmentation_Other", "data file: /etc/passwd")
    file = write(image, SEGMENTS, tmp_path / "case.seg.nrrd")
    content = file.read_bytes()
    found = declared(content[:HEAD], ".nrrd", "case")
    assert b"passwd" not in found.header
    assert b"Extra" not in found.header
    clean = tmp_path / "clean_0000.nrrd"
    clean.write_bytes(found.header + content[found.start :])
    assert segments_of(clean) == segments_of(file)
    np.testing.assert_array_equal(read_segments(clean, GRID, SHAPE, LABELS), WANTED)
