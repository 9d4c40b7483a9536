"""`nnsam3d prompts inspect`: the positions of clicks in all spaces, and the labels that they hit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError, printable
from nnsam3d.geometry import GeometryError, GridOf, ImageGrid, Points, PointSpace, grid_of_file
from nnsam3d.geometry.stored import check_stored, decompressed
from nnsam3d.prompts.formats import SUFFIXES, same_name
from nnsam3d.prompts.labels import whole_labels
from nnsam3d.prompts.types import CasePrompts, Click
from nnsam3d.tables import columns, counted

_SPACES: dict[PointSpace, str] = {"voxel": "voxel i, j, k", "lps": "LPS mm", "ras": "RAS mm"}


def inspect_file(
    file: Path,
    prompts: CasePrompts,
    grid_of: GridOf | None,
    segmentation: Path | None,
    labels: Mapping[str, int] | None,
    image_case: str,
    remarks: Sequence[str] = (),
) -> int:
    """Print a table of the clicks; 1 if one is outside the image, otherwise 0.

    Args:
        labels: those of the dataset, which were checked; None: they are unknown.
        image_case: the case of the image if it is given as a file, otherwise that of the prompt file.
        remarks: warnings about the image.

    Raises:
        UserError: a segmentation is unreadable or given without the image.
    """
    clicks = counted(len(prompts.clicks), "click")
    print(f"{printable(str(file))}: case {printable(prompts.case)}, {clicks}, in space {prompts.space}")
    _print_others(prompts)
    if labels is None:
        print("(the labels were not checked; use --dataset dataset.json to check them)")
    if not same_name(prompts.case, image_case):
        suffix = next(suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix))
        print(f"(the image is that of case {image_case}: predictions find this file as {image_case}{suffix} only)")
    if grid_of is None:
        if segmentation is not None:
            raise UserError("--segmentation also needs --image, which defines the positions of clicks")
        print("(use --image to show the other spaces, and whether the clicks are inside)")
        rows: list[tuple[str, ...]] = [("", "label", _SPACES[prompts.space])]
        rows += [(str(n), str(c.label), _numbers(c.position)) for n, c in enumerate(prompts.clicks, start=1)]
        print(columns(rows, "  "))
        return 0
    grid = grid_of(prompts.space)
    size, spacing = grid.size_xyz or (), grid.spacing_xyz
    print(f"image: {' x '.join(map(str, size))} voxels of {' x '.join(f'{s:g}' for s in spacing)} mm")
    for text in remarks:
        print(f"warning: the image: {text}")
    points = prompts.points
    inside = points.inside(grid)
    spaces = _known_spaces(grid_of)
    places = [points.to(space, grid_of(space)).values_N3 for space in spaces]
    rows = [
        ("", "label", *(_SPACES[space] for space in spaces), "in image") + (("segmentation",) if segmentation else ())
    ]
    hits: Sequence[tuple[str, ...]] = [()] * len(points)
    if segmentation:
        hits = [(text,) for text in _hits(points.to("lps", grid), segmentation, labels)]
    for n, click in enumerate(prompts.clicks):
        numbers = [_numbers(column[n]) for column in places]
        rows.append((str(n + 1), str(click.label), *numbers, "yes" if inside[n] else "NO", *hits[n]))
    print(columns(rows, "  "))
    if not inside.all():
        print("Predictions refuse clicks outside the image. Check the space and the image.")
    return 0 if inside.all() else 1


def _known_spaces(grid_of: GridOf) -> list[PointSpace]:
    """The spaces available for the image."""
    known: list[PointSpace] = []
    for space in _SPACES:
        with contextlib.suppress(GeometryError):
            grid_of(space)
            known.append(space)
    return known


def _print_others(prompts: CasePrompts) -> None:
    """Print prompts of other kinds than clicks in the file's space."""
    for prompt in prompts.prompts:
        if not isinstance(prompt, Click):
            print(f"  {prompt.kind}, {'all labels' if prompt.label is None else prompt.label}: {prompt.describe()}")


def _hits(points: Points, path: Path, labels: Mapping[str, int] | None) -> list[str]:
    """For every click, the label under it, or the nearest label and its distance."""
    array, own_grid = read_segmentation(path)
    names = {value: name for name, value in (labels or {}).items()}
    world = points.values_N3
    voxels_zyx = np.floor(points.to("array", own_grid).values_N3 + 0.5).astype(np.int64)
    marked_zyx = np.argwhere(array != 0)
    marked_world = Points(marked_zyx.astype(np.float64), "array").to("lps", own_grid).values_N3
    texts = []
    for voxel, place in zip(voxels_zyx, world, strict=True):
        if ((voxel < 0) | (voxel >= array.shape)).any():
            texts.append("outside it")
            continue
        value = int(array[tuple(voxel)])
        text = _name(value, names) if value or not len(marked_zyx) else "background"
        if not value and len(marked_zyx):
            distance = np.linalg.norm(marked_world - place, axis=1)
            nearest = int(np.argmin(distance))
            text += f", {_name(int(array[tuple(marked_zyx[nearest])]), names)} is {distance[nearest]:.1f} mm away"
        texts.append(text)
    return texts


def read_segmentation(path: Path) -> tuple[NDArray, ImageGrid]:
    """A label map (z, y, x) and its grid.

    Raises:
        UserError: unreadable, not three-dimensional, or values that are not labels.
    """
    import SimpleITK as sitk

    grid = grid_of_file(path)("voxel")
    with decompressed(str(path)) as file:
        check_stored(file, str(path), "a label map of one volume")
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{path}: the segmentation cannot be read ({reason})") from None
    return whole_labels(array, str(path)), grid


def _name(value: int, names: Mapping[int, str]) -> str:
    return names.get(value, "background" if value == 0 else f"label {value}")


def _numbers(values: NDArray[np.float64] | tuple[float, ...]) -> str:
    return ", ".join(f"{v + 0.0:.1f}" for v in values)
