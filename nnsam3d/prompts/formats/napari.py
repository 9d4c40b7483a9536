"""napari's CSV files: ``index,axis-0,axis-1,axis-2`` and property columns, possibly "label".

A points layer holds clicks. A shapes layer also has the columns ``shape-type`` and ``vertex-index``, and a row for each
vertex:

| shape | prompt |
|---|---|
| rectangle | box on its slice; one that is no rectangle of voxels (turned, or no wider than a voxel) is a lasso |
| ellipse, polygon | lasso; the rows of an ellipse are the corners of the rectangle around it |
| line | line |
| path | scribble |

Source: napari's own writer of CSV files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.formats.base import FOREGROUND, Format, Found, Reading, found_click
from nnsam3d.prompts.formats.slicer import PointTable, numbers_in
from nnsam3d.prompts.formats.viewers import NAPARI_SHAPES, found_box
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.kinds.checks import PromptError, checked_positions, short
from nnsam3d.prompts.labels import Meaning
from nnsam3d.prompts.types import MAX_CLICKS

_AXES = ("axis-2", "axis-1", "axis-0")  # in the order i, j, k
_SHAPES = ("shape-type", "vertex-index")
_CORNERS = 4  # of a rectangle, and of the one around an ellipse
_ON_ELLIPSE = 32  # corners of a lasso


def recognises(text: str) -> bool:
    """The header names the axes."""
    return "axis-0" in PointTable.of(text).columns


def parse(text: str, stated: str | None) -> Reading:
    """Positions are array indices (z, y, x), as napari stores them for a points layer without a scale.

    Whole numbers in the column "label" are labels: an integer feature of the layer.
    """
    reading = Reading.of("voxel", stated)
    table = PointTable.of(text)
    columns = table.columns
    shapes = "shape-type" in columns
    axes = [name for name in columns if name.startswith("axis-")]
    if sorted(axes) != sorted(_AXES):
        has = ", ".join(short(axis) for axis in axes[:10]) or "none"
        reading.problems.append(f"needs the columns axis-0, axis-1 and axis-2, once each; has {has}")
        return reading
    others = [name for name in columns if name and name not in ("index", *_AXES, *(_SHAPES if shapes else ()))]
    if others and "label" not in columns:
        columns_text = ", ".join(short(name) for name in others[:5])
        reading.left_out.append(f"the column {columns_text}: only the column named label is used; it is")
    vertices: dict[tuple[str, str], list[dict[str, str]]] = {}
    needed = (*_AXES, *(_SHAPES[:1] if shapes else ()))
    for number, (where, row) in enumerate(table.rows(needed, "row", reading, label=None), start=1):
        if shapes:
            if number > MAX_CLICKS:
                reading.problems.append(f"more than {MAX_CLICKS} rows; at most {MAX_CLICKS} are allowed")
            vertices.setdefault((row.get("index", ""), row["shape-type"].strip().lower()), []).append(row)
        else:
            reading.found.append(found_click(where, numbers_in(row, _AXES), *_label_of(row, "label" in columns)))
    for number, ((_, kind), rows) in enumerate(vertices.items(), start=1):
        _shape(kind, rows, f"shape {number} ({short(kind, 20)})", reading)
    return reading


def _label_of(row: dict[str, str], has_labels: bool) -> tuple[str, Meaning]:
    return (row.get("label", ""), "value") if has_labels else (FOREGROUND, "foreground")


def _shape(drawn: str, rows: list[dict[str, str]], where: str, reading: Reading) -> None:
    """Adds the prompt of a shape, or what is wrong with it.

    Args:
        drawn: napari's shape type.
    """
    label, meaning = _label_of(rows[0], "label" in rows[0])
    points = [numbers_in(row, _AXES) for row in rows]
    kind = NAPARI_SHAPES.get(drawn)
    if kind is None:
        reading.problems.append(f"{where}: unknown shape-type; allowed: {', '.join(NAPARI_SHAPES)}")
        return
    by_corners = drawn in ("rectangle", "ellipse")
    least, most = (_CORNERS, _CORNERS) if by_corners else KINDS[kind].through
    if least == most != len(points):
        reading.problems.append(f"{where}: has {len(points)} vertices instead of {most}")
        return
    if by_corners:
        try:
            corners_43 = np.array(checked_positions(points, _CORNERS))
        except PromptError as error:
            reading.problems.append(f"{where}: {error}")
            return
        faces = _faces(corners_43) if drawn == "rectangle" else None
        if faces is not None:
            reading.found.append(found_box(where, *faces, label, meaning))
            return
        kind = NAPARI_SHAPES["polygon" if drawn == "rectangle" else drawn]
        points = (corners_43 if drawn == "rectangle" else _ellipse(corners_43)).tolist()
    reading.found.append(Found(where, kind, KINDS[kind].values_through(points), label, meaning))


def _faces(corners_43: NDArray[np.float64]) -> tuple[list[float], list[float]] | None:
    """The lowest and the highest voxels of a rectangle on a slice, whose edges lie half a voxel beyond them; None if it
    is turned, or not longer than a voxel (in a layer with a scale, it may hold many)."""
    low, high = corners_43.min(axis=0), corners_43.max(axis=0)
    on_faces = (np.isclose(corners_43, low) | np.isclose(corners_43, high)).all()
    flat = np.isclose(low, high)
    if not on_faces or flat.sum() != 1 or (high - low)[~flat].min() <= 1:
        return None
    half = np.where(flat, 0.0, (high - low) / 2 - 0.5)
    middle = (low + high) / 2
    return (middle - half).tolist(), (middle + half).tolist()


def _ellipse(corners_43: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) places on the ellipse that touches the four edges."""
    middle = corners_43.mean(axis=0)
    first, second = (corners_43[1] - corners_43[0]) / 2, (corners_43[2] - corners_43[1]) / 2
    turns = np.linspace(0, 2 * np.pi, _ON_ELLIPSE, endpoint=False)[:, None]
    return middle + np.cos(turns) * first + np.sin(turns) * second


NAPARI = Format("napari", "text", recognises, parse)
