"""The card of the model that comes with the package says what it is, and how to make it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.starter import card_of
from nnsam3d.files import file_sha256
from nnsam3d.nnunet.datasets import STARTER, WEIGHTS

OPTIONS: dict[str, Any] = {"max_minutes": 62.0, "seed": 0}


def rows(text: str) -> list[list[str]]:
    """Of tables, without the last columns of wider ones."""
    found = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return [cells[:7] for cells in found if "then clicks" in cells[0] or "clicks only" in cells[0]]


def test_the_card_says_which_weights_and_what_they_have_reached(checkout: Path) -> None:
    card = (STARTER / "CARD.md").read_text(encoding="utf-8")
    plans = json.loads((STARTER / "plans.json").read_text())
    digests = re.findall(r"\b[0-9a-f]{64}\b", card)
    begun = plans["configurations"]["3d_fullres"]["nnsam3d_weights"]["sha256"]
    assert digests == [begun, file_sha256(STARTER / "fold_0" / WEIGHTS)]
    assert len(rows(card)) == 6
    measured = rows((checkout / "docs" / "starter.md").read_text(encoding="utf-8"))
    assert all(row in measured for row in rows(card))


@pytest.mark.parametrize(
    ("weights", "begun", "command"),
    [
        ("scratch", {}, "--minutes 62 --seed 0"),
        ("other.pth", {"sha256": "abc"}, "--minutes 62 --seed 0 --weights other.pth"),
        ("starter", {"sha256": "abc"}, "--minutes 62 --seed 0 --weights first.safetensors"),
    ],
)
def test_the_command_of_a_new_card_begins_with_the_same_weights(
    tmp_path: Path, weights: str, begun: dict[str, Any], command: str
) -> None:
    """The package's own, named by "starter", are replaced by those that the card describes."""
    (tmp_path / WEIGHTS).write_bytes(b"1")
    card = card_of(tmp_path / WEIGHTS, OPTIONS | {"weights": weights}, begun, 2350, "cpu")
    assert f'STARTER_ARGS="{command}"' in card
    assert ("git log" in card) is (weights == "starter")
    assert ("`abc`" in card) is bool(begun)


def test_targets_are_shown_next_to_what_was_measured(checkout: Path) -> None:
    """Missed ones in bold."""
    text = (checkout / "docs" / "starter.md").read_text(encoding="utf-8")
    measured = {cells[0].removesuffix(": clicks only"): cells[2:] for cells in rows(text) if "clicks only" in cells[0]}
    shown = re.findall(r"^\| ([^|]+) \|(.* / .*)\|$", text, re.MULTILINE)
    pairs = {name: re.findall(r"(\**)([\d.]+) / ([\d.]+)\**", cells) for name, cells in shown}
    assert len(pairs) == 4
    for name, cells in pairs.items():
        assert all((bold == "**") is (float(reached) < float(target)) for bold, reached, target in cells)
        if name in measured:
            one, _, three, five, ten = measured[name]
            assert [reached for _, reached, _ in cells] == [one, three, five, ten]
