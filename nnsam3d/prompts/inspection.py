"""`nnsam3d prompts inspect`: the positions of prompts in all spaces, and the labels that they hold."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError, printable
from nnsam3d.geometry import GeometryError, GridOf, ImageGrid, Points, grid_of_file
from nnsam3d.geometry.frames import read_segmentation_image
from nnsam3d.geometry.segments import read_segments, segments_of
from nnsam3d.geometry.stored import check_stored, decompressed
from nnsam3d.prompts.channel import DECIMALS
from nnsam3d.prompts.formats.detect import SUFFIXES
from nnsam3d.prompts.kinds import KINDS, Click, Prompt
from nnsam3d.prompts.kinds.base import Space
from nnsam3d.prompts.kinds.checks import PromptError
from nnsam3d.prompts.labels import whole_labels
from nnsam3d.prompts.listing import normalised
from nnsam3d.prompts.types import CasePrompts
from nnsam3d.prompts.voxels import reaches
from nnsam3d.tables import columns, counted

_SPACES: dict[Space, str] = {"voxel": "voxel i, j, k", "lps": "LPS mm", "ras": "RAS mm"}


def inspect_file(
    file: Path,
    prompts: CasePrompts,
    grid_of: GridOf | None,
    segmentation: Path | None,
    labels: Mapping[str, int] | None,
    image_case: str,
    remarks: Sequence[str] = (),
) -> tuple[list[str], bool]:
    """A table of the clicks, and one of the other prompts, as lines; and whether all prompts are inside the image.

    Args:
        file: the prompt file, for the title and messages.
        prompts: its content.
        grid_of: a space -> the image's grid; None: no image was given.
        segmentation: a label map of the image, whose values at the clicks are shown; None: none.
        labels: those of the dataset, which were checked; None: they are unknown.
        image_case: the case of the image if it is given as a file, otherwise that of the prompt file.
        remarks: warnings about the image.

    Raises:
        UserError: a segmentation is unreadable or given without the image.
    """
    if grid_of is None and segmentation is not None:
        raise UserError("--segmentation also needs --image, which defines the positions of clicks")
    others = [(number, prompt) for number, prompt in prompts.numbered() if not isinstance(prompt, Click)]
    kinds = Counter(prompt.kind for _, prompt in others)
    counts = [counted(n, kind) for kind, n in kinds.items()]
    told = ", ".join([counted(len(prompts.clicks), "click"), *counts])
    lines = [f"{printable(str(file))}: case {printable(prompts.case)}, {told}, in space {prompts.space}"]
    if labels is None:
        lines.append("(the labels were not checked; use --dataset dataset.json to check them)")
    if normalised(prompts.case) != normalised(image_case):
        suffix = next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), ".json")
        lines.append(
            f"(the image is that of case {image_case}: predictions find this file as {image_case}{suffix} only)"
        )
    if grid_of is None:
        lines.append("(use --image to show the other spaces, and whether the prompts are inside)")
        rows: list[tuple[str, ...]] = [("", "label", _SPACES[prompts.space])]
        rows += [(str(n), str(c.label), _numbers(c.position)) for n, c in enumerate(prompts.clicks, start=1)]
        lines.append(columns(rows, "  "))
        if others:
            rows = [("", "type", "label", _SPACES[prompts.space])]
            lines.append(columns(rows + [(*_named(*one), one[1].describe()) for one in others], "  "))
        return lines, True
    grid = grid_of(prompts.space)
    size, spacing = grid.size_xyz, grid.spacing_xyz
    lines.append(f"image: {' x '.join(map(str, size))} voxels of {' x '.join(f'{s:g}' for s in spacing)} mm")
    for text in remarks:
        lines.append(f"warning: the image: {text}")
    spaces = _known_spaces(grid_of)
    marked = None if segmentation is None else _marked(segmentation, grid_of, labels)
    inside = True
    if prompts.clicks or not others:
        table, inside = _click_table(prompts, grid_of, spaces, marked)
        lines.append(table)
    if others:
        table, reach = _other_table(others, prompts.space, grid_of, spaces, marked)
        lines.append(table)
        inside &= reach
    if not inside:
        lines.append("Predictions refuse prompts outside the image. Check the space and the image.")
    return lines, inside


Marked: TypeAlias = tuple[NDArray, ImageGrid, Mapping[int, str]]
"""A segmentation, its grid, and the names of its values, as far as they are known."""


def _marked(path: Path, grid_of: GridOf, labels: Mapping[str, int] | None) -> Marked:
    """A label map, or one of 3D Slicer's segmentations as predictions read it, under its own names without labels."""
    segments = segments_of(path)
    known = {one.name: number for number, one in enumerate(segments, start=1)} if labels is None else labels
    names = {value: name for name, value in known.items()}
    if not segments:
        return (*read_segmentation(path), names)
    grid = grid_of("voxel")
    world: ImageGrid | None = None
    with contextlib.suppress(GeometryError):  # an image without a place in the world
        world = grid_of("lps")
    return read_segments(path, world, grid.shape_zyx, known), grid, names


def _click_table(prompts: CasePrompts, grid_of: GridOf, spaces: list[Space], marked: Marked | None) -> tuple[str, bool]:
    """A table of the clicks; whether all of them are inside the image."""
    grid, points = grid_of(prompts.space), prompts.points
    inside = points.inside(grid)
    places = [points.to(space, grid_of(space)).values_N3 for space in spaces]
    rows = [("", "label", *(_SPACES[space] for space in spaces), "in image") + (("segmentation",) if marked else ())]
    hits: Sequence[tuple[str, ...]] = [()] * len(points)
    if marked:
        hits = [(text,) for text in _hits(points.to("lps", grid), marked)]
    for n, click in enumerate(prompts.clicks):
        numbers = [_numbers(column[n]) for column in places]
        rows.append((str(n + 1), str(click.label), *numbers, "yes" if inside[n] else "NO", *hits[n]))
    return columns(rows, "  "), bool(inside.all())


def _other_table(
    others: Sequence[tuple[int, Prompt]], space: Space, grid_of: GridOf, spaces: list[Space], marked: Marked | None
) -> tuple[str, bool]:
    """A table of prompts of other kinds, with the voxels that they hold; whether all of them reach into the image.

    The positions in further spaces follow below each prompt.
    """
    grid = grid_of(space)
    header = ("", "type", "label", "space", "position", "in image", "voxels", *(("segmentation",) if marked else ()))
    rows: list[tuple[str, ...]] = [header]
    all_inside = True
    for number, prompt in others:
        named = _named(number, prompt)
        if not len(prompt.points(space)):  # a mask lies on the image's grid
            rows.append((*named, "", prompt.describe()))
            continue
        texts = {}
        for other in spaces:
            moved = CasePrompts("", space, [prompt]).to(other, grid if other == "voxel" else grid_of(other))
            texts[other] = moved.prompts[0].describe()
        inside, voxels, hits = _held(prompt, space, grid, marked)
        all_inside &= inside
        first, *further = spaces
        row = (*named, _SPACES[first], texts[first], "yes" if inside else "NO", str(voxels))
        rows.append((*row, hits) if marked else row)
        rows += [("", "", "", _SPACES[other], texts[other]) for other in further]
    return columns([row + ("",) * (len(header) - len(row)) for row in rows], "  "), all_inside


def _named(number: int, prompt: Prompt) -> tuple[str, str, str]:
    return str(number), prompt.kind, "all labels" if prompt.label is None else str(prompt.label)


def _held(prompt: Prompt, space: Space, grid: ImageGrid, marked: Marked | None) -> tuple[bool, int, str]:
    """Whether a prompt reaches into the image, how many of the image's voxels it holds, and the labels of these."""
    points = Points(prompt.points(space), space).to("array", grid).values_N3
    try:
        shape = prompt.shape(np.round(points, DECIMALS), 1)
    except PromptError as error:
        return False, 0, str(error)
    voxels_N3 = KINDS[shape.kind].inside(shape.points_N3, grid.shape_zyx)
    shares = "" if marked is None else _shares(voxels_N3, grid, marked)
    return reaches(shape, grid.shape_zyx), len(voxels_N3), shares


def _shares(voxels_N3: NDArray[np.int64], grid: ImageGrid, marked: Marked) -> str:
    """The labels of a segmentation on voxels of the image, by share: "tumour 80 %, background 20 %"."""
    array, own_grid, names = marked
    world = Points(voxels_N3.astype(np.float64), "array").to("lps", grid)
    own_N3 = np.floor(np.round(world.to("array", own_grid).values_N3, DECIMALS) + 0.5).astype(np.int64)
    own_N3 = own_N3[((own_N3 >= 0) & (own_N3 < array.shape)).all(axis=1)]
    if not len(own_N3):
        return "outside it"
    values, counts = np.unique(array[tuple(own_N3.T)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{_name(int(values[i]), names)} {counts[i] / len(own_N3):.0%}" for i in order.tolist())


def _known_spaces(grid_of: GridOf) -> list[Space]:
    """The spaces available for the image."""
    known: list[Space] = []
    for space in _SPACES:
        with contextlib.suppress(GeometryError):
            grid_of(space)
            known.append(space)
    return known


def _hits(points: Points, marked: Marked) -> list[str]:
    """For every click, the label under it, or the nearest label and its distance."""
    array, own_grid, names = marked
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
        array = sitk.GetArrayFromImage(read_segmentation_image(file, str(path)))
    return whole_labels(array, str(path)), grid


def _name(value: int, names: Mapping[int, str]) -> str:
    return names.get(value, "background" if value == 0 else f"label {value}")


def _numbers(values: NDArray[np.float64] | tuple[float, ...]) -> str:
    return ", ".join(f"{v + 0.0:.1f}" for v in values)
