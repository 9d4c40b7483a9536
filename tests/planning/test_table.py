"""`nnsam3d plan-table` and the files of facts it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnsam3d import cli
from nnsam3d.errors import UserError
from nnsam3d.planning import table
from nnsam3d.planning.facts import read_facts, shipped, shipped_facts, shipped_names, transposed

pytestmark = pytest.mark.usefixtures("quick_estimate")
GOOD = {
    "name": "Mine",
    "about": "made up",
    "modality": "MR",
    "spacing_mm": [1.0, 5.0, 0.8],
    "median_shape": [200, 30, 240],
    "channels": 3,
    "labels": 2,
    "cases": 40,
}


def test_a_line_for_every_dataset_and_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan-table"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    names = {facts.name for facts in shipped_facts()}
    assert len(names) == 10
    assert lines[0][:3] == ["dataset", "budget, GB", "backbone"]
    budgets = ("8", "12", "16", "24", "40", "80")
    assert {(line[0], line[1]) for line in lines[2:]} == {(name, budget) for name in names for budget in budgets}
    assert all(float(line[8]) <= float(line[1]) for line in lines[2:])


def test_own_facts_budgets_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(GOOD))
    facts = read_facts(file)
    assert (facts.spacing_DHW, facts.shape_DHW) == ((5.0, 1.0, 0.8), (30, 200, 240)), "thick slices first"
    assert (facts.channels, facts.heads, facts.click_labels) == (3, 3, 3)
    assert cli.main(["plan-table", "--fingerprint", str(file), "--budget", "24", "2", "--why"]) == 0
    said = capsys.readouterr().out
    assert said.index("| 2 ") < said.index("| 24 ")
    assert "Mine, 24 GB:\n- token stride (1, 4, 4)" in said


def test_shipped_datasets_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(shipped_names()) >= {"kits", "brats", "sts_pet"}
    assert cli.main(["plan-table", "--fingerprint", "kits", "sts_pet", "--budget", "24"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines if line] == ["KiTS", "STS PET"]


def test_an_impossible_budget_is_one_row_not_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan-table", "--fingerprint", "kits", "--budget", "0.01", "24"]) == 0
    said = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert cells[2][:3] == ["KiTS", "0.01", "–"]
    assert cells[3][1] == "24"
    assert float(cells[3][8]) <= 24
    assert "a budget of 0.01 GB is too small" in said
    assert cli.main(["plan-table", "--fingerprint", "kits", "--budget", "0.01"]) == 1
    assert cli.main(["plan-table", "--fingerprint", "kits", "--budget", "-3"]) == 1
    assert "must be a positive number" in capsys.readouterr().err


def test_nnunet_s_own_fingerprint_file_names_its_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "Dataset512_X" / "dataset_fingerprint.json"
    file.parent.mkdir()
    file.write_text("{}")
    asked = []
    monkeypatch.setattr(table, "_dataset_facts", lambda name: asked.append(name) or shipped("kits"))
    assert cli.main(["plan-table", "--fingerprint", str(file), "--budget", "24"]) == 0
    assert asked == ["Dataset512_X"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"chanels": 1}, "exactly the keys"),
        ({"channels": 0}, "channels must be"),
        ({"spacing_mm": [1.0, 1.0]}, "spacing_mm must be three numbers"),
        ({"spacing_mm": [1.0, 0.0, 1.0]}, "must be positive"),
        ({"median_shape": [1, 30, 30]}, "single slice"),
    ],
)
def test_wrong_facts(tmp_path: Path, edit: dict, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(GOOD | edit))
    with pytest.raises(UserError, match=message):
        read_facts(file)


def test_neither_file_nor_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan-table", "--fingerprint", str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert cli.main(["plan-table", "--fingerprint", "512"]) == 1
    assert "set nnUNet_raw and nnUNet_preprocessed" in capsys.readouterr().err


def test_transposition_is_nnunet_s() -> None:
    assert transposed("zyx", (1.0, 3.0, 1.0)) == ["y", "z", "x"]
    assert transposed("zyx", (1.0, 1.0, 1.0)) == ["z", "y", "x"]
    assert transposed("zyx", (1.0, 5.0, 5.0)) == ["y", "z", "x"]
