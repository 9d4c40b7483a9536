"""Volumes as files: which endings can hold one, and whether everything arrived.

ITK reports neither a full disk nor a file size limit: it leaves a short file, which it later pads with zeros. Therefore
whatever was written is read again. Nothing here needs memory for a second copy of a NIfTI file's voxels.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import ask_system, flush, replacing
from nnsam3d.geometry.declared import head_of
from nnsam3d.geometry.frames import itk_reader
from nnsam3d.geometry.headers import NIBABEL
from nnsam3d.geometry.stored import GZIP, NIFTI

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mnc", ".h5", ".hdf5")
"""Of files that hold a volume with its spacing, origin and direction, each in one file."""

StoredSlices: TypeAlias = Iterator[NDArray[Any]]


def check_ending(path: Path, reader: str = "") -> None:
    """Refuse names of files that cannot hold a volume, before anything is computed or written.

    Args:
        path: where a volume should be written.
        reader: nnU-Net's name of the class that writes it; "" if it is ITK.

    Raises:
        UserError: another ending than those that this class can write, which the message lists.
    """
    endings = NIFTI[::-1] if reader.startswith(NIBABEL) else ENDINGS
    if not path.name.lower().endswith(endings):
        found = path.suffix or "no ending"
        raise UserError(
            f"{path}: a segmentation cannot be written as {found}. One file must hold all voxels with their spacing, "
            f"origin and direction: {', '.join(endings)}"
        )


def check_written(file: Path, volume_ZYX: NDArray[Any]) -> None:
    """Compare a file that was just written with what it should contain.

    Args:
        file: still under a temporary name; it is deleted after an error.
        volume_ZYX: its voxels (z, y, x).

    Raises:
        OSError: the file is not what was written, with the system's reason if it can still be found.
    """
    flush(file)
    try:
        shape, slices = stored_slices(file)
        same = shape == volume_ZYX.shape and all(map(np.array_equal, slices, volume_ZYX))
    except Exception:  # readers raise different errors
        same = False
    if not same:
        ask_system(file, volume_ZYX.size * 4)
        raise OSError(errno.EIO, "what was written cannot be read back")


def write_image(image: Any, path: Path) -> None:
    """Write a SimpleITK image of three dimensions, complete or not at all.

    Raises:
        WriteError: the system refuses, for example because the disk is full; what was at ``path`` stays.
    """
    import SimpleITK as sitk

    with replacing(path, ending="".join(path.suffixes)) as temporary:
        sitk.WriteImage(image, str(temporary))
        check_written(temporary, sitk.GetArrayViewFromImage(image))


def stored_slices(file: Path) -> tuple[tuple[int, ...], StoredSlices]:
    """The shape (z, y, x) of a volume and its slices (y, x), in the values that the file stores (without scaling).

    Raises:
        Exception: those of the readers, at once or when the slices are read to their end: the file is incomplete,
            damaged or of an unknown format.
    """
    return _nifti_slices(file) if file.name.lower().endswith(NIFTI) else _itk_slices(file)


def _nifti_slices(file: Path) -> tuple[tuple[int, ...], StoredSlices]:
    import nibabel  # late: this package must import with numpy alone

    stored: Any = nibabel.load(file)
    shape = tuple(int(size) for size in stored.shape[::-1])
    kind: np.dtype[Any] = stored.dataobj.dtype

    def slices() -> StoredSlices:
        from isal import igzip  # late, too

        with file.open("rb") as raw:
            packed = raw.read(len(GZIP)) == GZIP
        with igzip.open(file) if packed else file.open("rb") as content:
            content.read(stored.dataobj.offset)
            for _ in range(shape[0]):
                yield np.frombuffer(content.read(kind.itemsize * shape[1] * shape[2]), kind).reshape(shape[1:])
            content.read(1)  # the end of a gzip stream is where its checksum is compared

    return shape, slices()


def _itk_slices(file: Path) -> tuple[tuple[int, ...], StoredSlices]:
    import SimpleITK as sitk

    image = itk_reader(file).Execute()
    shape = tuple(image.GetSize()[::-1])
    if file.name.lower().endswith(".nrrd"):
        _check_nrrd_end(file, image.GetSizeOfPixelComponent() * image.GetNumberOfPixels())

    def slices() -> StoredSlices:  # the view does not keep the image alive, this function does
        yield from sitk.GetArrayViewFromImage(image)

    return shape, slices()


def _check_nrrd_end(file: Path, size: int) -> None:
    """Raises EOFError if the last bytes of a gzip stream are missing, which ITK does not notice.

    Args:
        size: bytes of the voxels. A gzip stream ends with that number (modulo 2**32).
    """
    with file.open("rb") as content:
        content.seek(-4, 2)
        last = int.from_bytes(content.read(), "little")
    if re.search(rb"^encoding: gz", head_of(file), re.MULTILINE) and last != size % 2**32:
        raise EOFError("the end of the file is missing")
