"""Synthetic datasets: complete, resumable, refused where they would mix."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.errors import UserError
from nnsam3d.synthetic.dataset import Recipe, synthesize, write_preview

SMALL = Recipe(seed=4, size=(14, 16, 18))


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.nii.gz")}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "Dataset900_Shapes"


def test_a_dataset_is_complete(folder):
    assert synthesize(folder, 3, SMALL, jobs=1) == 3
    described = json.loads((folder / "dataset.json").read_text())
    assert described["numTraining"] == 3
    for number in range(3):
        image = sitk.ReadImage(str(folder / f"imagesTr/shapes_{number:05d}_0000.nii.gz"))
        labels = sitk.ReadImage(str(folder / f"labelsTr/shapes_{number:05d}.nii.gz"))
        assert image.GetSize() == labels.GetSize()
        assert image.GetSpacing() == labels.GetSpacing()
        assert image.GetOrigin() == labels.GetOrigin() != (0.0, 0.0, 0.0)
        case = SMALL.case(number)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), case.labels_ZYX)
        np.testing.assert_allclose(image.GetSpacing(), case.spacing_ZYX[::-1], rtol=1e-6)
        np.testing.assert_allclose(sitk.GetArrayFromImage(image), case.image_ZYX, atol=0.5)


def test_dataset_json_declares_every_label_and_what_lies_inside_what(folder):
    synthesize(folder, 1, SMALL, jobs=1)
    described = json.loads((folder / "dataset.json").read_text())
    values = sorted(described["labels"].values())
    assert values == list(range(len(values)))
    inside = {int(inner): outer for inner, outer in described["nnsam3d"]["inside"].items()}
    assert inside[33] == 3
    assert {*inside, *inside.values()} == {*values} - {0}


def test_processes_write_the_same_as_one(folder, tmp_path):
    synthesize(folder, 4, SMALL, jobs=1)
    other = tmp_path / "Dataset901_Shapes"
    synthesize(other, 4, SMALL, jobs=2)
    assert contents(folder) == contents(other)


def test_a_run_is_resumed_and_extended(folder):
    synthesize(folder, 3, SMALL, jobs=1)
    before = contents(folder)
    kept = folder / "labelsTr/shapes_00000.nii.gz"
    seen = kept.stat().st_mtime_ns
    (folder / "labelsTr/shapes_00001.nii.gz").unlink()  # as if stopped between image and labels
    left = folder / "labelsTr" / ".shapes_00001.nii.gz.1.abc.tmp"
    left.mkdir()
    assert synthesize(folder, 4, SMALL, jobs=1) == 2
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    assert kept.stat().st_mtime_ns == seen
    assert not left.exists()
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4


def test_other_content_is_refused(folder, tmp_path):
    synthesize(folder, 2, SMALL, jobs=1)
    with pytest.raises(UserError, match="seed 4, not 5"):
        synthesize(folder, 2, Recipe(seed=5, size=SMALL.size), jobs=1)
    with pytest.raises(UserError, match="has 2 cases already"):
        synthesize(folder, 1, SMALL, jobs=1)
    other = tmp_path / "Dataset512_Patients"
    other.mkdir()
    (other / "dataset.json").write_text('{"labels": {"background": 0}}')
    with pytest.raises(UserError, match="not of a dataset made by"):
        synthesize(other, 1, SMALL, jobs=1)
    (other / "dataset.json").unlink()
    (other / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no synthetic dataset"):
        synthesize(other, 1, SMALL, jobs=1)


def test_sizes_and_spacings():
    fixed = Recipe(size=(20, 30, 40), spacing=(3.0, 1.0, 2.0))
    for number in range(5):
        case = fixed.case(number)
        assert case.spacing_ZYX == (3.0, 1.0, 2.0)
        assert (np.abs(np.log(np.array(case.labels_ZYX.shape) / fixed.size)) < np.log(1.3)).all()
    drawn = [Recipe(size=(40, 40, 40)).case(number) for number in range(8)]
    assert len({case.spacing_ZYX for case in drawn}) == 8
    thickest = max(drawn, key=lambda case: case.spacing_ZYX[0] / case.spacing_ZYX[1])
    assert thickest.labels_ZYX.shape[0] < min(thickest.labels_ZYX.shape[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "Shapes"], "Dataset900_Shapes"),
        (["-o", "Dataset900_Shapes", "-n", "0"], "must be 1 or more"),
        (["-o", "Dataset900_Shapes", "--seed", "-1"], "zero or positive"),
        (["-o", "Dataset900_Shapes", "--size", "64", "4", "64"], "10 or more"),
        (["-o", "Dataset900_Shapes", "--spacing", "1", "0", "1"], "positive lengths in mm"),
        ([], "--preview"),
    ],
)
def test_the_command_says_what_to_do(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_is_asked_for(folder, capsys):
    small = ["--size", "14", "16", "18", "--seed", "4"]
    assert main(["synthesize", "-o", str(folder), "-n", "2", "--jobs", "1", *small]) == 0
    assert "2 of them written now" in capsys.readouterr().out
    assert len(contents(folder)) == 4


def test_the_picture_sheet_is_a_picture(tmp_path):
    write_preview(tmp_path / "sheet.png", SMALL, number=3)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
