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
UNPLACED = ("undefined", "preview", "missing")
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
    listed = markup.get("controlPoints")
    points = [point for point in listed if isinstance(point, dict)] if isinstance(listed, list) else []
    if not any(size) or (points and all(point.get("positionStatus") in UNPLACED for point in points)):
        reading.left_out.append(f"{where} (ROI) has not been placed in the image")
        return
    label = next((name for point in points if (name := point.get("label"))), None)
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

# Slicer's markups files without a line that names them; since 5.0 two more cells follow, the first is the status
_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatednodeid"]
STATUS = len(_COLUMNS)
_UNPLACED = {"0": "undefined", "1": "preview", "3": "missing"}


def recognises_fcsv(text: str) -> bool:
    """Slicer's comment lines at the top, or its node names."""
    head = text[:4096]
    comments = [line.lower() for line in head.splitlines() if _is_comment(line)]
    known = ("markups fiducial", "fiducial list file", "coordinatesystem", "columns = id,")
    return any(word in line for line in comments for word in known) or "vtkMRMLMarkups" in head


def parse_fcsv(text: str, stated: str | None) -> Reading:
    """Markups fiducials, and the fiducial lists of Slicer 3, which do not say their space.

    Spreadsheet programs add commas to header lines and may write other separators: both are read.
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
            "the header line `# columns = id,x,y,z,...,label,...` lacks x, y, z or label: "
            "export the point list from Slicer again (as .mrk.json, if you can)"
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
    reading.found.append(FoundClick(where, [number_of(row[axis]) for axis in "xyz"], row.get("label", "")))


# ---------------------------------------------------------------------- the table of a point list, .csv

_TABLE_AXES = {"lps": ("l", "p", "s"), "ras": ("r", "a", "s")}


def recognises_table(text: str) -> bool:
    """Slicer's "export as table": a column of labels, and the axes by their letters."""
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
                reading.found.append(FoundClick(where, position, row.get("label", "")))
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")
    return reading


def _table_space(columns: list[str]) -> str | None:
    if "label" not in columns:
        return None
    return next((space for space, axes in _TABLE_AXES.items() if set(axes) <= set(columns)), None)


# ---------------------------------------------------------------------- text of spreadsheet programs


def table_lines(text: str) -> list[str]:
    """Those that hold something, the header first, without the `sep=;` that tells Excel how to read the file."""
    lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
    return lines[1:] if lines and re.fullmatch(r'"?sep=.?"?', lines[0].strip(), re.IGNORECASE) else lines


def table_columns(text: str) -> list[str]:
    """The words of the header, in small letters."""
    first = next(iter(table_lines(text)), "")
    return [name.strip(' "').lower() for name in re.split("[,;\t]", first)]


def table_rows(lines: Sequence[str], header: str = "") -> Iterator[list[str]]:
    """Cells of every line, separated by commas, semicolons (then numbers have decimal commas) or tabs.

    Args:
        header: the line of column names, which has no numbers that could be taken for cells.
    """
    first = header if re.search("[,;\t]", header) else next(iter(lines), "")
    separator = max(",;\t", key=first.count)
    for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True):
        yield [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


def number_of(text: str) -> float | str:
    """The number that a cell holds; other text as it is, for the check to complain about."""
    try:
        return float(text)
    except ValueError:
        return text


MARKUPS = Format("slicer", "json", recognises_markups, parse_markups)
FCSV = Format("slicer-fcsv", "text", recognises_fcsv, parse_fcsv)
TABLE = Format("slicer-table", "text", recognises_table, parse_table)
