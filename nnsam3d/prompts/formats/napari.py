"""napari's points CSV: ``index,axis-0,axis-1,axis-2`` and property columns, possibly "label"."""

from __future__ import annotations

import csv

from nnsam3d.prompts.formats.base import (
    FOREGROUND,
    Format,
    Reading,
    bounded,
    found_click,
    stated_space,
)
from nnsam3d.prompts.formats.slicer import number_of, table_columns, table_lines, table_rows
from nnsam3d.prompts.labels import Meaning
from nnsam3d.prompts.types import short

_VALUE: Meaning = "value"
_FOREGROUND: Meaning = "foreground"
_AXES = ("axis-2", "axis-1", "axis-0")  # in the order i, j, k


def recognises(text: str) -> bool:
    """The header names the axes."""
    return "axis-0" in table_columns(text)


def parse(text: str, stated: str | None) -> Reading:
    """Positions are array indices (z, y, x), as napari stores them for a points layer without a scale.

    Whole numbers in the column "label" are labels: an integer feature of the layer.
    """
    reading = Reading()
    reading.space = stated_space("voxel", stated, reading)
    columns = table_columns(text)
    if {"shape-type", "vertex-index"} & set(columns):
        reading.problems.append("this is a shapes layer, whose corners are not clicks: save a points layer")
        return reading
    axes = [name for name in columns if name.startswith("axis-")]
    if sorted(axes) != sorted(_AXES):
        has = ", ".join(short(axis) for axis in axes[:10]) or "none"
        reading.problems.append(f"needs the columns axis-0, axis-1 and axis-2, once each; has {has}")
        return reading
    others = [name for name in columns if name and name not in ("index", *_AXES)]
    if others and "label" not in columns:
        columns_text = ", ".join(short(name) for name in others[:5])
        reading.left_out.append(f"the column {columns_text}: only the column named label is used; it is")
    header, *lines = table_lines(text)
    try:
        for number, cells in enumerate(bounded(table_rows(lines, header)), start=1):
            row = dict(zip(columns, cells, strict=False))
            missing = [axis for axis in _AXES if axis not in row]
            if missing:
                reading.problems.append(f"row {number}: the line is too short, {', '.join(missing)} missing")
                continue
            position = [number_of(row[axis]) for axis in _AXES]
            label, meaning = (row.get("label", ""), _VALUE) if "label" in columns else (FOREGROUND, _FOREGROUND)
            reading.found.append(found_click(f"row {number}", position, label, meaning))
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")
    return reading


NAPARI = Format("napari", "text", recognises, parse)
