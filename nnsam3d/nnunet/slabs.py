"""Reads images like nnU-Net's SimpleITKIO, with little more memory than the result.

That reader keeps three copies of an image: by ITK, as an array of the file's type, and as float32. Here, slabs of an
uncompressed NIfTI file are read directly into the result; other formats need one additional copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnsam3d.geometry.frames import itk_header

SLAB = 32  # slices read at a time


def read_in_slabs(files: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Images (C, z, y, x) and properties, equal to those of ``SimpleITKIO.read_images``.

    Returns None if the reader must handle the images: not volumes, or channels with different grids.

    Raises:
        RuntimeError: ITK cannot read a file.
    """
    headers = [itk_header(file) for file in files]
    first = headers[0]
    if first.GetDimension() != 3 or any(_grid(header) != _grid(first) for header in headers):
        return None
    if any(header.GetNumberOfComponents() != 1 for header in headers):
        return None
    spacing, origin, direction = first.GetSpacing(), first.GetOrigin(), first.GetDirection()
    data_CZYX = np.empty((len(files), *first.GetSize()[::-1]), np.float32)
    for volume_ZYX, header in zip(data_CZYX, headers, strict=True):
        _fill(volume_ZYX, header)
    known = {"spacing": spacing, "origin": origin, "direction": direction}
    return data_CZYX, {"sitk_stuff": known, "spacing": [np.abs(step) for step in spacing[::-1]]}


def _grid(header: sitk.ImageFileReader) -> tuple[Any, ...]:
    return header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection()


def _fill(volume_ZYX: NDArray[np.float32], header: sitk.ImageFileReader) -> None:
    x, y, slices = header.GetSize()
    # uncompressed NIfTI is the only format of which ITK can read parts without reading the whole file each time
    step = SLAB if header.GetFileName().lower().endswith(".nii") else slices
    for start in range(0, slices, step):
        stop = min(start + step, slices)
        header.SetExtractIndex((0, 0, start))
        header.SetExtractSize((x, y, stop - start))
        part = header.Execute()  # a separate name: the view below does not keep the image alive
        with np.errstate(over="ignore"):  # beyond float32: infinite, which is checked later
            volume_ZYX[start:stop] = sitk.GetArrayViewFromImage(part)
