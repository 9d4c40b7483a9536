"""What is stored in an image file, against what its reader would make of it without a word.

ITK fills what a truncated NIfTI lacks with zeros, reads its NaN as 0, and takes colours for a further axis. nnU-Net's
readers tell other things in words that help nobody. All of this is looked at before a reader is asked.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError

GZIP = b"\x1f\x8b"  # how every gzip file begins
LARGEST_RATIO = 12  # of unpacked to packed; without so much room for temporary files nothing is unpacked into one
NIFTI = (".nii", ".nii.gz")


@contextmanager
def decompressed(file: str) -> Iterator[str]:
    """The file, or what is in a .nii.gz: to see that it is whole takes decompressing, and that is done once.

    The content goes into a temporary file; where there is no room for it, the file is only looked through.

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
        else:
            yield str(target) if _unpacked(file, target) else file


def _unpacked(file: str, target: Path) -> bool:
    """Whether there was room for the content; without any it was looked through all the same."""
    if shutil.disk_usage(target.parent).free > LARGEST_RATIO * os.path.getsize(file):
        try:
            _unpack(file, target)
            return True
        except OSError:  # no room after all: an image of zeros packs well, and others need room at the same time
            target.unlink(missing_ok=True)
    _unpack(file, Path(os.devnull))
    return False


def _unpack(file: str, target: Path) -> None:
    from isal import igzip, igzip_lib  # late: this package must import with numpy alone

    try:
        with igzip.open(file) as content, target.open("wb") as copy:  # two to three times as fast as zlib
            shutil.copyfileobj(content, copy, 2**22)
    except (EOFError, igzip_lib.IsalError, gzip.BadGzipFile) as error:  # type: ignore[misc]  # its stubs
        raise UserError(f"{file}: the image cannot be read, it is truncated or damaged: {error}") from error


def check_stored(file: str, name: str, wanted: str = "one volume") -> None:
    """Whether a file holds one volume of numbers, and all of it.

    Args:
        file: as :func:`decompressed` gives it. name: the file's own name, for messages.
        wanted: what the user of the volume wants, for messages.

    Raises:
        UserError: otherwise. Files whose header cannot be read are left to their reader.
    """
    _check_header(file, name, wanted)
    if file.lower().endswith(NIFTI):
        _check_nifti(file, name)


def _check_header(file: str, name: str, wanted: str) -> None:
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(file)
    try:
        header.ReadImageInformation()
    except RuntimeError:
        return
    size, values = header.GetSize(), header.GetNumberOfComponents()
    if values > 1:
        holds = f"{values} values in every voxel (colours, vectors, or segments that overlap)"
    elif len(size) == 4:
        holds = f"{size[3]} volumes of {size[:3]} voxels (x, y, z)"
    elif len(size) != 3:
        holds = f"{len(size)} axes, {size} voxels"
    else:
        return
    raise UserError(
        f"{name}: holds {holds}, {wanted} is wanted. Write every volume that is needed into a file of its own "
        "(<case>_0000, <case>_0001, ...), and leave the others out"
    )


def _check_nifti(file: str, name: str) -> None:
    import nibabel  # late: this package must import with numpy alone

    try:
        stored: Any = nibabel.load(file)
    except nibabel.filebasedimages.ImageFileError:  # its reader may know more
        return
    kind = stored.header.get_data_dtype()
    ends = stored.dataobj.offset + kind.itemsize * math.prod(stored.shape)
    missing = 0 if file.lower().endswith(".gz") else ends - os.path.getsize(file)
    if missing > 0:
        raise UserError(f"{name}: the image cannot be read, it is truncated or damaged: {missing} bytes are missing")
    if kind.kind == "f":  # mapped into memory; slices lie one behind the other
        check_numbers(np.asanyarray(stored.dataobj.get_unscaled()).T, name)


def _not_finite(part: NDArray[Any]) -> int:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(part.sum()):  # one look, where all is well
            return 0
    return int(part.size - np.count_nonzero(np.isfinite(part)))


def check_numbers(volume: NDArray[Any], where: str, which: str = "") -> None:
    """Raises UserError for NaN and infinity; slice by slice, without a mask of the image's size."""
    wrong = sum(_not_finite(part) for part in volume)
    if wrong:
        voxels = "1 voxel" if wrong == 1 else f"{wrong} voxels"
        raise UserError(
            f"{where}: {voxels}{which} without a number (NaN or infinity), which would spread over the whole image: "
            "replace them, by the image's lowest value for example"
        )
