"""What nnU-Net's SimpleITKIO reads, with little more memory than the result takes.

The reader holds an image three times: as ITK read it, as an array of the file's type, and as float32. Here slabs of an
uncompressed NIfTI go straight into the result, and any other format is held once beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

SLAB = 32  # slices read at a time


def stream_images(files: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Images (C, z, y, x) and properties, equal to those of ``SimpleITKIO.read_images``.

    Returns None where the reader has more to say: images that are no volumes, or channels whose grids differ.

    Raises:
        RuntimeError: of ITK, which cannot read a file.
    """
    headers = [_header(file) for file in files]
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


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _grid(header: sitk.ImageFileReader) -> tuple[Any, ...]:
    return header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection()


def _fill(volume_ZYX: NDArray[np.float32], header: sitk.ImageFileReader) -> None:
    for start, stop in _slabs(header):
        x, y, _ = header.GetSize()
        header.SetExtractIndex((0, 0, start))
        header.SetExtractSize((x, y, stop - start))
        part = header.Execute()  # a name of its own: the view below does not keep the image alive
        with np.errstate(over="ignore"):  # beyond float32: infinite, which is checked for like any other number
            volume_ZYX[start:stop] = sitk.GetArrayViewFromImage(part)


def _slabs(header: sitk.ImageFileReader) -> Iterator[tuple[int, int]]:
    """Of all formats, ITK reads only parts of uncompressed NIfTI without reading the whole file for each of them."""
    slices = header.GetSize()[2]
    step = SLAB if header.GetFileName().lower().endswith(".nii") else slices
    return ((start, min(start + step, slices)) for start in range(0, slices, step))
