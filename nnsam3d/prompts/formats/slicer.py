"""3D Slicer's point lists as text: `.fcsv`, and tables. World mm, LPS or RAS by the file.

Labels are those of :mod:`.markups`. Source: Slicer's documentation of the formats.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nnsam3d.prompts.formats.base import Format, Reading, bounded, found_click
from nnsam3d.prompts.kinds.checks import short

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
    header, lines = _fcsv_lines(text)
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
    if columns[:STATUS] == _COLUMNS and "positionstatus" not in columns:
        columns[STATUS : STATUS + 1] = ["positionstatus"]
    for where, row in PointTable(header.get("columns", ""), columns, lines).rows("xyz", "point", reading):
        status = row.get("positionstatus", "").strip().removesuffix(".0")  # a spreadsheet program's 0
        if status in _UNPLACED:
            reading.left_out.append(f"{where} has not been placed in the image (status {_UNPLACED[status]})")
        else:
            reading.found.append(found_click(where, numbers_in(row, "xyz"), row.get("label", ""), "numbered"))
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
    return _table_space(PointTable.of(text).columns) is not None


def parse_table(text: str, stated: str | None) -> Reading:
    """``label,l,p,s,defined,selected,visible,locked,description``; r, a, s in RAS."""
    table = PointTable.of(text)
    space = _table_space(table.columns)
    if space is None:
        return Reading(problems=["needs the columns label, and l, p, s or r, a, s"])
    reading = Reading.of(space, stated)
    for where, row in table.rows(_TABLE_AXES[space], "row", reading):
        if row.get("defined", "1").strip().lower().removesuffix(".0") in ("0", "false", "no"):
            reading.left_out.append(f"{where} has not been placed in the image (defined {row['defined']})")
        else:
            position = numbers_in(row, _TABLE_AXES[space])
            reading.found.append(found_click(where, position, row.get("label", ""), "numbered"))
    return reading


def _table_space(columns: list[str]) -> str | None:
    if "label" not in columns:
        return None
    return next((space for space, axes in _TABLE_AXES.items() if set(axes) <= set(columns)), None)


# ---------------------------------------------------------------------- text of spreadsheet programs

_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class PointTable:
    """A table as text.

    Attributes:
        header: the line of column names, which decides the separator; "": the first line does.
        columns: the names in lower case.
        lines: the others, without empty ones.
    """

    header: str
    columns: list[str]
    lines: list[str]

    @classmethod
    def of(cls, text: str) -> PointTable:
        """Without Excel's `sep=;` line."""
        lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
        if lines and re.fullmatch(r'"?sep=.?"?', lines[0].strip(), re.IGNORECASE):
            del lines[0]
        header = lines[0] if lines else ""
        return cls(header, [name.strip(' "').lower() for name in re.split("[,;\t]", header)], lines[1:])

    def rows(
        self, needed: Sequence[str], name: str, reading: Reading, label: str | None = "label"
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """The place of each row, for messages, and its cells by column; see also :func:`bounded`.

        Cells are separated by commas, semicolons (with decimal commas) or tabs.

        Args:
            needed: columns without which a row is a problem.
            name: of a row, for messages.
            reading: gets the problems, also if the text is no CSV from some line on.
            label: the column that is part of a row's place; None: none is.
        """
        first = self.header if re.search("[,;\t]", self.header) else next(iter(self.lines), "")
        found = csv.reader(self.lines, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
        try:
            for number, cells in enumerate(bounded(found), start=1):
                plain = [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
                row = dict(zip(self.columns, plain, strict=False))
                where = f"{name} {number}" + (f" {short(row[label], 40)}" if label and row.get(label) else "")
                if missing := [column for column in needed if column not in row]:
                    reading.problems.append(f"{where}: the line is too short, {', '.join(missing)} missing")
                else:
                    yield where, row
        except csv.Error as error:
            reading.problems.append(f"malformed CSV: {error}")


def numbers_in(row: Mapping[str, str], columns: Iterable[str]) -> list[float | str]:
    """The numbers in these cells; other text unchanged, to be reported later."""
    return [_number(row[column]) for column in columns]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


FCSV = Format("slicer-fcsv", "text", recognises_fcsv, parse_fcsv)
TABLE = Format("slicer-table", "text", recognises_table, parse_table)
