"""Checks of image files for defects that readers do not report, or report unclearly.

ITK pads truncated NIfTI files with zeros, reads NaN as 0, and treats colours as an additional axis, all silently. These
checks run before an image is read.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError, printable
from nnsam3d.geometry.declared import check_data_files, check_declared
from nnsam3d.geometry.frames import GeometryError, open_header
from nnsam3d.geometry.plausible import checked_spacing
from nnsam3d.tables import counted

GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
LARGEST_RATIO = 12  # of decompressed to compressed size; temporary files need that much space
CHUNK = 2**22  # bytes decompressed at a time
FILES_SEEN, FOLDERS_SEEN = 20, 5  # in a search for DICOM
NIFTI = (".nii", ".nii.gz")


def check_name(file: str | os.PathLike[str]) -> None:
    """Raises UserError for a name with bytes that are not UTF-8: ITK ends the whole process then, without a message."""
    name = os.fspath(file)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{printable(name)}: the name contains bytes that are not UTF-8, with which images cannot be read or "
            "written: rename the file, or the folder"
        ) from None


def check_dicom(path: str | os.PathLike[str]) -> None:
    """Raises UserError for a folder, and for a slice in DICOM format; volumes in one DICOM file are left to ITK."""
    name = os.fspath(path)
    advice = f"{printable(name)}: DICOM: convert to NIfTI first (dcm2niix -z y -o FOLDER DICOM_FOLDER)"
    if os.path.isdir(name):
        if has_dicom(Path(name)):
            raise UserError(advice)
        raise UserError(f"{printable(name)}: is a folder; give the image file in it")
    if is_dicom(Path(name)) and not _is_volume(name):
        raise UserError(advice)


def has_dicom(folder: Path) -> bool:
    """Whether there are DICOM files in a folder, or in the folders in it; a few files of each are looked at."""
    for one in [folder, *itertools.islice(_sorted(folder, Path.is_dir), FOLDERS_SEEN)]:
        if any(map(is_dicom, itertools.islice(_sorted(one, Path.is_file), FILES_SEEN))):
            return True
    return False


def _sorted(folder: Path, kind: Callable[[Path], bool]) -> Iterator[Path]:
    try:
        return filter(kind, sorted(folder.iterdir()))
    except OSError:
        return iter(())


def is_dicom(file: Path) -> bool:
    """By the letters that DICOM files have at byte 128, or by the name."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as content:
            return content.read(132)[128:] == b"DICM" or file.suffix.lower() == ".dcm"
    except OSError:
        return False


def _is_volume(file: str) -> bool:
    try:
        size = open_header(file).GetSize()
    except GeometryError:
        return False
    return len(size) == 3 and size[2] > 1


@contextmanager
def decompressed(file: str) -> Iterator[str]:
    """The file, or the decompressed content of a .nii.gz file, which is read once to check that it is complete.

    The content is written to a temporary file. If there is no space for it, the file is only checked.

    Raises:
        UserError: truncated or damaged, or see :func:`check_name` and :func:`check_dicom`.
    """
    check_name(file)
    check_dicom(file)
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
        if not packed:  # not compressed, despite its name: left to its reader
            target.symlink_to(Path(file).absolute())
            yield str(target)
        else:
            yield str(target) if _unpacked(file, target) else file


def _unpacked(file: str, target: Path) -> bool:
    """Whether there was space for the content; if not, the file was checked without writing it."""
    if shutil.disk_usage(target.parent).free > LARGEST_RATIO * os.path.getsize(file):
        try:
            _unpack(file, target)
            return True
        except OSError:  # no space after all: high compression, or other processes
            target.unlink(missing_ok=True)
    _unpack(file, Path(os.devnull))
    return False


def _unpack(file: str, target: Path) -> None:
    """Like zlib's gzread, with which ITK reads: all members, up to the end or bytes that do not begin another one."""
    from isal import igzip_lib  # late: this package must import with numpy alone

    try:
        with open(file, "rb") as packed, target.open("wb") as copy:
            rest = packed.read(CHUNK)
            while rest.startswith(GZIP):
                member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)  # two to three times as fast as zlib
                while not member.eof:
                    copy.write(member.decompress(rest, CHUNK))  # type: ignore[arg-type]  # its stubs
                    rest = packed.read(CHUNK) if member.needs_input else b""
                    if member.needs_input and not rest and not member.eof:
                        raise EOFError("the compressed data end too early")
                rest = member.unused_data + rest
                rest += packed.read(CHUNK) if len(rest) < len(GZIP) else b""
    except (EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # its stubs
        raise UserError(f"{file}: the image cannot be read, it is truncated or damaged: {error}") from error


def check_stored(file: str, name: str, wanted: str = "one volume") -> None:
    """Check that a file contains a single, complete volume of finite numbers.

    Args:
        file: as returned by :func:`decompressed`.
        name: the original file name, for messages.
        wanted: what is expected, for messages.

    Raises:
        UserError: otherwise. Files with unreadable headers are left to their reader.
    """
    _check_header(file, name, wanted)
    if file.lower().endswith(NIFTI):
        _check_nifti(file, name)


def _check_header(file: str, name: str, wanted: str) -> None:
    there = check_data_files(file, name)
    try:
        header = open_header(file)
    except GeometryError:
        return
    size, values = header.GetSize(), header.GetNumberOfComponents()
    if values > 1:
        holds = f"{values} values in every voxel (colours, vectors, or segments that overlap)"
    elif len(size) == 4:
        holds = f"{size[3]} volumes of {size[:3]} voxels (x, y, z)"
    elif len(size) != 3:
        holds = f"{len(size)} axes, {size} voxels"
    else:
        checked_spacing(header.GetSpacing()[::-1], name)
        check_declared(header, there, file, name)
        return
    raise UserError(
        f"{name}: contains {holds}; expected {wanted}. Save each required volume to a separate file "
        "(<case>_0000, <case>_0001, ...)"
    )


def _check_nifti(file: str, name: str) -> None:
    import nibabel  # late: this package must import with numpy alone

    try:
        stored: Any = nibabel.load(file)
    except nibabel.filebasedimages.ImageFileError:  # left to its reader
        return
    kind = stored.header.get_data_dtype()
    ends = stored.dataobj.offset + kind.itemsize * math.prod(stored.shape)
    missing = 0 if file.lower().endswith(".gz") else ends - os.path.getsize(file)
    if missing > 0:
        raise UserError(f"{name}: the image cannot be read, it is truncated or damaged: {missing} bytes are missing")
    if kind.kind == "f":  # memory-mapped; the last axis is contiguous in slices
        check_numbers(np.asanyarray(stored.dataobj.get_unscaled()).T, name)


def _not_finite(part: NDArray[Any]) -> int:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(part.sum()):  # fast path
            return 0
    return int(part.size - np.count_nonzero(np.isfinite(part)))


def check_numbers(volume: NDArray[Any], where: str, which: str = "") -> None:
    """Raises UserError for NaN and infinity; slice by slice, without an array of the image's size.

    Args:
        volume: (D, H, W) voxels of the image.
        where: the image, for messages.
        which: follows the number of voxels in the message, such as " of channel 1".
    """
    wrong = sum(_not_finite(part) for part in volume)
    if wrong:
        raise UserError(
            f"{where}: {counted(wrong, 'voxel')}{which} with NaN or infinity, which would affect the whole image: "
            "replace them, for example with the image's minimum"
        )
