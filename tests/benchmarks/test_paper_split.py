"""benchmarks/paper_split.py: one label, only cases that have it, and three parts that do not overlap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def test_a_task_is_made_of_a_dataset(checkout: Path, tmp_path: Path):
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    source = raw / "Dataset001_S"
    (source / "imagesTr").mkdir(parents=True)
    (source / "labelsTr").mkdir()
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(about))
    for number in range(9):
        array = np.zeros((3, 4, 5), np.uint8)
        array[0, 0, 0] = 1
        array[1, 1, 1] = 2 if number else 0  # case 0 has no tumour
        sitk.WriteImage(sitk.GetImageFromArray(array), str(source / "labelsTr" / f"c{number}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(array), str(source / "imagesTr" / f"c{number}_0000.nii.gz"))

    def split_off(target: str, val: int, test: int) -> str:
        script, sizes = checkout / "benchmarks/paper_split.py", ("--val", val, "--test", test)
        command = [script, source.name, target, "--label", "2", *sizes]
        environment = {"nnUNet_raw": str(raw), "nnUNet_preprocessed": str(preprocessed)}
        words = [sys.executable, *map(str, command)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "8 train, 0 validation, 0 test; 1 omitted" in split_off("Dataset702_All", 0, 0)
    assert not (preprocessed / "Dataset702_All").exists(), "nnU-Net makes its own folds"
    assert "3 train, 2 validation, 3 test; 1 omitted" in split_off("Dataset701_T", 2, 3)
    (split,) = json.loads((preprocessed / "Dataset701_T/splits_final.json").read_text())
    target = raw / "Dataset701_T"
    training = {path.name.removesuffix(".nii.gz") for path in (target / "labelsTr").iterdir()}
    tests = {path.name.removesuffix(".nii.gz") for path in (target / "labelsTs").iterdir()}
    assert set(split["train"]) | set(split["val"]) == training
    assert not training & tests
    assert training | tests == {f"c{number}" for number in range(1, 9)}
    assert {path.name for path in (target / "imagesTs").iterdir()} == {f"{case}_0000.nii.gz" for case in tests}
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(target / "labelsTr" / f"{min(training)}.nii.gz")))
    assert mask.sum() == mask[1, 1, 1] == 1
