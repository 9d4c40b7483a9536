"""The table of an annotation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsam3d.errors import UserError
from nnsam3d.server.journal import FILE, LONGEST, MARKS, Journal, Note
from nnsam3d.server.refusal import Refusal

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words, words, st.booleans(), st.sampled_from(MARKS), st.integers(0, 10**6))
def test_whatever_is_written_is_read_again(
    tmp_path: Path, comment: str, annotator: str, flagged: bool, mark: str, prompts: int
) -> None:
    journal = Journal(tmp_path)
    journal.change("b", comment=comment, annotator=annotator, flagged=flagged, mark=mark, prompts=prompts)
    journal.change("a", seconds=3.0)
    again = Journal(tmp_path)
    assert (again.note("a"), again.note("b")) == (journal.note("a"), journal.note("b"))
    assert again.note("c") == Note("c")


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    Journal(tmp_path).change("a", comment='"so", he said', seconds=61.7)
    with (tmp_path / FILE).open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [(row["case"], row["comment"], row["seconds"]) for row in rows] == [("a", '"so", he said', "62")]


def test_wrong_notes_are_refused_and_change_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(Refusal, match="lost"):
        journal.change("a", mark="lost")
    with pytest.raises(Refusal, match="comment"):
        journal.change("a", comment="x" * (LONGEST + 1))
    assert journal.note("a") == Note("a")
    assert not (tmp_path / FILE).exists()


def test_a_damaged_table_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("name,what\na,b\n")
    with pytest.raises(UserError, match=FILE):
        Journal(tmp_path)
