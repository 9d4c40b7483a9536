"""3D Slicer's point lists and boxes: markups (`.mrk.json`), and the older `.fcsv`. World mm, LPS or RAS by the file.

The label of a click is the control point's label, which Slicer makes of the list's name and a number: points of
a list named "lesion" are "lesion-1", "lesion-2", ... A bare number is the point's, and no label.
Sources: Slicer's markups schema 1.0.3 and its documentation of the formats.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nnsam3d.prompts.formats.base import (
    MISSING,
    Format,
    Reading,
    bounded,
    found_box,
    found_click,
    json_type,
    stated_space,
)
from nnsam3d.prompts.types import PromptError, checked_position, short

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
MAX_MARKUPS = 200
UNPLACED = ("undefined", "preview", "missing")
_CODES = {"LPS": "lps", "RAS": "ras", "IJK": "voxel", "0": "ras", "1": "lps", "2": "voxel"}
_NAMES = {"lps": "LPS", "ras": "RAS"}


# ---------------------------------------------------------------------- markups, .mrk.json


def recognises_markups(content: dict[str, Any]) -> bool:
    """By the list of markups."""
    return "markups" in content


def parse_markups(content: dict[str, Any], stated: str | None) -> Reading:
    """All point lists and boxes of the file; LPS and RAS may be mixed."""
    reading = Reading()
    markups = content.get("markups")
    if not isinstance(markups, list):
        reading.problems.append(f'"markups" must be a list, not {json_type(markups)}')
        return reading
    if not markups:
        reading.problems.append('"markups" is empty: the file contains no point list')
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
        reading.problems.append("some markups are in IJK, others in mm: export them to separate files")
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
            f"{where}: a markup of type {short(kind)} is not a prompt; point lists (Fiducial) and boxes (ROI) are. "
            "Remove it, or export the point list to a separate file"
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
        label = point.get("label")
        place = f"{where}, point {number}" + (f" {short(label, 40)}" if label else "")
        status = point.get("positionStatus", "defined")
        if status in UNPLACED:
            reading.left_out.append(f"{place} has not been placed in the image (positionStatus {short(status)})")
            continue
        if status != "defined":
            reading.problems.append(f"{place}: unknown positionStatus {short(status)}")
        if "position" not in point:
            reading.problems.append(f'{place}: missing "position"')
        position = point.get("position", MISSING)
        if position is not MISSING and {space, wanted} == {"lps", "ras"}:
            position = _other_signs(position)
        reading.found.append(found_click(place, position, label))


def _region(markup: dict[str, Any], where: str, space: str, wanted: str, reading: Reading) -> None:
    """A box; a rotated one becomes its bounding box."""
    if markup.get("roiType", "Box") not in ("Box", "BoundingBox"):
        reading.problems.append(f"{where}: a region of type {short(markup.get('roiType'))} is not a box")
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
    listed = markup.get("controlPoints")
    points = [point for point in listed if isinstance(point, dict)] if isinstance(listed, list) else []
    if not any(size) or (points and all(point.get("positionStatus") in UNPLACED for point in points)):
        reading.left_out.append(f"{where} (ROI) has not been placed in the image")
        return
    label = next((name for point in points if (name := point.get("label"))), None)
    reading.found.append(found_box(f"{where} (ROI)", low, high, label))


def _other_signs(position: Any) -> Any:
    """LPS <-> RAS; anything that is not a position is returned unchanged, to be reported later."""
    try:
        x, y, z = checked_position(position)
    except PromptError:
        return position
    return [-x, -y, z]


def markups_text(positions: list[tuple[float, float, float]], labels: list[str], space: str) -> str:
    """A markups file with one point list, which can be dragged into Slicer.

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

# The columns of files without a line that names them; since Slicer 5.0, two more follow, the first is the status
_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatednodeid"]
STATUS = len(_COLUMNS)
_UNPLACED = {"0": "undefined", "1": "preview", "3": "missing"}


def recognises_fcsv(text: str) -> bool:
    """By Slicer's comment lines at the top, or its node names."""
    head = text[:4096]
    comments = [line.lower() for line in head.splitlines() if _is_comment(line)]
    known = ("markups fiducial", "fiducial list file", "coordinatesystem", "columns = id,")
    return any(word in line for line in comments for word in known) or "vtkMRMLMarkups" in head


def parse_fcsv(text: str, stated: str | None) -> Reading:
    """Markups fiducials, and the fiducial lists of Slicer 3, which do not state their space.

    Spreadsheet programs add commas to header lines and may use other separators; both are supported.
    """
    reading = Reading()
    header, rows = _fcsv_lines(text)
    declared = _CODES.get(header["coordinatesystem"].upper()) if "coordinatesystem" in header else None
    if "coordinatesystem" in header and declared is None:
        reading.problems.append(
            f"unknown CoordinateSystem {short(header['coordinatesystem'])}; allowed: LPS, RAS (older files: 1, 0)"
        )
        return reading
    reading.space = stated_space(declared, stated, reading)
    columns = [name.strip().lower() for name in re.split("[,;\t]", header.get("columns", ""))]
    if columns == [""]:
        columns = list(_COLUMNS)
    if not {"x", "y", "z", "label"} <= set(columns):
        reading.problems.append(
            "the header line `# columns = id,x,y,z,...,label,...` does not contain x, y, z and label: "
            "export the point list from Slicer again (preferably as .mrk.json)"
        )
        return reading
    try:
        for number, cells in enumerate(bounded(table_rows(rows, header.get("columns", ""))), start=1):
            row = dict(zip(columns, cells, strict=False))
            if columns[: len(_COLUMNS)] == _COLUMNS and len(cells) > STATUS:
                row.setdefault("positionstatus", cells[STATUS])
            _fcsv_point(row, f"point {number}", reading)
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")
    return reading


def _is_comment(line: str) -> bool:
    return line.lstrip('" ').startswith("#")


def _fcsv_lines(text: str) -> tuple[dict[str, str], list[str]]:
    header: dict[str, str] = {}
    rows = []
    for line in text.splitlines():
        if _is_comment(line):
            key, equals, value = line.strip().strip('"').lstrip("# ").partition("=")
            if equals:
                header[key.strip().lower()] = value.strip(' \t,;"')
        elif line.strip(" ,;\t"):
            rows.append(line)
    return header, rows


def _fcsv_point(row: dict[str, str], where: str, reading: Reading) -> None:
    where += f" {short(row['label'], 40)}" if row.get("label") else ""
    missing = [key for key in ("x", "y", "z") if key not in row]
    if missing:
        reading.problems.append(f"{where}: the line is too short, {', '.join(missing)} missing")
        return
    status = row.get("positionstatus", "").strip().removesuffix(".0")  # a spreadsheet program's 0
    if status in _UNPLACED:
        reading.left_out.append(f"{where} has not been placed in the image (status {_UNPLACED[status]})")
        return
    reading.found.append(found_click(where, [number_of(row[axis]) for axis in "xyz"], row.get("label", "")))


# ---------------------------------------------------------------------- the table of a point list, .csv

_TABLE_AXES = {"lps": ("l", "p", "s"), "ras": ("r", "a", "s")}


def recognises_table(text: str) -> bool:
    """By the columns of Slicer's "export as table": labels, and axes by their letters."""
    return _table_space(table_columns(text)) is not None


def parse_table(text: str, stated: str | None) -> Reading:
    """``label,l,p,s,defined,selected,visible,locked,description``; r, a, s in RAS."""
    reading = Reading()
    columns = table_columns(text)
    space = _table_space(columns)
    if space is None:
        reading.problems.append("needs the columns label, and l, p, s or r, a, s")
        return reading
    reading.space = stated_space(space, stated, reading)
    header, *lines = table_lines(text)
    try:
        for number, cells in enumerate(bounded(table_rows(lines, header)), start=1):
            row = dict(zip(columns, cells, strict=False))
            where = f"row {number}" + (f" {short(row['label'], 40)}" if row.get("label") else "")
            missing = [axis for axis in _TABLE_AXES[space] if axis not in row]
            if missing:
                reading.problems.append(f"{where}: the line is too short, {', '.join(missing)} missing")
            elif row.get("defined", "1").strip().lower().removesuffix(".0") in ("0", "false", "no"):
                reading.left_out.append(f"{where} has not been placed in the image (defined {row['defined']})")
            else:
                position = [number_of(row[axis]) for axis in _TABLE_AXES[space]]
                reading.found.append(found_click(where, position, row.get("label", "")))
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")
    return reading


def _table_space(columns: list[str]) -> str | None:
    if "label" not in columns:
        return None
    return next((space for space, axes in _TABLE_AXES.items() if set(axes) <= set(columns)), None)


# ---------------------------------------------------------------------- text of spreadsheet programs


def table_lines(text: str) -> list[str]:
    """Non-empty lines, the header first, without Excel's `sep=;` line."""
    lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
    return lines[1:] if lines and re.fullmatch(r'"?sep=.?"?', lines[0].strip(), re.IGNORECASE) else lines


def table_columns(text: str) -> list[str]:
    """The column names in lower case."""
    first = next(iter(table_lines(text)), "")
    return [name.strip(' "').lower() for name in re.split("[,;\t]", first)]


def table_rows(lines: Sequence[str], header: str = "") -> Iterator[list[str]]:
    """The cells of each line, separated by commas, semicolons (with decimal commas) or tabs.

    Args:
        header: the line of column names, used to determine the separator.
    """
    first = header if re.search("[,;\t]", header) else next(iter(lines), "")
    separator = max(",;\t", key=first.count)
    for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True):
        yield [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


def number_of(text: str) -> float | str:
    """The number in a cell; other text unchanged, to be reported later."""
    try:
        return float(text)
    except ValueError:
        return text


MARKUPS = Format("slicer", "json", recognises_markups, parse_markups)
FCSV = Format("slicer-fcsv", "text", recognises_fcsv, parse_fcsv)
TABLE = Format("slicer-table", "text", recognises_table, parse_table)
