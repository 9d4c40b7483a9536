"""Who annotated which case, when, and with how much work: ``annotation.csv`` in the dataset's folder."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_text
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
    """The table, which is written anew after every change."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: there is a table that cannot be read.
        """
        self._file = folder / FILE
        self._lock = Lock()  # guards the notes and the file
        self._notes = {note.case: note for note in _read(self._file)}

    def note(self, case: str) -> Note:
        """What is known about a case."""
        return self._notes.get(case, Note(case))

    def change(self, case: str, **values: Any) -> Note:
        """Changes the note of a case.

        Args:
            values: fields of :class:`Note`.

        Raises:
            Refusal: an unknown mark, or a comment that is too long (400).
            WriteError: the table cannot be written.
        """
        if values.get("mark", "") not in MARKS:
            raise Refusal(400, f"unknown mark {values['mark']!r}; allowed: {', '.join(MARKS[1:])}, or none")
        for name in ("comment", "annotator"):
            if len(values.get(name, "")) > LONGEST:
                raise Refusal(400, f"the {name} has more than {LONGEST} characters")
        values = {key: _shown(value) if isinstance(value, str) else value for key, value in values.items()}
        with self._lock:
            changed = replace(self.note(case), **values)
            if changed != self.note(case):
                notes = {**self._notes, case: changed}
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_text(self._file, _as_text(notes.values()), durable=True)
                self._notes = notes
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
        with file.open(encoding="utf-8", newline="") as text:
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
