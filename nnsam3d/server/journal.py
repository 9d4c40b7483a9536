"""Who annotated which case, when, and with how much work: ``annotation.csv`` in the dataset's folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import file_version, write_text
from nnsam3d.server.refusal import Refusal

FILE = "annotation.csv"
MARKS = ("", "skipped", "unsure")
LONGEST = 2000  # characters of a comment


@dataclass(frozen=True)
class Note:
    """What the table says about a case: a column for every field. Only ``case`` has to be in a table that is read.

    Attributes:
        mark: "skipped", "unsure" or "".
        flagged: for somebody else to look at.
        annotator: who saved it last.
        prompts: when it was saved last.
        seconds: of work, summed over all visits; pauses of more than a minute count as a minute.
        saved: when, ISO 8601; "" if it has not been saved.
    """

    case: str
    mark: str = ""
    flagged: bool = False
    comment: str = ""
    annotator: str = ""
    prompts: int = 0
    seconds: float = 0.0
    saved: str = ""


COLUMNS = {one.name: type(one.default) if one.name != "case" else str for one in fields(Note)}
"""Our columns, in their order, and the types of their values."""


@dataclass(frozen=True)
class _Table:
    """What a file holds.

    Attributes:
        notes: by case.
        others: names of the columns that are not ours: of a person, or of a later version.
        cells: what these hold, by case.
    """

    notes: dict[str, Note] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    cells: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Journal:
    """The table, which is written anew after every change, with what others have written to it meanwhile."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: there is a table that cannot be read.
        """
        self._file = folder / FILE
        self._lock = Lock()  # guards the table and the file
        self._table = _Table()
        self._version = ""  # of the file whose table this is
        self._read_again()

    def look_again(self) -> None:
        """Takes what a spreadsheet or another server has written. While that cannot be read, the old notes stay."""
        with suppress(UserError), self._lock:
            self._read_again()

    def _read_again(self) -> None:
        version = file_version(self._file)
        if version != self._version:
            self._table, self._version = _read(self._file), version

    def note(self, case: str) -> Note:
        """What is known about a case."""
        return self._table.notes.get(case, Note(case))

    def change(self, case: str, **values: Any) -> Note:
        """Changes the note of a case.

        Args:
            values: fields of :class:`Note`.

        Raises:
            Refusal: an unknown mark, or a comment that is too long (400).
            UserError: somebody has written a table that cannot be read, which is left as it is.
            WriteError: the table cannot be written.
        """
        if values.get("mark", "") not in MARKS:
            raise Refusal(400, f"unknown mark {values['mark']!r}; allowed: {', '.join(MARKS[1:])}, or none")
        for name in ("comment", "annotator"):
            if len(values.get(name, "")) > LONGEST:
                raise Refusal(400, f"the {name} has more than {LONGEST} characters")
        values = {key: _shown(value) if isinstance(value, str) else value for key, value in values.items()}
        with self._lock:
            self._read_again()
            changed = replace(self.note(case), **values)
            if changed != self.note(case):
                table = replace(self._table, notes={**self._table.notes, case: changed})
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_text(self._file, _as_text(table), durable=True)
                self._table, self._version = table, file_version(self._file)
        return changed


def _shown(text: str) -> str:
    """Without characters that are not for a table."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _as_text(table: _Table) -> str:
    """Our columns, then the others."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    rows.writerow([*COLUMNS, *table.others])
    for case, note in sorted(table.notes.items()):
        others = table.cells.get(case, ("",) * len(table.others))
        rows.writerow([*(_cell(getattr(note, name)) for name in COLUMNS), *others])
    return text.getvalue()


def _cell(value: str | bool | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _read(file: Path) -> _Table:
    """Columns that are missing, and empty cells, have their defaults."""
    if not file.is_file():
        return _Table()
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:  # spreadsheets write a mark before the first name
            return _parsed(csv.reader(text))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: not the table of an annotation, or damaged ({error}): move it away") from error


def _parsed(lines: Iterable[list[str]]) -> _Table:
    """Raises ValueError: there is no column of cases, or a cell does not hold a number."""
    names, *rows = [line for line in lines if any(line)] or [["case"]]
    if "case" not in names:
        raise ValueError('no column "case"')
    width = max(map(len, (names, *rows)))  # notes beside the table have no name
    names = names + [""] * (width - len(names))
    ours = {name: names.index(name) for name in COLUMNS if name in names}
    others = [place for place in range(width) if place not in ours.values()]
    notes, cells = {}, {}
    for row in (row + [""] * (width - len(row)) for row in rows):
        given = {name: row[place] for name, place in ours.items() if row[place] or name == "case"}
        note = Note(**{name: _value(COLUMNS[name], cell) for name, cell in given.items()})
        notes[note.case], cells[note.case] = note, tuple(row[place] for place in others)
    return _Table(notes, tuple(names[place] for place in others), cells)


def _value(kind: type, cell: str) -> Any:
    return cell == "yes" if kind is bool else kind(cell)
