"""Who annotated which case, when, and with how much work: ``annotation.csv`` in the dataset's folder."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
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
    """What the table says about a case.

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


class Journal:
    """The table, which is written anew after every change, with what others have written to it meanwhile."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: there is a table that cannot be read.
        """
        self._file = folder / FILE
        self._lock = Lock()  # guards the notes and the file
        self._notes: dict[str, Note] = {}
        self._version = ""  # of the file whose notes these are
        self._read_again()

    def look_again(self) -> None:
        """Takes what a spreadsheet or another server has written. While that cannot be read, the old notes stay."""
        with suppress(UserError), self._lock:
            self._read_again()

    def _read_again(self) -> None:
        version = file_version(self._file)
        if version != self._version:
            self._notes, self._version = {note.case: note for note in _read(self._file)}, version

    def note(self, case: str) -> Note:
        """What is known about a case."""
        return self._notes.get(case, Note(case))

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
                notes = {**self._notes, case: changed}
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_text(self._file, _as_text(notes.values()), durable=True)
                self._notes, self._version = notes, file_version(self._file)
        return changed


def _shown(text: str) -> str:
    """Without characters that are not for a table."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _as_text(notes: Any) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Note)], lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writeheader()
    for note in sorted(notes, key=lambda one: one.case):
        table.writerow({**asdict(note), "flagged": "yes" if note.flagged else "", "seconds": f"{note.seconds:.0f}"})
    return text.getvalue()


def _read(file: Path) -> list[Note]:
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:  # spreadsheets write a mark before the first name
            return [
                Note(
                    **{key: row[key] for key in ("case", "mark", "comment", "annotator", "saved")},
                    flagged=row["flagged"] == "yes",
                    prompts=int(row["prompts"]),
                    seconds=float(row["seconds"]),
                )
                for row in csv.DictReader(text)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: not the table of an annotation, or damaged ({error}): move it away") from error
