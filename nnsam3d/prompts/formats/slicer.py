"""3D Slicer's point lists as text: `.fcsv`, and tables. World mm, LPS or RAS by the file.

Labels are those of :mod:`.markups`. Source: Slicer's documentation of the formats.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nnsam3d.prompts.formats.base import Format, Reading, bounded, found_click
from nnsam3d.prompts.types import short

CODES = {"LPS": "lps", "RAS": "ras", "IJK": "voxel", "0": "ras", "1": "lps", "2": "voxel"}
"""The coordinate systems of Slicer's files, old and new."""


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
    header, rows = _fcsv_lines(text)
    declared = CODES.get(header["coordinatesystem"].upper()) if "coordinatesystem" in header else None
    if "coordinatesystem" in header and declared is None:
        told = f"unknown CoordinateSystem {short(header['coordinatesystem'])}; allowed: LPS, RAS (older files: 1, 0)"
        return Reading(problems=[told])
    reading = Reading.of(declared, stated)
    columns = [name.strip().lower() for name in re.split("[,;\t]", header.get("columns", ""))]
    if columns == [""]:
        columns = list(_COLUMNS)
    if not {"x", "y", "z", "label"} <= set(columns):
        reading.problems.append(
            "the header line `# columns = id,x,y,z,...,label,...` does not contain x, y, z and label: "
            "export the point list from Slicer again (preferably as .mrk.json)"
        )
        return reading
    for number, cells in enumerate(table_rows(rows, header.get("columns", ""), reading), start=1):
        row = dict(zip(columns, cells, strict=False))
        if columns[: len(_COLUMNS)] == _COLUMNS and len(cells) > STATUS:
            row.setdefault("positionstatus", cells[STATUS])
        where = f"point {number}" + (f" {short(row['label'], 40)}" if row.get("label") else "")
        status = row.get("positionstatus", "").strip().removesuffix(".0")  # a spreadsheet program's 0
        if is_short(row, ("x", "y", "z"), where, reading):
            continue
        if status in _UNPLACED:
            reading.left_out.append(f"{where} has not been placed in the image (status {_UNPLACED[status]})")
            continue
        reading.found.append(found_click(where, [number_of(row[axis]) for axis in "xyz"], row.get("label", "")))
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


# ---------------------------------------------------------------------- the table of a point list, .csv

_TABLE_AXES = {"lps": ("l", "p", "s"), "ras": ("r", "a", "s")}


def recognises_table(text: str) -> bool:
    """By the columns of Slicer's "export as table": labels, and axes by their letters."""
    return _table_space(table_columns(text)) is not None


def parse_table(text: str, stated: str | None) -> Reading:
    """``label,l,p,s,defined,selected,visible,locked,description``; r, a, s in RAS."""
    columns = table_columns(text)
    space = _table_space(columns)
    if space is None:
        return Reading(problems=["needs the columns label, and l, p, s or r, a, s"])
    reading = Reading.of(space, stated)
    header, *lines = table_lines(text)
    for number, cells in enumerate(table_rows(lines, header, reading), start=1):
        row = dict(zip(columns, cells, strict=False))
        where = f"row {number}" + (f" {short(row['label'], 40)}" if row.get("label") else "")
        if is_short(row, _TABLE_AXES[space], where, reading):
            continue
        if row.get("defined", "1").strip().lower().removesuffix(".0") in ("0", "false", "no"):
            reading.left_out.append(f"{where} has not been placed in the image (defined {row['defined']})")
            continue
        position = [number_of(row[axis]) for axis in _TABLE_AXES[space]]
        reading.found.append(found_click(where, position, row.get("label", "")))
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


def table_rows(lines: Sequence[str], header: str, reading: Reading) -> Iterator[list[str]]:
    """The cells of each line, separated by commas, semicolons (with decimal commas) or tabs; see also :func:`bounded`.

    Args:
        lines: without that of the column names.
        header: the line of column names, which decides the separator; "": the first line does.
        reading: gets a problem if the text is no CSV from some line on.
    """
    first = header if re.search("[,;\t]", header) else next(iter(lines), "")
    separator = max(",;\t", key=first.count)
    try:
        for cells in bounded(csv.reader(lines, delimiter=separator, skipinitialspace=True)):
            yield [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
    except csv.Error as error:
        reading.problems.append(f"malformed CSV: {error}")


def is_short(row: Mapping[str, str], needed: Iterable[str], where: str, reading: Reading) -> bool:
    """Whether cells are missing.

    Args:
        row: cells by column.
        needed: columns.
        where: the row, for the message.
        reading: gets the problem.
    """
    missing = [name for name in needed if name not in row]
    if missing:
        reading.problems.append(f"{where}: the line is too short, {', '.join(missing)} missing")
    return bool(missing)


_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


def number_of(text: str) -> float | str:
    """The number in a cell; other text unchanged, to be reported later."""
    try:
        return float(text)
    except ValueError:
        return text


FCSV = Format("slicer-fcsv", "text", recognises_fcsv, parse_fcsv)
TABLE = Format("slicer-table", "text", recognises_table, parse_table)
