"""Images and label maps from files, through nnU-Net's readers, and where their voxels lie."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid


def read_volume(reader: Any, image_files: list[str]) -> tuple[NDArray, dict[str, Any]]:
    """A case's images (C, z, y, x) and properties from nnU-Net's reader.

    Raises:
        UserError: an image cannot be read or has a single slice.
    """
    for file in image_files:
        _check_gzip(file)
    try:
        data, properties = reader.read_images(image_files)
    except Exception as error:  # every reader has errors of its own
        raise UserError(f"{', '.join(image_files)}: the image cannot be read: {error}") from error
    if 1 in data.shape[1:]:
        raise UserError(
            f"{image_files[0]}: the image has the array shape {data.shape[1:]}, a single slice on one axis; "
            "a 3D network needs a volume."
        )
    return data, properties


def read_labelled(
    plans: Path, images: Sequence[str], truth: str
) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float, float]]:
    """A case with its ground truth: images (C, z, y, x), label map (z, y, x), spacing in mm along z, y, x.

    Args:
        plans: a plans.json, which names the reader.
    """
    # late: drawing needs no torch, which nnU-Net's plans bring with them
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    reader = PlansManager(load_json(str(plans))).image_reader_writer_class()
    image_CZYX, properties = read_volume(reader, list(images))
    z, y, x = (float(step) for step in properties["spacing"])
    return image_CZYX, reader.read_seg(truth)[0][0], (z, y, x)


def _check_gzip(file: str) -> None:
    """SimpleITK fills what a truncated .nii.gz lacks with zeros, without a word."""
    if not file.endswith(".gz"):
        return
    try:
        with gzip.open(file) as content:
            while content.read(2**22):
                pass
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{file}: the image cannot be read, it is truncated or damaged: {error}") from error


def image_grid(space: str, properties: dict[str, Any], shape_zyx: tuple[int, ...]) -> ImageGrid:
    """The image's grid. Voxel positions need no geometry, so arrays and TIFF files, which have none, will do.

    Raises:
        GeometryError: world positions for an image without known geometry.
    """
    try:
        return ImageGrid.from_nnunet_properties(properties, shape_zyx)
    except GeometryError:
        if space != "voxel" or "sitk_stuff" in properties or "nibabel_stuff" in properties:
            raise
        identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        return ImageGrid((shape_zyx[2], shape_zyx[1], shape_zyx[0]), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity)
