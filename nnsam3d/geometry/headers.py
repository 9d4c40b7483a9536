"""The grid of an image file from its header, as interpreted by the program that will read its voxels.

ITK and nibabel differ for some headers: NIfTI files whose two transformations differ, or with shear. Formats without
world geometry (TIFF and pictures) have a grid for voxel positions only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnsam3d.geometry.frames import GeometryError, ImageGrid, open_header
from nnsam3d.geometry.stored import GZIP, NIFTI, check_dicom, check_name

NIBABEL = "NibabelIO"
NO_WORLD = (".tif", ".tiff", ".png", ".bmp")
NOT_ORTHONORMAL = (
    "If nibabel can read it, its direction is not orthonormal, which ITK refuses: rewrite the image with an "
    "orthonormal direction, or plan the dataset with NibabelIO"
)
TOLERANCE_MM = 0.01  # between the corners of an image in two readers

GridOf: TypeAlias = Callable[[str], ImageGrid]
"""From a coordinate space to the grid of the image; raises an error if the image does not have that space."""


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        grid_of: its grid, see :func:`grid_of_file`.
        unknown: a warning if it says nothing about orientation and spacing, see :func:`unknown_geometry`.
    """

    grid_of: GridOf
    unknown: str | None


class GeometryWarning(UserWarning):
    """Two programs interpret the header of an image differently."""


def grid_of_file(path: str | os.PathLike[str], reader: str | None = None) -> GridOf:
    """The grid of an image file; only the header is read.

    Args:
        reader: nnU-Net's name of the reader that will read the voxels; None if unknown: ITK.

    Raises:
        GeometryError: the header cannot be read, or the image is not three-dimensional.
        UserError: see :func:`check_name` and :func:`check_dicom`.

    Warns:
        GeometryWarning: no reader is given, and ITK and nibabel differ.

    >>> import SimpleITK as sitk
    >>> import tempfile
    >>> image = sitk.Image([4, 5, 6], sitk.sitkInt16)
    >>> image.SetSpacing([1.0, 1.0, 3.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sitk.WriteImage(image, f"{folder}/case_0000.nii.gz")
    ...     grid = grid_of_file(f"{folder}/case_0000.nii.gz")("lps")
    >>> grid.size_xyz, grid.spacing_xyz
    ((4, 5, 6), (1.0, 1.0, 3.0))
    """
    return header_of_file(path, reader).grid_of


def header_of_file(path: str | os.PathLike[str], reader: str | None = None) -> Header:
    """Grid and geometry of an image file, from one reading of its header.

    Args and errors as for :func:`grid_of_file`.
    """
    path = Path(path)
    check_name(path)
    check_dicom(path)
    if path.suffix.lower() in NO_WORLD:
        return Header(_without_world(path), _no_world(path))
    if not path.exists():
        raise GeometryError(f"{path}: no such file")
    nifti = path.name.lower().endswith(NIFTI)
    if reader is not None and reader.startswith(NIBABEL):
        grid = nibabel_grid(path)
        return Header(lambda space: grid, unknown_geometry(path))
    try:
        header = open_header(path)
        grid = ImageGrid.from_header(path, header)
    except GeometryError as error:
        if nifti and "dimensions" not in str(error):
            raise GeometryError(f"{error}. {NOT_ORTHONORMAL}") from None
        raise
    if nifti and reader is None:
        _compare(path, grid)
    return Header(lambda space: grid, _unknown(header))


def nibabel_grid(path: Path) -> ImageGrid:
    """As interpreted by nibabel. Raises GeometryError: see :func:`grid_of_file`."""
    try:
        header: Any = _loaded(path)
    except Exception as error:  # errors of nibabel, gzip or the system
        raise GeometryError(f"{path}: the image header cannot be read ({error})") from None
    if len(header.shape) != 3:
        raise GeometryError(f"{path}: image has {len(header.shape)} dimensions (size {tuple(header.shape)})")
    i, j, k = header.shape
    try:
        return ImageGrid.from_ras_affine(header.affine, (int(i), int(j), int(k)))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from None


def _loaded(path: Path) -> Any:
    import nibabel  # late: this package must import with numpy alone

    with path.open("rb") as file:
        if path.name.lower().endswith(".nii.gz") and file.read(2) != GZIP:  # not compressed, despite its name
            file.seek(0)
            return nibabel.Nifti1Image.from_stream(file)
    return nibabel.load(path)


def _compare(path: Path, grid: ImageGrid) -> None:
    try:
        other = nibabel_grid(path)
    except GeometryError:
        return
    size = np.array(grid.size_xyz) - 1
    corners_N3 = np.array([[0, 0, 0], size, [size[0], 0, 0], [0, size[1], 0], [0, 0, size[2]]], np.float64)
    ours, theirs = grid.index_to_world(corners_N3), other.index_to_world(corners_N3)
    apart = np.linalg.norm(ours - theirs, axis=1)
    if apart.max() > TOLERANCE_MM:
        place = int(np.argmax(apart))
        placed = [", ".join(f"{value:.1f}" for value in values[place]) for values in (ours, theirs)]
        voxel = ", ".join(str(int(value)) for value in corners_N3[place])
        warnings.warn(
            f"{path}: ITK and nibabel interpret this header differently: voxel ({voxel}) lies at ({placed[0]}) mm LPS "
            f"for ITK, at ({placed[1]}) for nibabel. ITK's is used; specify the model to use its reader's",
            GeometryWarning,
            stacklevel=3,
        )


def _without_world(path: Path) -> GridOf:
    grid = ImageGrid.without_world(ImageGrid.from_file(path).size_xyz)  # its spacing and origin have no meaning

    def grid_of(space: str) -> ImageGrid:
        if space != "voxel":
            raise GeometryError(
                f"{path} has no world geometry, like all {path.suffix.lower()} files: positions in space "
                f'"{space}" cannot be mapped. Give them in voxels'
            )
        return grid

    return grid_of


def unknown_geometry(path: str | os.PathLike[str]) -> str | None:
    """A warning if an image file says nothing about orientation and spacing, or only what writers set by default.

    Only the header is read; None if it cannot be read, which is reported elsewhere.
    """
    if Path(path).suffix.lower() in NO_WORLD:
        return _no_world(Path(path))
    try:
        return _unknown(open_header(path))
    except GeometryError:
        return None


def _no_world(path: Path) -> str:
    return f"orientation and spacing unknown: {path.suffix.lower()} files record neither"


def _unknown(reader: Any) -> str | None:
    """Of a SimpleITK ``ImageFileReader`` that has read the header."""
    codes = [reader.GetMetaData(key) if reader.HasMetaDataKey(key) else "" for key in ("qform_code", "sform_code")]
    default = (set(reader.GetSpacing()), set(reader.GetOrigin())) == ({1.0}, {0.0})
    turn = np.round(np.reshape(reader.GetDirection(), (len(reader.GetSize()), -1)), 6)
    # numpy.eye(4) as nibabel writes it; with other codes, somebody has set it
    unturned = [np.eye(len(turn)), *([np.diag([-1.0, -1.0, 1.0])] if codes == ["0", "2"] else [])]
    if codes == ["0", "0"]:
        why = "the header has neither a qform nor a sform"
    elif default and any(np.array_equal(turn, one) for one in unturned):
        why = "the header has only defaults (1 mm, origin 0, no rotation)"
    else:
        return None
    return f"orientation and spacing unknown: {why}; the left side may be the right one, and sizes may be wrong"
