"""What is measured on finished cases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.inference.model import Model
from nnsam3d.learning import check
from nnsam3d.learning.check import clicked_through
from nnsam3d.learning.finished import finished_cases
from nnsam3d.nnunet.datasets import STARTER

from .test_learn import LABELS, write_dataset


def test_what_nobody_has_annotated_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in Dice nor as an error to click on."""
    dataset = write_dataset(tmp_path / "Dataset600_Clicked", 1, {**LABELS, "ignore": 3})
    file = dataset / "labelsTr" / "case_0.nii.gz"
    image = sitk.ReadImage(str(file))
    truth = sitk.GetArrayFromImage(image)
    truth[-5:] = 3
    ignored = sitk.GetImageFromArray(truth)
    ignored.CopyInformation(image)
    sitk.WriteImage(ignored, str(file))
    answer = np.where(truth == 3, 1, truth)

    class Answers:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def segment(self, _: Any) -> Any:
            return SimpleNamespace(label_map=answer)

    monkeypatch.setattr(check, "PreparedImage", Answers)
    model = Model(STARTER, None, objects=["core", "rim"])
    assert dict(clicked_through(model, finished_cases(dataset)["case_0"], 3)) == {0: {1: 1.0, 2: 1.0}}
