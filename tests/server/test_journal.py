"""The table of an annotation."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsam3d.errors import UserError
from nnsam3d.server.journal import FILE, LONGEST, MARKS, Journal, Note
from nnsam3d.server.refusal import Refusal

OURS = [field.name for field in fields(Note)]
words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)


def table_of(folder: Path) -> list[list[str]]:
    with (folder / FILE).open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


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


def test_what_others_write_meanwhile_stays(tmp_path: Path) -> None:
    journal, server = Journal(tmp_path), Journal(tmp_path)
    journal.change("a", comment="one", prompts=3)
    server.change("b", flagged=True)  # another server
    file = tmp_path / FILE
    edited = file.read_text(encoding="utf-8").replace('"one"', '"two"').replace("\n", "\r\n")
    file.write_text("\ufeff" + edited, encoding="utf-8", newline="")  # as a spreadsheet does
    journal.change("a", mark="unsure")
    for one in (journal, Journal(tmp_path)):
        assert one.note("a") == Note("a", mark="unsure", comment="two", prompts=3)
        assert one.note("b") == Note("b", flagged=True)
    assert server.note("a").comment == "one"
    server.look_again()
    assert server.note("a") == journal.note("a")


def test_a_table_that_somebody_has_damaged_is_not_overwritten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.change("a", comment="one")
    (tmp_path / FILE).write_text("case;mark\na;\n")
    journal.look_again()
    assert journal.note("a").comment == "one"
    with pytest.raises(UserError, match="move it away"):
        journal.change("a", comment="two")
    assert (tmp_path / FILE).read_text() == "case;mark\na;\n"
    (tmp_path / FILE).unlink()
    journal.change("a", comment="three")
    assert Journal(tmp_path).note("a") == Note("a", comment="three")


def test_a_table_of_an_earlier_version_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("comment,case,prompts\nsmall,a,\n,b,4\n\n,,\n")
    journal = Journal(tmp_path)
    assert journal.note("a") == Note("a", comment="small")
    assert journal.note("b") == Note("b", prompts=4)
    journal.change("a", flagged=True)
    names, *rows = table_of(tmp_path)
    assert names == OURS
    assert [row[0] for row in rows] == ["a", "b"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words.filter(lambda name: name not in OURS), words), max_size=3), words)
def test_the_columns_of_others_stay_behind_ours(tmp_path: Path, others: list[tuple[str, str]], beside: str) -> None:
    names, cells = [name for name, _ in others], [cell for _, cell in others]
    with (tmp_path / FILE).open("w", encoding="utf-8", newline="") as text:
        # what stands beside the table has no name, and a row may be short
        csv.writer(text).writerows([[*names, "case"], [*cells, "a", beside], [*cells, "b"]])
    journal = Journal(tmp_path)
    for _ in range(2):
        journal.change("a", prompts=journal.note("a").prompts + 1)
    journal.change("c", prompts=9)
    empty = [""] * len(names)
    table = table_of(tmp_path)
    assert table[0][: len(OURS)] == OURS
    assert [row[0] for row in table] == ["case", "a", "b", "c"]
    assert [row[len(OURS) :] for row in table] == [[*names, ""], [*cells, beside], [*cells, ""], [*empty, ""]]
    assert Journal(tmp_path).note("a") == Note("a", prompts=2)


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
