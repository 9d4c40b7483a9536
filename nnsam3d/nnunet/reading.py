"""Images and label maps from files, through nnU-Net's readers, and where their voxels lie."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid

SIMPLEITK = "SimpleITK"  # how nnU-Net's readers by ITK begin
GZIP = b"\x1f\x8b"  # how every gzip file begins
LARGEST_RATIO = 12  # of unpacked to packed; without so much room for temporary files nothing is unpacked into one


def read_volume(reader: Any, image_files: list[str], channels: int | None = None) -> tuple[NDArray, dict[str, Any]]:
    """A case's images (C, z, y, x) and properties from nnU-Net's reader.

    Args:
        channels: how many the model wants; None: any.

    Raises:
        UserError: an image cannot be read, or as :func:`check_image`.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_decompressed(file)) for file in image_files]
        try:
            data, properties = reader.read_images(files)
        except Exception as error:  # every reader has errors of its own
            names = ", ".join(image_files)
            text = str(error)
            for file, name in zip(files, image_files, strict=True):
                text = text.replace(file, name)
            raise UserError(f"{names}: the image cannot be read: {text}") from error
        if type(reader).__name__.startswith(SIMPLEITK):
            for file, name in zip(files, image_files, strict=True):
                _check_nifti(file, name)
    check_image(data, ", ".join(image_files), channels)
    return data, properties


def _check_nifti(file: str, name: str) -> None:
    """ITK reads a NIfTI's NaN and infinity as 0, without a word: look into the file itself."""
    if not file.lower().endswith((".nii", ".nii.gz")):
        return
    try:
        stored: Any = nibabel.load(file)
    except nibabel.filebasedimages.ImageFileError:  # ITK has read it all the same
        return
    if stored.header.get_data_dtype().kind != "f":
        return
    numbers_KJI = np.asanyarray(stored.dataobj.get_unscaled()).T  # mapped into memory; slices lie one behind the other
    _check_numbers(numbers_KJI, name)


def check_image(data_CZYX: NDArray[Any], where: str, channels: int | None = None) -> None:
    """What a network cannot make sense of, said before it is preprocessed.

    Args:
        where: the image, for messages.
        channels: how many the model wants; None: any.

    Raises:
        UserError: not a volume of these channels, a single slice, or values that are no numbers.
    """
    shape = data_CZYX.shape
    if data_CZYX.ndim != 4 or (channels is not None and shape[0] != channels):
        wanted = "a volume" if channels is None else f"{channels} volume{'s' * (channels != 1)} (one for each channel)"
        holds = f"{shape[0]} volumes of {shape[1:]} voxels" if data_CZYX.ndim == 4 else f"an array of shape {shape}"
        raise UserError(
            f"{where}: holds {holds} (z, y, x), the model wants {wanted}. Write every volume that it was trained on "
            "into a file of its own (<case>_0000, <case>_0001, ...), and leave the others out"
        )
    if 1 in shape[1:]:
        raise UserError(
            f"{where}: the image has the array shape {shape[1:]}, a single slice on one axis; "
            "a 3D network needs a volume."
        )
    for channel, volume in enumerate(data_CZYX):
        _check_numbers(volume, where, f" of channel {channel}" if shape[0] > 1 else "")


def _check_numbers(volume: NDArray[Any], where: str, which: str = "") -> None:
    # slice by slice: no mask of the image's size
    wrong = sum(int(part.size - np.count_nonzero(np.isfinite(part))) for part in volume)
    if wrong:
        voxels = "1 voxel" if wrong == 1 else f"{wrong} voxels"
        raise UserError(
            f"{where}: {voxels}{which} without a number (NaN or infinity), which would spread over the whole image: "
            "replace them, by the image's lowest value for example"
        )


def remarks(data_CZYX: NDArray[Any]) -> list[str]:
    """What is odd about an image and no error: a channel that holds nothing."""
    found = []
    for channel, volume in enumerate(data_CZYX):
        low, high = float(volume.min()), float(volume.max())
        if low == high:
            which = f"channel {channel} of the image" if len(data_CZYX) > 1 else "the image"
            found.append(f"{which} is {low:g} in every voxel: there is nothing to see in it")
    return found


@contextmanager
def _decompressed(file: str) -> Iterator[str]:
    """The file, or what is in a .nii.gz: to see that it is whole takes decompressing, and that is done once.

    SimpleITK fills what a truncated .nii.gz lacks with zeros, without a word. The content goes into a temporary file,
    and where there is no room for it, the file is only looked through.

    Raises:
        UserError: truncated or damaged.
    """
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == GZIP
    except OSError as error:
        raise UserError(f"{file}: the image cannot be read: {error.strerror}") from error
    if not file.lower().endswith(".nii.gz"):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
        target = Path(folder) / Path(file).name[: -len(".gz")]
        if not packed:  # an uncompressed file that is only named like that: its reader judges
            target.symlink_to(Path(file).absolute())
            yield str(target)
            return
        room = shutil.disk_usage(folder).free > LARGEST_RATIO * os.path.getsize(file)
        _unpack(file, target if room else Path(os.devnull))
        yield str(target) if room else file


def _unpack(file: str, target: Path) -> None:
    try:
        with gzip.open(file) as content, target.open("wb") as copy:
            shutil.copyfileobj(content, copy, 2**22)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: the image cannot be read, it is truncated or damaged: {error}") from error
    except OSError as error:
        raise UserError(f"{file}: the image cannot be unpacked into {target.parent}: {error.strerror}") from error


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
