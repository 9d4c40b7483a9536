"""3D Slicer's point lists and boxes: markups (`.mrk.json`), and the older `.fcsv`. World mm, LPS or RAS by the file.

The label of a click is the control point's label, which Slicer makes of the list's name and a number: points of
a list named "lesion" are "lesion-1", "lesion-2", ...
Sources: Slicer's markups schema 1.0.3 and its documentation of the formats.
"""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np

from nnsam3d.prompts.formats.base import (
    MISSING,
    Format,
    FoundBox,
    FoundClick,
    Reading,
    bounded,
    json_type,
    stated_space,
)
from nnsam3d.prompts.types import PromptError, checked_position, short

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
MAX_MARKUPS = 200
_CODES = {"LPS": "lps", "RAS": "ras", "IJK": "voxel", "0": "ras", "1": "lps", "2": "voxel"}
_NAMES = {"lps": "LPS", "ras": "RAS"}


# ---------------------------------------------------------------------- markups, .mrk.json


def recognises_markups(content: dict[str, Any]) -> bool:
    """A list of markups is Slicer's."""
    return "markups" in content


def parse_markups(content: dict[str, Any], stated: str | None) -> Reading:
    """All point lists of the file; lists in LPS and RAS may stand side by side."""
    reading = Reading()
    markups = content.get("markups")
    if not isinstance(markups, list):
        reading.problems.append(f'"markups" must be a list, not {json_type(markups)}')
        return reading
    if not markups:
        reading.problems.append('"markups" is empty: the file holds no point list')
    if len(markups) > MAX_MARKUPS:
        reading.problems.append(f"{len(markups)} markups; at most {MAX_MARKUPS} are allowed")
    spaces: list[str] = []
    for number, markup in enumerate(markups[:MAX_MARKUPS], start=1):
        where = f"markup {number}"
        space = _space_of(markup, where, reading) if isinstance(markup, dict) else None
        if not isinstance(markup, dict):
            reading.problems.append(f"{where}: must be an object, not {json_type(markup)}")
        elif space is not None and markup.get("type", "Fiducial") == "ROI":
            spaces.append(space)
            _region(markup, where, space, spaces[0], reading)
        elif space is not None and _is_point_list(markup, where, reading):
            spaces.append(space)
            _control_points(markup, where, space, spaces[0], reading)
    if len(set(spaces)) > 1 and "voxel" in spaces:
        reading.problems.append("some markups are in IJK, others in mm: export them to files of their own")
    reading.space = spaces[0] if spaces else "lps"
    stated_space(reading.space, stated if spaces else None, reading)
    return reading


def _space_of(markup: dict[str, Any], where: str, reading: Reading) -> str | None:
    system = markup.get("coordinateSystem", "LPS")  # the schema's default
    space = None if isinstance(system, (bool, float)) else _CODES.get(str(system).strip().upper())
    if space is None:
        allowed = '"LPS", "RAS" (older files: 1, 0)'
        reading.problems.append(f"{where}: unknown coordinateSystem {short(system)}; allowed: {allowed}")
    units = markup.get("coordinateUnits", "mm")
    if units not in ("mm", ["mm", "mm", "mm"]):
        reading.problems.append(f'{where}: coordinateUnits {short(units)} cannot be used; export the points in "mm"')
    return space


def _is_point_list(markup: dict[str, Any], where: str, reading: Reading) -> bool:
    kind = markup.get("type", "Fiducial")
    if kind != "Fiducial":
        reading.problems.append(
            f"{where}: a markup of type {short(kind)} holds no prompts, only point lists (Fiducial) and boxes (ROI) "
            "do; remove it, or export the point list to a file of its own"
        )
    return kind == "Fiducial"


def _control_points(markup: dict[str, Any], where: str, space: str, wanted: str, reading: Reading) -> None:
    points = markup.get("controlPoints", [])
    if not isinstance(points, list):
        reading.problems.append(f'{where}: "controlPoints" must be a list, not {json_type(points)}')
        return
    for number, point in enumerate(bounded(points), start=1):
        if not isinstance(point, dict):
            reading.problems.append(f"{where}, point {number}: must be an object, not {json_type(point)}")
            continue
        label = point.get("label", MISSING)
        place = f"{where}, point {number}" + ("" if label is MISSING else f" {short(label, 40)}")
        status = point.get("positionStatus", "defined")
        if status in ("undefined", "preview", "missing"):
            reading.left_out.append(f"{place} has not been placed in the image (positionStatus {short(status)})")
            continue
        if status != "defined":
            reading.problems.append(f"{place}: unknown positionStatus {short(status)}")
        for key in ("label", "position"):
            if key not in point:
                reading.problems.append(f'{place}: missing "{key}"')
        position = point.get("position", MISSING)
        if position is not MISSING and {space, wanted} == {"lps", "ras"}:
            position = _other_signs(position)
        reading.found.append(FoundClick(place, position, label))


def _region(markup: dict[str, Any], where: str, space: str, wanted: str, reading: Reading) -> None:
    """A box; one that is turned against the axes becomes the box around it."""
    if markup.get("roiType", "Box") not in ("Box", "BoundingBox"):
        reading.problems.append(f"{where}: a region of type {short(markup.get('roiType'))} is no box")
        return
    try:
        center, size = checked_position(markup.get("center")), checked_position(markup.get("size"))
        axes = markup.get("orientation", [1, 0, 0, 0, 1, 0, 0, 0, 1])
        matrix = np.array([checked_position(axes[row : row + 3]) for row in (0, 3, 6)])
    except (PromptError, TypeError, ValueError) as error:
        reading.problems.append(f"{where}: center, size (3 numbers each) and orientation (9) are needed: {error}")
        return
    reach = np.abs(matrix) @ (np.abs(size) / 2)
    low, high = (np.array(center) - reach).tolist(), (np.array(center) + reach).tolist()
    if {space, wanted} == {"lps", "ras"}:
        low, high = _other_signs(low), _other_signs(high)
    points = markup.get("controlPoints")
    named = [point.get("label") for point in points if isinstance(point, dict)] if isinstance(points, list) else []
    label = next((name for name in named if name), MISSING)
    if label is MISSING:
        reading.problems.append(f"{where}: a box needs a control point whose label says what is in it")
    reading.found.append(FoundBox(f"{where} (ROI)", low, high, label))


def _other_signs(position: Any) -> Any:
    """LPS <-> RAS; what is no position is left for the check to complain about."""
    try:
        x, y, z = checked_position(position)
    except PromptError:
        return position
    return [-x, -y, z]


def markups_text(positions: list[tuple[float, float, float]], labels: list[str], space: str) -> str:
    """A markups file with one point list; Slicer opens it by drag and drop.

    Args:
        positions: mm in ``space``, "lps" or "ras".
    """
    points = [
        {
            "id": str(number),
            "label": label,
            "description": "",
            "associatedNodeID": "",
            "position": list(position),
            "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for number, (position, label) in enumerate(zip(positions, labels, strict=True), start=1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": _NAMES[space],
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
        "measurements": [],
    }
    return json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------------- fiducials, .fcsv


def recognises_fcsv(text: str) -> bool:
    """Slicer's comment lines at the top, or its node names."""
    head = text[:4096]
    comments = [line.lower() for line in head.splitlines() if line.startswith("#")]
    known = ("markups fiducial", "coordinatesystem", "columns = id,")
    return any(word in line for line in comments for word in known) or "vtkMRMLMarkups" in head


def parse_fcsv(text: str, stated: str | None) -> Reading:
    """Both header lines are needed: without ``# CoordinateSystem`` (or a stated space) the side is a guess."""
    reading = Reading()
    header, rows = _fcsv_lines(text)
    declared = _CODES.get(header["coordinatesystem"].upper()) if "coordinatesystem" in header else None
    if "coordinatesystem" in header and declared is None:
        reading.problems.append(
            f"unknown CoordinateSystem {short(header['coordinatesystem'])}; allowed: LPS, RAS (older files: 1, 0)"
        )
        return reading
    reading.space = stated_space(declared, stated, reading)
    columns = [name.strip().lower() for name in header.get("columns", "").split(",")]
    if not {"x", "y", "z", "label"} <= set(columns):
        reading.problems.append(
            "the header line `# columns = id,x,y,z,...,label,...` is missing or lacks x, y, z or label: "
            "export the point list from Slicer again (as .mrk.json, if you can)"
        )
        return reading
    try:
        for number, cells in enumerate(bounded(csv.reader(rows, skipinitialspace=True)), start=1):
            _fcsv_point(dict(zip(columns, cells, strict=False)), f"point {number}", reading)
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")
    return reading


def _fcsv_lines(text: str) -> tuple[dict[str, str], list[str]]:
    header: dict[str, str] = {}
    rows = []
    for line in text.splitlines():
        if line.startswith("#"):
            key, equals, value = line[1:].partition("=")
            if equals:
                header[key.strip().lower()] = value.strip()
        elif line.strip():
            rows.append(line)
    return header, rows


def _fcsv_point(row: dict[str, str], where: str, reading: Reading) -> None:
    where += f" {short(row.get('label', ''), 40)}"
    missing = [key for key in ("x", "y", "z", "label") if key not in row]
    if missing:
        reading.problems.append(f"{where}: the line is too short, {', '.join(missing)} missing")
        return
    reading.found.append(FoundClick(where, [number_of(row[axis]) for axis in "xyz"], row["label"]))


def number_of(text: str) -> float | str:
    """The number that a cell holds; other text as it is, for the check to complain about."""
    try:
        return float(text)
    except ValueError:
        return text


MARKUPS = Format("slicer", "json", recognises_markups, parse_markups)
FCSV = Format("slicer-fcsv", "text", recognises_fcsv, parse_fcsv)
