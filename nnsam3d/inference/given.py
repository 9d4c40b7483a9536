"""What callers give to a session: images, positions and models of many kinds, as what the session works with.

Images of SimpleITK, nibabel and MONAI carry their geometry and are taken with it, exactly as if they were read from a
file. Other libraries are recognised by the names of their types, so that none is imported to check.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import file_version
from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.geometry.headers import NIBABEL
from nnsam3d.geometry.plausible import checked_spacing
from nnsam3d.nnunet.checkpoint import WEIGHTS_ENDING
from nnsam3d.nnunet.datasets import FINAL, STARTER
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.prompts.kinds.checks import short
from nnsam3d.prompts.labels import whole_labels

SITK = "SimpleITKIO"
ORTHONORMAL = 1e-4  # of a direction, as ITK allows
TO_MM = {"meter": 1e3, "micron": 1e-3}  # nibabel's names of NIfTI's units, which ITK converts


class Carried(NamedTuple):
    """An image with its geometry: voxels (z, y, x), their grid, and nibabel's affine as it was."""

    array: NDArray[np.float32]
    grid: ImageGrid
    affine: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ReadImage:
    """An image that was read from files, for :meth:`Session.set_image` later.

    Attributes:
        version: of the files when they were read, see :func:`files_version`.
        array: (C, z, y, x), with the properties of nnU-Net's reader.
    """

    files: tuple[str, ...]
    version: str
    array: NDArray[Any]
    properties: dict[str, Any]

    @classmethod
    def of(cls, model: TrainedModel, files: Sequence[str | Path]) -> ReadImage:
        """Reads the images of a case, one file per channel, as any model of the same reader and channels reads them.

        May run in any thread.

        Raises:
            UserError: a file that cannot be read, or a wrong number of channels.
        """
        names = tuple(os.fspath(file) for file in files)
        version = files_version(names)  # first: a file that changes meanwhile is another
        return cls(names, version, *model.read(names))

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)


def files_version(files: Sequence[str | Path]) -> str:
    """Changes when one of the files is written again. Reads none."""
    versions = " ".join(file_version(Path(file)) for file in files)
    return hashlib.sha256(versions.encode()).hexdigest()[:16]


def given_image(
    image: Any, spacing: Any, properties: Mapping[str, Any] | None, reader: str
) -> tuple[list[str], NDArray[np.float32] | None, dict[str, Any]]:
    """An image as files, or as an array with the properties of nnU-Net's reader.

    Args:
        image: a file, a list of files (one per channel), an array (z, y, x) or (C, z, y, x), or an image of SimpleITK,
            nibabel or MONAI, or a list of these (one per channel).
        spacing: mm along z, y, x, of an array.
        properties: what nnU-Net's reader returned with an array.
        reader: nnU-Net's name of the model's reader.

    Returns:
        files; array (z, y, x) or (C, z, y, x), a float32 copy, None for files; properties, empty for files.

    Raises:
        UserError: nothing of this, or not numbers, or a geometry that the model's reader cannot represent.
    """
    if files := _files(image):
        return files, None, {}
    if isinstance(properties, Mapping) and not properties:
        properties = None
    parts = list(image) if isinstance(image, (list, tuple)) else [image]
    carried = [_carried(part, reader) for part in parts]
    if parts and all(one is not None for one in carried):
        if properties is not None:
            raise UserError(f"{_type_name(parts[0])} carries its geometry: give it without properties")
        return [], *_with_geometry([one for one in carried if one is not None], spacing, reader)
    if any(one is not None for one in carried):
        raise UserError("the list mixes images and arrays: give one image, or a list with one image per channel")
    if properties is not None:
        if not isinstance(properties, Mapping) or "spacing" not in properties:
            raise UserError(f'properties must be those of nnU-Net\'s reader, with "spacing"; got {short(properties)}')
        checked_spacing(properties["spacing"], "the image's properties")
        known = dict(properties)
    else:
        known = {"spacing": _given_spacing(spacing)}
    return [], _numbers(image), known


def _files(image: Any) -> list[str]:
    """The files, if these are names of files; else empty."""
    listed = list(image) if isinstance(image, (list, tuple)) else [image]
    named = [isinstance(one, (str, bytes, os.PathLike)) for one in listed]
    if not any(named):
        return []
    if not all(named):
        raise UserError("the list mixes file names and other objects: give one file, or a list with a file per channel")
    files = [os.fsdecode(one) for one in listed]
    if not all(files):
        raise UserError("an empty file name: give the path of the image")
    return files


def given_array(values: Any, where: str) -> NDArray[Any]:
    """Real numbers of any library as a NumPy array; not copied if possible.

    Raises:
        UserError: anything else: empty, complex or masked values, text, objects.
    """
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise UserError(f"{where}: a masked array, whose masked voxels have no value: use array.filled(value)")
        values = values.data
    try:
        if callable(getattr(values, "detach", None)):  # torch; NumPy has no bfloat16, and no gradients
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() else values
        array = np.asarray(values)
    except Exception as error:  # every library raises its own
        raise UserError(f"{where}: {_type_name(values)} is not an array ({short(str(error))})") from error
    if array.dtype.kind not in "biuf":
        kind = {"c": "complex numbers: take their magnitude", "O": "Python objects", "U": "text", "S": "text"}
        what = kind.get(array.dtype.kind, f"values of type {array.dtype}")
        raise UserError(
            f"{where}: {_type_name(values)} holds {what}; give an array of real numbers (z, y, x), a file, or an image "
            "of SimpleITK, nibabel or MONAI"
        )
    if array.size == 0:
        raise UserError(f"{where}: an empty array of shape {array.shape}")
    return array


def given_labels(segmentation: Any, where: str) -> NDArray[Any]:
    """A label map (z, y, x) given as an array.

    Raises:
        UserError: no array of labels. Images of other libraries are refused, because their axes are x, y, z.
    """
    if _kind(segmentation):
        raise UserError(
            f"{where}: {_type_name(segmentation)} is not an array with the axes z, y, x: save it and give the file, or "
            "give its array with these axes"
        )
    return whole_labels(given_array(segmentation, where), where)


def given_model(model: Any, folds: Any) -> tuple[Path, list[int | str] | None, str]:
    """A model's folder, its folds (None: all trained ones), and the name of the checkpoint.

    Args:
        model: nnU-Net's model folder, the folder of one of its folds, or a checkpoint in it; None: the starter that
            comes with nnsam3d.
        folds: one, or several; None: that of the given folder, or all trained ones.

    Raises:
        UserError: no path, or other folds than that of the folder.
    """
    if model is None:
        model = STARTER
    if not isinstance(model, (str, bytes, os.PathLike)) or not os.fspath(model):
        raise UserError(
            f"the model must be its folder, .../trainer__plans__configuration, or an nnsam3d.inference.Model; got "
            f"{short(model)}"
        )
    folder, checkpoint, own = Path(os.fsdecode(model)), FINAL, ""
    if folder.suffix in (".pth", WEIGHTS_ENDING) and folder.parent.name.startswith("fold_"):
        folder, checkpoint = folder.parent, folder.name
    elif folder.name in ("plans.json", "dataset.json"):
        folder = folder.parent
    if folder.name.startswith("fold_") and not (folder / "plans.json").exists():
        folder, own = folder.parent, folder.name.removeprefix("fold_")
    wanted = _folds(folds)
    if own and wanted is not None and [str(fold) for fold in wanted] != [own]:
        raise UserError(f"{model!s}: is fold {own}, but folds {', '.join(map(str, wanted))} were given: use {folder}")
    return folder, [own] if own else wanted, checkpoint


def _folds(folds: Any) -> list[int | str] | None:
    if folds is None:
        return None
    if isinstance(folds, (Integral, str)) or getattr(folds, "ndim", None) == 0:
        folds = [folds]
    if not isinstance(folds, Iterable):
        raise UserError(f"folds must be numbers, such as 0 or [0, 1], or None; got {short(folds)}")
    return [fold if isinstance(fold, str) else int(fold) for fold in folds]


def _given_spacing(spacing: Any) -> list[float]:
    if spacing is None:
        raise UserError("an array does not know the size of its voxels: give spacing=(z, y, x) in mm")
    if isinstance(spacing, (AbstractSet, Mapping)):
        raise UserError(f"spacing {short(spacing)}: has no order: three positive numbers are needed, mm along z, y, x")
    return list(checked_spacing(spacing, "the image"))


# ---------------------------------------------------------------------- images that carry their geometry


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"


def _kind(image: Any) -> str:
    """The library of an image that carries its geometry; "" for everything else."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(image).__mro__}
    if "SimpleITK" in libraries and hasattr(image, "GetNumberOfComponentsPerPixel"):
        return "SimpleITK"
    if "nibabel" in libraries and hasattr(image, "dataobj"):
        return "nibabel"
    if "monai" in libraries and hasattr(image, "affine"):
        return "monai"
    if any(hasattr(image, name) for name in ("GetSpacing", "as_sitk", "affine", "direction")):  # ITK, TorchIO, ANTs
        return "other"
    return ""


def _carried(image: Any, reader: str) -> Carried | None:
    kind = _kind(image)
    if not kind:
        return None
    if kind == "other":
        raise UserError(
            f"{_type_name(image)} is not supported: convert it to SimpleITK's Image, save it and give the file, or "
            "give its array (z, y, x) with spacing"
        )
    if reader not in (SITK, NIBABEL):
        raise UserError(
            f"{_type_name(image)}: the model reads images with {reader}, which turns or does not know their axes: save "
            "the image to a file and give that"
        )
    try:
        if kind == "nibabel":
            return _of_nibabel(image, reader)
        return _of_sitk(image) if kind == "SimpleITK" else _of_monai(image)
    except GeometryError as error:
        raise UserError(f"{_type_name(image)}: {error}") from error


def _of_sitk(image: Any) -> Carried:
    import SimpleITK as sitk  # late: it is there if such an image is

    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() != 3:
        raise UserError(
            f"SimpleITK's Image has {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values in "
            "every voxel: give one volume, or a list with one volume per channel"
        )
    return Carried(_numbers(sitk.GetArrayViewFromImage(image)), ImageGrid.from_sitk(image))


def _of_nibabel(image: Any, reader: str) -> Carried:
    if len(image.shape) != 3:
        raise UserError(
            f"{_type_name(image)} has the shape {image.shape} (x, y, z): give one volume, or a list with one volume "
            "per channel"
        )
    array = _numbers(np.asanyarray(image.dataobj)).transpose(2, 1, 0)
    affine = image.affine
    if affine is None:  # an image in memory: its header will be written
        affine = getattr(image.header, "get_best_affine", image.header.get_base_affine)()
    grid = ImageGrid.from_ras_affine(affine, image.shape)
    units = getattr(image.header, "get_xyzt_units", lambda: ("mm", ""))()[0]
    scale = TO_MM.get(units, 1.0) if reader == SITK else 1.0  # nibabel itself does not convert
    i, j, k = (float(step) * scale for step in image.header.get_zooms()[:3])
    x, y, z = (scale * value for value in grid.origin_xyz)
    return Carried(array, ImageGrid(grid.size_xyz, (i, j, k), (x, y, z), grid.direction), np.array(affine))


def _of_monai(image: Any) -> Carried:
    """A MetaTensor (x, y, z) or (C, x, y, z), with the affine of its voxels."""
    affine = np.array(image.affine.detach().cpu().tolist(), np.float64)
    if affine.shape != (4, 4) or image.ndim not in (3, 4):
        raise UserError(
            f"MONAI's MetaTensor has the shape {tuple(image.shape)} and an affine of {affine.shape}: give a volume "
            "(x, y, z), or (C, x, y, z)"
        )
    if str(image.meta.get("space", "RAS")).upper().endswith("LPS"):
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    plain = given_array(image.as_tensor() if hasattr(image, "as_tensor") else image, "the image")
    array = plain.transpose([*range(plain.ndim - 3), -1, -2, -3])
    x, y, z = plain.shape[-3:]
    return Carried(_numbers(array), ImageGrid.from_ras_affine(affine, (x, y, z)), affine)


def _numbers(array: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinite then, which is checked later
        return given_array(array, "the image").astype(np.float32)


def _with_geometry(carried: Sequence[Carried], spacing: Any, reader: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """One array of all channels, and the properties that the reader would return for a file."""
    array, grid, affine = carried[0]
    for number, other in enumerate(carried):
        if other.grid.size_xyz != grid.size_xyz or not np.allclose(other.grid.ras_affine, grid.ras_affine, atol=1e-3):
            raise UserError(f"channel {number} has another grid than channel 0: resample it to that of channel 0")
    steps = grid.spacing_xyz[::-1]
    if spacing is not None and not np.allclose(_given_spacing(spacing), steps, rtol=1e-3):
        raise UserError(
            f"the image carries the spacing {steps} mm (z, y, x), but spacing={short(spacing)} was given: leave it "
            "out, or correct the image"
        )
    checked_spacing(steps, "the image")
    if len(carried) > 1:
        array = np.stack([one.array for one in carried])
    if reader == NIBABEL:
        known = {"original_affine": grid.ras_affine if affine is None else affine}
        return array, {"nibabel_stuff": known, "spacing": list(steps)}
    direction = np.array(grid.direction)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=ORTHONORMAL):
        raise UserError(
            "the image's axes are not at right angles, which the model's reader cannot represent: resample the image"
        )
    stuff = {"spacing": grid.spacing_xyz, "origin": grid.origin_xyz, "direction": tuple(direction.ravel().tolist())}
    return array, {"sitk_stuff": stuff, "spacing": list(steps)}
