"""Reads images and label maps through nnU-Net's readers, and determines their grids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.geometry.headers import NOT_ORTHONORMAL, unknown_geometry
from nnsam3d.geometry.plausible import checked_spacing, spacing_remark
from nnsam3d.geometry.stored import check_numbers, check_stored, decompressed
from nnsam3d.nnunet.slabs import read_in_slabs
from nnsam3d.prompts.labels import whole_labels

KNOWN_READERS = ("SimpleITK", "Nibabel")  # prefixes of nnU-Net's readers for medical formats


def read_volume(reader: Any, image_files: list[str], channels: int | None = None) -> tuple[NDArray, dict[str, Any]]:
    """A case's images (C, z, y, x) and properties from nnU-Net's reader.

    Args:
        channels: expected number; None: any.

    Raises:
        UserError: an image cannot be read; see also :func:`check_image`.
    """
    from nnsam3d.nnunet.contract import SimpleITKIO  # late, as in read_labelled

    wanted = "one volume" if channels == 1 else f"one volume for each of the {channels or len(image_files)} channels"
    with ExitStack() as stack:
        files = [stack.enter_context(decompressed(file)) for file in image_files]
        if type(reader).__name__.startswith(KNOWN_READERS):
            for file, name in zip(files, image_files, strict=True):
                check_stored(file, name, wanted)
        try:
            streamed = read_in_slabs(files) if type(reader) is SimpleITKIO else None
            data, properties = streamed or reader.read_images(files)
        except Exception as error:  # readers raise different errors
            names = ", ".join(image_files)
            text = plain_error(error)
            for file, name in zip(files, image_files, strict=True):
                text = text.replace(file, name)
            fix = f". {NOT_ORTHONORMAL}" if "orthonormal" in text else ""
            raise UserError(f"{names}: the image cannot be read: {text}{fix}") from error
    checked_spacing(properties["spacing"], ", ".join(image_files))
    check_image(data, ", ".join(image_files), channels)
    return data, properties


def read_label_map(reader: Any, path: str) -> NDArray[Any]:
    """A label map (z, y, x) from nnU-Net's reader.

    Raises:
        UserError: it cannot be read, is not a volume, or contains values that are not labels.
    """
    with decompressed(path) as file:
        if type(reader).__name__.startswith(KNOWN_READERS):
            check_stored(file, path, "a label map of one volume")
        try:
            array = np.asarray(reader.read_seg(file)[0][0])
        except Exception as error:  # readers raise different errors
            raise UserError(
                f"{path}: the label map cannot be read: {plain_error(error).replace(file, path)}"
            ) from error
    return whole_labels(array, path)


def plain_error(error: Exception) -> str:
    """A reader's message without the places in ITK's sources and in memory that ITK adds.

    >>> plain_error(RuntimeError("Exception in Reader: /tmp/itkNrrd.cxx:935:\\nITK ERROR: IO(0x7f7b): Read: no"))
    'Read: no'
    """
    text = " ".join(str(error).split())
    return re.sub(r"(?:Exception [\w ]*: )?/\S+\.\w+:\d+: |(?:ITK|sitk::)\W?ERROR: |\w+ ?\(0x[0-9a-f]+\): ", "", text)


def check_image(data_CZYX: NDArray[Any], where: str, channels: int | None = None) -> None:
    """Refuse images that a network cannot process, before they are preprocessed.

    Args:
        where: the image, for messages.
        channels: expected number; None: any.

    Raises:
        UserError: not a volume with these channels, a single slice, or NaN or infinite values.
    """
    shape = data_CZYX.shape
    if data_CZYX.ndim != 4 or (channels is not None and shape[0] != channels):
        wanted = "a volume" if channels is None else f"{channels} volume{'s' * (channels != 1)} (one for each channel)"
        holds = f"{shape[0]} volumes of {shape[1:]} voxels" if data_CZYX.ndim == 4 else f"an array of shape {shape}"
        raise UserError(
            f"{where}: contains {holds} (z, y, x); the model expects {wanted}. Save each of them to a separate file "
            "(<case>_0000, <case>_0001, ...)"
        )
    if 1 in shape[1:]:
        raise UserError(
            f"{where}: the image has the array shape {shape[1:]}, a single slice on one axis; "
            "a 3D network needs a volume."
        )
    for channel, volume in enumerate(data_CZYX):
        check_numbers(volume, where, f" of channel {channel}" if shape[0] > 1 else "")


def image_remarks(
    data_CZYX: NDArray[Any],
    spacing_ZYX: Sequence[float],
    plans: Mapping[str, Any],
    folder: Path | None = None,
    files: Sequence[str] = (),
) -> list[str]:
    """Warnings about an image: constant channels, voxels of another size than the model's, no geometry in its header.

    Args:
        data_CZYX: the image as read.
        spacing_ZYX: mm.
        plans, folder: of the model, see :func:`spacing_remark`.
        files: with the image; only the first one's header is read. None for arrays, whose geometry is the caller's.
    """
    found = []
    for channel, volume in enumerate(data_CZYX):
        first = volume.flat[0]
        if all((part == first).all() for part in volume):  # stops at the first slice that is not constant
            which = f"channel {channel} of the image" if len(data_CZYX) > 1 else "the image"
            found.append(f"{which} is {first:g} in every voxel: it contains no information")
    doubtful = [spacing_remark(plans, spacing_ZYX, folder), unknown_geometry(files[0]) if files else None]
    return [*found, *filter(None, doubtful)]


def read_labelled(
    plans: Path, images: Sequence[str], truth: str
) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float, float]]:
    """A case with its ground truth: images (C, z, y, x), label map (z, y, x), spacing in mm along z, y, x.

    Args:
        plans: a plans.json, which determines the reader.
    """
    # imported late: nnU-Net's plans import torch, which drawing does not need
    from nnsam3d.nnunet.contract import PlansManager

    reader = PlansManager(json.loads(plans.read_text(encoding="utf-8"))).image_reader_writer_class()
    image_CZYX, properties = read_volume(reader, list(images))
    return image_CZYX, read_label_map(reader, truth), spacing_of(properties)


def spacing_of(properties: Mapping[str, Any]) -> tuple[float, float, float]:
    """mm along z, y, x of an image, from nnU-Net's properties."""
    z, y, x = (float(step) for step in properties["spacing"])
    return z, y, x


def image_grid(space: str, properties: dict[str, Any], shape_zyx: tuple[int, ...]) -> ImageGrid:
    """The image's grid. For voxel positions, the image need not have a geometry (arrays, TIFF).

    Raises:
        GeometryError: world positions for an image without known geometry.
    """
    try:
        return ImageGrid.from_nnunet_properties(properties, shape_zyx)
    except GeometryError:
        if space != "voxel" or "sitk_stuff" in properties or "nibabel_stuff" in properties:
            raise
        return ImageGrid.without_world((shape_zyx[2], shape_zyx[1], shape_zyx[0]))
