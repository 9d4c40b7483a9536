"""The voxel grid of an image file as stored, and its mapping to world millimetres.

Convention of SimpleITK/ITK: ``world_lps = origin + direction @ (spacing * index)``, index order i, j, k
(= x, y, z), integer indices at voxel centres. RAS (nibabel, Slicer's display) flips the first two world axes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError, last_line
from nnsam3d.geometry.declared import NRRD, head_of, overlong_line

SPACES = ("voxel", "lps", "ras")
"""The coordinate spaces of prompt files."""

# LPS and RAS differ by the sign of the first two axes; the flip is its own inverse.
_LPS_RAS = np.array([-1.0, -1.0, 1.0])

_SUPPORTED = "supported are SimpleITKIO and NibabelIO, with three-dimensional images"


class GeometryError(UserError):
    """A position, grid or properties dictionary whose mapping would be a guess."""


@dataclass(frozen=True)
class ImageGrid:
    """The geometry of the voxels of a 3D image file.

    Attributes:
        size_xyz: voxels along i, j, k.
        spacing_xyz: mm along i, j, k.
        origin_xyz: LPS mm of the centre of voxel (0, 0, 0).
        direction: 3x3 rows; column a is the LPS unit vector of index axis a. May be oblique.

    Raises:
        GeometryError: wrong lengths, non-finite numbers, sizes < 1, spacing <= 0, or a singular direction.

    >>> grid = ImageGrid((10, 20, 30), (1.0, 1.0, 2.5), (-4.0, 0.0, 100.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    >>> grid.shape_zyx
    (30, 20, 10)
    >>> grid.index_to_world([[5, 10, 4]], "ras").tolist()
    [[-1.0, -10.0, 110.0]]
    >>> grid.world_to_index([[-1, -10, 110]], "ras").tolist()
    [[5.0, 10.0, 4.0]]
    """

    size_xyz: tuple[int, int, int]
    spacing_xyz: tuple[float, float, float]
    origin_xyz: tuple[float, float, float]
    direction: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

    def __post_init__(self) -> None:
        size = tuple(int(s) for s in self.size_xyz)
        if len(size) != 3 or min(size) < 1:
            raise GeometryError(f"image size must be three whole numbers >= 1, got {self.size_xyz}")
        object.__setattr__(self, "size_xyz", size)
        object.__setattr__(self, "spacing_xyz", _triple("spacing", self.spacing_xyz))
        object.__setattr__(self, "origin_xyz", _triple("origin", self.origin_xyz))
        matrix = np.asarray(self.direction, dtype=np.float64)
        if matrix.size != 9 or not np.isfinite(matrix).all():
            raise GeometryError(f"direction must be a finite 3x3 matrix, got {self.direction}")
        matrix = matrix.reshape(3, 3)
        if min(self.spacing_xyz) <= 0:
            raise GeometryError(f"spacing must be positive, got {self.spacing_xyz}")
        if abs(np.linalg.det(matrix)) < 1e-6:
            raise GeometryError(f"direction matrix is singular: {matrix.tolist()}")
        object.__setattr__(self, "direction", tuple(tuple(row) for row in matrix.tolist()))

    # ------------------------------------------------------------------ constructors

    @classmethod
    def from_sitk(cls, image: Any) -> ImageGrid:
        """From a ``SimpleITK.Image``, or an ``ImageFileReader`` after ``ReadImageInformation()``.

        Raises:
            GeometryError: the image is not three-dimensional.
        """
        size = tuple(image.GetSize())
        if len(size) != 3:
            raise GeometryError(f"image has {len(size)} dimensions (size {size}); {_SUPPORTED}")
        return cls(size, image.GetSpacing(), image.GetOrigin(), image.GetDirection())  # type: ignore[arg-type]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ImageGrid:
        """From the header of an image file; the voxels are not read. Needs SimpleITK.

        Raises:
            GeometryError: SimpleITK cannot read the header, or the image is not three-dimensional.
        """
        return cls.from_header(path, open_header(path))

    @classmethod
    def from_header(cls, path: str | os.PathLike[str], header: Any) -> ImageGrid:
        """From the ``header`` of ``path``, by :func:`open_header`. Raises GeometryError: not three-dimensional."""
        try:
            return cls.from_sitk(header)
        except GeometryError as error:
            raise GeometryError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def without_world(cls, size_xyz: tuple[int, int, int]) -> ImageGrid:
        """For an image without world geometry: suitable for voxel positions only.

        >>> ImageGrid.without_world((10, 20, 30)).contains_index([[9.4, 0, 0], [9.6, 0, 0]]).tolist()
        [True, False]
        """
        return cls(size_xyz, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))

    @classmethod
    def from_nnunet_properties(cls, properties: Mapping[str, Any], shape_zyx: Sequence[int]) -> ImageGrid:
        """From the properties dictionary that nnU-Net's image reader returns with the array.

        Args:
            properties: of ``SimpleITKIO`` ('sitk_stuff') or ``NibabelIO`` ('nibabel_stuff').
            shape_zyx: ``data.shape[1:]`` as read, which is not part of the properties.

        Raises:
            GeometryError: the properties come from an unsupported reader; the message lists keys and supported readers.
                Reorienting readers are not supported, because their array differs from the file as stored.
        """
        x, y, z = shape_zyx[::-1]
        if "sitk_stuff" in properties:
            stuff = properties["sitk_stuff"]
            extra = sorted(set(stuff) - {"spacing", "origin", "direction"})
            if extra or len(stuff.get("spacing", ())) != 3 or len(stuff.get("direction", ())) != 9:
                raise _unsupported("SimpleITKIOWithReorient" if extra else "SimpleITKIO", properties)
            return cls((x, y, z), stuff["spacing"], stuff["origin"], stuff["direction"])
        if "nibabel_stuff" in properties:
            stuff = properties["nibabel_stuff"]
            if "original_affine" not in stuff or "reoriented_affine" in stuff:
                raise _unsupported("NibabelIOWithReorient", properties)
            return cls.from_ras_affine(stuff["original_affine"], (x, y, z))
        raise _unsupported("an unknown reader (for example TIFF or natural images)", properties)

    @classmethod
    def from_ras_affine(cls, affine: ArrayLike, size_xyz: tuple[int, int, int]) -> ImageGrid:
        """From a 4x4 matrix index i, j, k -> RAS mm (nibabel's ``affine``).

        Raises:
            GeometryError: not 4x4, not finite, or singular.

        >>> affine = [[-2, 0, 0, 90], [0, -2, 0, 126], [0, 0, 2, -72], [0, 0, 0, 1]]
        >>> ImageGrid.from_ras_affine(affine, (91, 109, 91)).spacing_xyz
        (2.0, 2.0, 2.0)
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"affine must be a finite 4x4 matrix, got shape {matrix.shape}")
        lps = _LPS_RAS[:, None] * matrix[:3]
        spacing = np.linalg.norm(lps[:, :3], axis=0)
        if spacing.min() <= 0:
            raise GeometryError(f"affine is singular: {matrix.tolist()}")
        return cls(size_xyz, tuple(spacing), tuple(lps[:, 3]), tuple(map(tuple, lps[:, :3] / spacing)))  # type: ignore[arg-type]

    # ------------------------------------------------------------------ mapping

    @property
    def ras_affine(self) -> NDArray[np.float64]:
        """4x4, index i, j, k -> RAS mm (nibabel's ``affine``)."""
        affine = np.eye(4)
        affine[:3, :3] = _LPS_RAS[:, None] * self._matrix()
        affine[:3, 3] = _LPS_RAS * np.asarray(self.origin_xyz)
        return affine

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the array (z, y, x)."""
        x, y, z = self.size_xyz
        return z, y, x

    def index_to_world(self, points_N3: ArrayLike, space: str = "lps") -> NDArray[np.float64]:
        """Index i, j, k (N, 3), fractions allowed -> world mm (N, 3) in ``space`` "lps" or "ras"."""
        points = as_points(points_N3)
        world = points @ self._matrix().T + np.asarray(self.origin_xyz)
        return world * _world_signs(space)

    def world_to_index(self, points_N3: ArrayLike, space: str = "lps") -> NDArray[np.float64]:
        """World mm (N, 3) in ``space`` "lps" or "ras" -> index i, j, k (N, 3), not rounded."""
        world = as_points(points_N3) * _world_signs(space)
        # A general inverse, not the transpose: NIfTI sforms may carry shear or rounded direction cosines.
        return np.linalg.solve(self._matrix(), (world - np.asarray(self.origin_xyz)).T).T

    def to_index(self, points_N3: ArrayLike, space: str) -> NDArray[np.float64]:
        """Positions (N, 3) in "voxel", "lps" or "ras" -> index i, j, k (N, 3)."""
        return as_points(points_N3) if space == "voxel" else self.world_to_index(points_N3, space)

    def contains_index(self, points_N3: ArrayLike) -> NDArray[np.bool_]:
        """(N,) True where -0.5 <= index < size - 0.5 on all axes: inside the volume covered by voxels."""
        return inside_grid(points_N3, self.size_xyz)

    def _matrix(self) -> NDArray[np.float64]:
        return np.asarray(self.direction) * np.asarray(self.spacing_xyz)


def as_points(points_N3: ArrayLike) -> NDArray[np.float64]:
    """A float64 copy (N, 3); an empty sequence becomes (0, 3). Raises GeometryError on other shapes."""
    points = np.array(points_N3, dtype=np.float64)
    if points.size == 0:
        return points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise GeometryError(f"positions must have shape (N, 3), got {points.shape}")
    return points


def inside_grid(points_N3: ArrayLike, shape: Sequence[int]) -> NDArray[np.bool_]:
    """(N,) True where -0.5 <= position < shape - 0.5 on all axes; both in the same axis order.

    >>> inside_grid([[0, 0, 0], [9.6, 0, 0]], shape=(10, 10, 10)).tolist()
    [True, False]
    """
    points = as_points(points_N3)
    return np.all((points >= -0.5) & (points < np.asarray(shape) - 0.5), axis=1)


def _world_signs(space: str) -> NDArray[np.float64]:
    if space == "lps":
        return np.ones(3)
    if space == "ras":
        return _LPS_RAS
    raise GeometryError(f"unknown world space {space!r}; allowed are 'lps' and 'ras'")


def _triple(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    triple = tuple(float(v) for v in values)
    if len(triple) != 3 or not np.isfinite(triple).all():
        raise GeometryError(f"{name} must be three finite numbers, got {values}")
    return triple


def _unsupported(reader: str, properties: Mapping[str, Any]) -> GeometryError:
    keys = []
    for key, value in properties.items():
        inner = f" {{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else ""
        keys.append(f"{key}{inner}")
    found = "; ".join(keys) or "none"
    return GeometryError(
        f"the image geometry of {reader} cannot be used for prompts (properties: {found}); {_SUPPORTED}"
    )


def itk_reader(path: str | os.PathLike[str]) -> Any:
    """A SimpleITK ``ImageFileReader`` of a file. Raises RuntimeError: ITK may crash at its header."""
    import SimpleITK as sitk  # late: this package must import with numpy alone

    is_nrrd = os.fspath(path).lower().endswith(NRRD) and os.path.isfile(path)
    if is_nrrd and (line := overlong_line(head_of(Path(path)))) is not None:
        raise RuntimeError(f"a line of the header is too long: {line}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    return reader


def itk_header(path: str | os.PathLike[str]) -> Any:
    """:func:`itk_reader`, which has read an image's header, not its voxels. Raises RuntimeError."""
    reader = itk_reader(path)
    reader.ReadImageInformation()
    return reader


def open_header(path: str | os.PathLike[str]) -> Any:
    """:func:`itk_header`, but raises GeometryError if SimpleITK cannot read the header."""
    try:
        return itk_header(path)
    except RuntimeError as error:
        raise GeometryError(f"{os.fspath(path)}: the image header cannot be read ({last_line(error)})") from None


def read_segmentation_image(file: str, name: str) -> Any:
    """A SimpleITK image of labels. Raises UserError, with the original ``name``, if SimpleITK cannot read it."""
    try:
        return itk_reader(file).Execute()
    except RuntimeError as error:
        raise UserError(f"{name}: the segmentation cannot be read ({last_line(error)})") from None
