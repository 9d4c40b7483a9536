"""3D Slicer's segmentations, `.seg.nrrd`: segments with names, in one or several layers, often of a part of the image.

Segments that overlap lie in different layers, which the file stores as the components of its voxels. Axis letters:
Z, Y, X = axes of arrays as read. Source: Slicer's documentation of the format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry.frames import ImageGrid, open_header, read_segmentation_image

ENDING = ".seg.nrrd"
FIELD = re.compile(r"Segment(\d{1,4})_(ID|Name|LabelValue|Layer)")
SHIFTED = 0.1  # voxels by which a segmentation may miss the image's grid
_RESAMPLE = "in 3D Slicer, choose the image as the segmentation's reference geometry, and save it again"


@dataclass(frozen=True)
class Segment:
    """A segment: the voxels of a layer with a value."""

    name: str
    layer: int
    value: int


def segments_of(path: str | os.PathLike[str]) -> list[Segment]:
    """The segments that the header of an NRRD file names, in its order; none for any other file.

    Raises:
        GeometryError: the header cannot be read.
        UserError: a segment's layer or value is no number.
    """
    if not os.fspath(path).lower().endswith(".nrrd"):
        return []
    header = open_header(path)
    fields: dict[int, dict[str, str]] = {}
    for key in header.GetMetaDataKeys():
        found = FIELD.fullmatch(key)
        if found is not None:
            fields.setdefault(int(found[1]), {})[found[2]] = header.GetMetaData(key).strip()
    segments = []
    for number, own in sorted(fields.items()):
        # files of Slicer 4.10 and earlier have a layer of zeros and ones for every segment
        layer, value = own.get("Layer", str(number)), own.get("LabelValue", "1")
        if not all(text.isdecimal() and len(text) < 10 for text in (layer, value)):  # int() refuses thousands of digits
            raise UserError(
                f"{os.fspath(path)}: layer {layer[:20]!r} or value {value[:20]!r} of segment {number} is no number"
            )
        segments.append(Segment(own.get("Name", own.get("ID", "")), int(layer), int(value)))
    return segments


def read_segments(
    path: str | os.PathLike[str],
    image: ImageGrid | None,
    shape_ZYX: tuple[int, ...],
    labels: Mapping[str, int],
    regions: Mapping[int, frozenset[int]] | None = None,
) -> NDArray[np.int64]:
    """The label map (Z, Y, X) of a segmentation on the grid of an image; background where the file has no voxels.

    A segment gets the label with its name, in capitals or not; where no label has that name, its value stays, unless
    another segment has it. Where segments overlap, the later one counts; with regions, the smaller one.

    Args:
        path: the file.
        image: in "lps"; None: it has no place in the world, and the file must have its shape.
        shape_ZYX: of the image.
        labels: names and values.
        regions: values of the label map by label; None without regions.

    Raises:
        UserError: unreadable, without segments, or on another grid than the image's; all of it lies outside the image;
            two segments would get the same value without the name of its label.
    """
    import SimpleITK as sitk  # late: this package must import with numpy alone

    where, segments = os.fspath(path), segments_of(path)
    if not segments:
        raise UserError(f"{where}: the header names no segments")
    stored = read_segmentation_image(where, where)
    layers_ZYXL: NDArray[Any] = sitk.GetArrayFromImage(stored)
    if stored.GetNumberOfComponentsPerPixel() == 1:
        layers_ZYXL = layers_ZYXL[..., None]
    if layers_ZYXL.ndim != 4:
        raise UserError(f"{where}: the segmentation has the shape {layers_ZYXL.shape[:-1]}, not that of a volume")
    by_name = {name.casefold(): value for name, value in labels.items()}
    values = [by_name.get(one.name.casefold(), one.value) for one in segments]
    pairs = list(zip(segments, values, strict=True))
    if regions is not None:
        pairs.sort(key=lambda pair: -len(regions.get(pair[1], ())))
    label_map = np.zeros(layers_ZYXL.shape[:3], np.int64)
    owners: dict[int, Segment] = {}
    for segment, value in pairs:
        if segment.layer >= layers_ZYXL.shape[3]:
            raise UserError(f"{where}: segment {segment.name!r} is in layer {segment.layer}, which the file lacks")
        voxels_ZYX = layers_ZYXL[..., segment.layer] == segment.value
        if not voxels_ZYX.any():
            continue
        owner = owners.setdefault(value, segment)
        if owner is not segment and not {owner.name.casefold(), segment.name.casefold()} <= by_name.keys():
            raise UserError(
                f"{where}: segments {owner.name!r} and {segment.name!r} would both get the value {value}: rename them "
                "to labels of the model (of a class-agnostic one: those of --labels)"
            )
        label_map[voxels_ZYX] = value
    if image is None:
        if label_map.shape != shape_ZYX:
            raise UserError(f"{where}: has the shape {label_map.shape} (z, y, x), the image {shape_ZYX}")
        return label_map
    placed = _placed(label_map, ImageGrid.from_sitk(stored), image, shape_ZYX, where)
    if label_map.any() and not placed.any():
        raise UserError(f"{where}: lies outside the image: is it of another case?")
    return placed


def _placed(
    label_map: NDArray[np.int64], own: ImageGrid, image: ImageGrid, shape_ZYX: tuple[int, ...], where: str
) -> NDArray[np.int64]:
    """The label map on the image's grid, whose axes may have another order or direction."""
    size = np.array(shape_ZYX[::-1])
    corner, *ends = own.world_to_index(image.index_to_world([(0, 0, 0), *np.eye(3)]))
    steps = np.array(ends) - corner  # [image's axis, own axis]
    whole, first = np.rint(steps), np.rint(corner)
    missed = np.abs(corner - first).max() + float((np.abs(steps - whole) * size[:, None]).max())
    if missed > SHIFTED or (np.abs(whole).sum(axis=0) != 1).any() or (np.abs(whole).sum(axis=1) != 1).any():
        raise UserError(f"{where}: the voxels of the segmentation are not those of the image: {_RESAMPLE}")
    axes = np.abs(whole).argmax(axis=1)
    places = [first[axis] + whole[n, axis] * np.arange(size[n]) for n, axis in enumerate(axes)]
    source = label_map.transpose(2, 1, 0).transpose(axes)
    kept = [(place >= 0) & (place < length) for place, length in zip(places, source.shape, strict=True)]
    placed = np.zeros(size, np.int64)
    taken = [place[inside].astype(np.int64) for place, inside in zip(places, kept, strict=True)]
    placed[np.ix_(*(np.flatnonzero(inside) for inside in kept))] = source[np.ix_(*taken)]
    return placed.transpose(2, 1, 0)
