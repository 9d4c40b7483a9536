"""Label maps written by nnU-Net's readers and writers, and checked: what lies under its final name is complete."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError, last_line
from nnsam3d.files import ask_system, replacing
from nnsam3d.geometry.label_files import check_ending, check_written, stored_slices
from nnsam3d.geometry.stored import check_name

IN_FILE_ORDER = ("SimpleITKIO", "NibabelIO")  # the others turn the axes, or write files without geometry


def write_label_map(writer: Any, label_map_ZYX: NDArray[Any], file: Path, properties: dict[str, Any]) -> None:
    """Write a label map in nnU-Net's way, and read it again to notice what the writer does not report.

    Args:
        writer: nnU-Net's reader and writer of the dataset.
        label_map_ZYX: labels (z, y, x).
        file: a temporary name; the caller gives the file its final one.
        properties: what the reader returned with the image.

    Raises:
        OSError: the file is incomplete; with the system's reason, if it can be found.
        UserError: see :func:`check_name`.
    """
    check_name(file)
    try:
        writer.write_seg(label_map_ZYX, str(file), properties)
    except RuntimeError as error:  # ITK's
        ask_system(file, label_map_ZYX.size)
        raise OSError(errno.EINVAL, last_line(error).replace(str(file), file.name)) from error
    if type(writer).__name__ in IN_FILE_ORDER:
        check_written(file, label_map_ZYX)
    elif not np.array_equal(_read(writer, file), label_map_ZYX):
        ask_system(file, label_map_ZYX.size)
        raise OSError(errno.EIO, "what was written cannot be read back")


def save_label_map(writer: Any, label_map_ZYX: NDArray[Any], path: Path, properties: dict[str, Any]) -> None:
    """:func:`write_label_map` under the final name ``path``, or nothing: an existing file is replaced at the end.

    Raises:
        UserError: the ending cannot hold a label map (:func:`check_ending`).
        WriteError: the file cannot be written; what was at ``path`` stays.
    """
    check_ending(path, type(writer).__name__)
    with replacing(path, durable=True, ending="".join(path.suffixes)) as temporary:
        write_label_map(writer, label_map_ZYX, temporary, properties)


def check_finished(reader: Any, file: Path, shape_ZYX: tuple[int, ...] | None) -> None:
    """Whether a label map, possibly of another program, is complete; every byte of it is read.

    Args:
        reader: nnU-Net's reader and writer of the dataset.
        shape_ZYX: of the image (z, y, x); None if it is unknown.

    Raises:
        UserError: it is missing, damaged or has another shape.
    """
    try:
        if type(reader).__name__ in IN_FILE_ORDER:
            shape, slices = stored_slices(file)
            for _ in slices:
                pass
        else:
            shape = _read(reader, file).shape
    except Exception as error:  # readers raise different errors
        raise UserError(f"{file} is incomplete or damaged ({last_line(error)})") from error
    if shape_ZYX is not None and shape != shape_ZYX:
        raise UserError(f"{file} has the shape {shape} (z, y, x), the image {shape_ZYX}")


def _read(reader: Any, file: Path) -> NDArray[Any]:
    return np.asarray(reader.read_seg(str(file))[0][0])
