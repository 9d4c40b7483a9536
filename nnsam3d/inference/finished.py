"""Whether the results of an earlier run are complete, for `--continue_prediction`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from nnsam3d.errors import UserError, last_line
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import case_header
from nnsam3d.nnunet.label_files import check_finished


def unfinished(model: Model, image: str, output: Path, name: str, probabilities: bool) -> str:
    """Why a case must be computed again: a file is incomplete or does not fit the image; "" if nothing is wrong.

    Args:
        model: that would compute it.
        image: the case's first image; only its header is read.
        output: the folder that contains the case's files; the label map must exist.
        name: of the case.
        probabilities: whether the .npz and .pkl files are needed, too.
    """
    header = case_header(image, model.reader_name)
    shape = None if header is None else header.grid_of("voxel").shape_zyx
    try:
        check_finished(model.reader, output / f"{name}{model.file_ending}", shape)
        if probabilities:
            _check_probabilities(output / f"{name}.npz", shape)
    except UserError as error:
        return str(error)
    properties = output / f"{name}.pkl"
    # not loaded, because that could execute code: every pickle ends with a full stop
    if probabilities and not (properties.is_file() and properties.read_bytes().endswith(b".")):
        return f"{properties} is missing or incomplete"
    return ""


def _check_probabilities(file: Path, shape_ZYX: tuple[int, ...] | None) -> None:
    """By its directory, which is at the end of the file, and the array's header.

    Raises:
        UserError: it is incomplete, damaged or has another shape.
    """
    try:
        with zipfile.ZipFile(file) as parts, parts.open("probabilities.npy") as part:
            version = np.lib.format.read_magic(part)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape = read(part)[0][1:]
    except Exception as error:  # of zipfile, zlib, NumPy or the system
        raise UserError(f"{file} is incomplete or damaged ({last_line(error)})") from error
    if shape_ZYX is not None and shape != shape_ZYX:
        raise UserError(f"{file} has the shape {shape} (z, y, x), the image {shape_ZYX}")
