"""What a model that learns remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.errors import UserError
from nnsam3d.learning.record import FILE, HELD_BACK, Record, Round, read_record

NOW = "2026-11-29T10:00:00+00:00"


@given(st.lists(st.sets(st.text(min_size=1, max_size=3)), max_size=5))
def test_no_case_ever_changes_sides(batches: list[set[str]]) -> None:
    record = Record("starter", "0")
    for batch in batches:
        before = record
        record = record.seen(sorted(batch))
        assert record.training[: len(before.training)] == before.training
        assert record.held_back[: len(before.held_back)] == before.held_back
        assert sorted(record.training + record.held_back) == sorted(record.order)
        assert len(record.held_back) == len(record.order) // HELD_BACK


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record("m", "1", ("a", "b"), (Round(NOW, 2, 3.5, 20, None, None, True, "2"),), grown=True)
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "none") is None
    old = json.loads((tmp_path / FILE).read_text())
    del old["rounds"][0]["best"]  # a field that files of earlier versions do not have
    (tmp_path / FILE).write_text(json.dumps(old))
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"begun_from": 1}', '{"rounds": [{"cases": 1}], "order": []}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=FILE):
        read_record(tmp_path)


def rounds(*values: tuple[float | None, float | None, float | None, bool]) -> tuple[Round, ...]:
    return tuple(Round(NOW, 3, 1, 1, before, after, accepted, "", base) for before, after, base, accepted in values)


def test_a_tuned_model_is_used_at_once_and_a_grown_one_when_it_is_as_good() -> None:
    assert not Record("m", "1").serves
    assert Record("m", "1", (), rounds((None, None, None, True))).serves
    for before, after, base, accepted, serves in (
        (None, None, None, True, False),
        (0.1, 0.5, 0.6, True, False),
        (0.1, 0.6, 0.6, True, True),
        (0.7, 0.2, 0.6, False, True),
        (0.5, 0.2, 0.6, False, False),
    ):
        made = Record("starter", "1", (), rounds((before, after, base, accepted)), grown=True)
        assert made.serves is serves


def test_sentences_say_what_happened() -> None:
    unchecked, better, worse = rounds((None, None, None, True), (0.5, 0.625, 0.4, True), (0.5, 0.25, None, False))
    assert "not checked" in unchecked.describe()
    assert better.describe() == (
        "learned from 3 cases: Dice of held-back cases 0.500 -> 0.625 (0.400 of the model that it began as)"
    )
    assert worse.describe() == "kept the old weights: Dice of held-back cases 0.500 -> 0.250"
    assert json.loads(json.dumps(better.__dict__)) == better.__dict__
