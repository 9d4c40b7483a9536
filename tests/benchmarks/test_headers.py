"""The measurement of a folder's check, on a small one."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import headers, opening
from nnsam3d.inference.model import Model


def test_every_part_is_measured(tmp_path: Path) -> None:
    trained = opening.write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres")
    images = headers.write_cases(tmp_path / "images", 60)
    found = headers.measured(images, Model(trained, device=torch.device("cpu")))
    assert set(found) == {"read", "check", "part"}
    assert found["part"] < found["check"]  # 2 cases of 60
    assert headers._row(60, found)[0] == "60"
